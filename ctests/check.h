/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Checks that say where they stand and what was expected, and end the program. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <livedisk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_FATAL(...)                                   \
    do {                                                   \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);    \
        fprintf(stderr, __VA_ARGS__);                      \
        fputc('\n', stderr);                               \
        exit(1);                                           \
    } while (0)

#define CHECK(condition)                                   \
    do {                                                   \
        if (!(condition))                                  \
            CHECK_FATAL("expected: %s", #condition);       \
    } while (0)

/* Integers. */
#define CHECK_EQ(actual, expected)                                                                    \
    do {                                                                                              \
        intmax_t actual_ = (intmax_t)(actual), expected_ = (intmax_t)(expected);                      \
        if (actual_ != expected_)                                                                     \
            CHECK_FATAL("expected: %s == %s, which is %jd; it is %jd", #actual, #expected, expected_, \
                        actual_);                                                                     \
    } while (0)

/* A call that succeeds; `error` is the variable whose address the call was given. */
#define CHECK_OK(error, call)                                                                     \
    do {                                                                                          \
        int32_t result_ = (call);                                                                 \
        if (result_ != LIVEDISK_OK)                                                               \
            CHECK_FATAL("expected success: %s; it says %d, %s", #call, (int)result_,              \
                        livedisk_error_message(error));                                           \
        CHECK((error) == NULL);                                                                   \
    } while (0)

/* A call that fails with `code` and an error object whose message has `word` in it. Frees the object. */
#define CHECK_FAILS(error, code, word, call)                                                               \
    do {                                                                                                   \
        (error) = NULL;                                                                                    \
        int32_t result_ = (call);                                                                          \
        const char *message_ = livedisk_error_message(error);                                              \
        if (result_ != (code) || (error) == NULL || livedisk_error_code(error) != (code) ||                \
            strstr(message_, (word)) == NULL)                                                              \
            CHECK_FATAL("expected: %s fails with %s (%d) and names '%s'; it says %d, '%s'", #call, #code,  \
                        (code), (word), (int)result_, message_);                                           \
        livedisk_error_free(error);                                                                        \
        (error) = NULL;                                                                                    \
    } while (0)

#endif
