/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Names of phases, methods and errors, also of numbers that no livedisk knows. */
#include "bed.h"
#include "check.h"

#define IS(call, expected)                                                               \
    do {                                                                                 \
        const char *name_ = (call);                                                      \
        if (name_ == NULL || strcmp(name_, (expected)) != 0)                             \
            CHECK_FATAL("expected: %s is \"%s\"; it is \"%s\"", #call, expected, name_); \
    } while (0)

int main(void)
{
    const int32_t unknown[] = {INT32_MIN, -1000, 1000, INT32_MAX};
    IS(livedisk_phase_name(LIVEDISK_PHASE_PREPARING), "preparing");
    IS(livedisk_phase_name(LIVEDISK_PHASE_COPYING), "copying");
    IS(livedisk_phase_name(LIVEDISK_PHASE_FAILED), "failed");
    IS(livedisk_phase_name(LIVEDISK_PHASE_FAILED + 1), "unknown");
    IS(livedisk_method_name(LIVEDISK_METHOD_AUTO), "auto");
    IS(livedisk_method_name(LIVEDISK_METHOD_CLONE), "clone");
    IS(livedisk_method_name(LIVEDISK_METHOD_CLONE + 1), "unknown");
    IS(livedisk_error_name(LIVEDISK_OK), "OK");
    IS(livedisk_error_name(LIVEDISK_ERR_INVALID_ARGUMENT), "INVALID_ARGUMENT");
    IS(livedisk_error_name(LIVEDISK_ERR_NO_SPACE), "NO_SPACE");
    IS(livedisk_error_name(LIVEDISK_ERR_NO_CHECKPOINT), "NO_CHECKPOINT");
    IS(livedisk_error_name(LIVEDISK_ERR_NO_CHECKPOINT - 1), "unknown");
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        IS(livedisk_phase_name(unknown[i]), "unknown");
        IS(livedisk_method_name(unknown[i]), "unknown");
        IS(livedisk_error_name(unknown[i]), "unknown");
    }

    /* The number of this header is the version of this library. */
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", LIVEDISK_VERSION_NUMBER / 1000000,
             LIVEDISK_VERSION_NUMBER / 1000 % 1000, LIVEDISK_VERSION_NUMBER % 1000);
    IS(livedisk_version(), version);
    return 0;
}
