/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The log callback: levels, replacement, and calls from within it. */
#include "bed.h"
#include "check.h"

struct seen {
    int32_t most;
    unsigned at[LIVEDISK_LOG_LEVEL_TRACE + 1];
    unsigned all;
};

static struct livedisk_connection *connection;
static struct livedisk_error *error;

static void count(int32_t level, const char *message, void *data)
{
    struct seen *seen = data;
    CHECK(level >= LIVEDISK_LOG_LEVEL_ERROR && level <= seen->most);
    CHECK(message[0] != '\0' && strchr(message, '\n') == NULL);
    seen->at[level]++;
    seen->all++;
}

static void set(void (*callback)(int32_t, const char *, void *), int32_t level, void *data)
{
    CHECK_OK(error, livedisk_set_log(callback, level, data, &error));
}

/* All levels: a dry run logs its plan, a cancelled operation a little of everything. */
static void work(void)
{
    char *path = bed_destination("vda.qcow2");
    livedisk_operation_free(bed_start_dry(connection, GUEST_WITHOUT_AGENT));
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0);
    CHECK_OK(error, livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);
    free(path);
}

static void levels(void)
{
    unsigned before = 0;
    for (int32_t level = LIVEDISK_LOG_LEVEL_ERROR; level <= LIVEDISK_LOG_LEVEL_TRACE; level++) {
        struct seen seen = {.most = level};
        set(count, level, &seen);
        work();
        set(NULL, level, NULL);
        if (level == LIVEDISK_LOG_LEVEL_INFO || level == LIVEDISK_LOG_LEVEL_DEBUG) {
            CHECK(seen.at[level] > 0);
            CHECK(seen.all > before);
        }
        before = seen.all;
    }
}

/* From the moment of the replacement on, in the middle of an operation, the first is never called again. */
static void replacement(void)
{
    struct seen first = {.most = LIVEDISK_LOG_LEVEL_TRACE}, second = first;
    char *path = bed_destination("vda.qcow2");
    set(count, LIVEDISK_LOG_LEVEL_TRACE, &first);
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0);
    set(count, LIVEDISK_LOG_LEVEL_TRACE, &second);
    unsigned heard = first.all;
    CHECK_OK(error, livedisk_cancel(operation, &error));
    CHECK_EQ(first.all, heard);
    CHECK(second.all > 0);
    set(NULL, LIVEDISK_LOG_LEVEL_TRACE, NULL);
    heard = second.all;
    work();
    CHECK_EQ(second.all, heard);
    livedisk_operation_free(operation);
    free(path);
}

static void call_back_in(int32_t level, const char *message, void *data)
{
    unsigned *calls = data;
    struct livedisk_error *inner = NULL;
    (void)level;
    (void)message;
    if ((*calls)++ > 0)
        return;
    CHECK_FAILS(inner, LIVEDISK_ERR_INVALID_ARGUMENT, "callback",
                livedisk_set_log(NULL, LIVEDISK_LOG_LEVEL_TRACE, NULL, &inner));
    livedisk_operation_free(bed_start_dry(connection, GUEST_WITHOUT_AGENT));
    CHECK_EQ(*calls, 1);
}

static void calls_from_within(void)
{
    unsigned calls = 0;
    set(call_back_in, LIVEDISK_LOG_LEVEL_TRACE, &calls);
    livedisk_operation_free(bed_start_dry(connection, GUEST_WITHOUT_AGENT));
    set(NULL, LIVEDISK_LOG_LEVEL_TRACE, NULL);
    CHECK(calls > 1);
}

int main(void)
{
    connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    levels();
    replacement();
    calls_from_within();
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
