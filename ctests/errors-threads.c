/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Cancel from another thread while one waits. */
#include "bed.h"
#include "check.h"

#include <pthread.h>

/* Slow enough that a copy of vda would take far longer than a cancel may. */
enum { SLOW = 1 << 20 };
#define PROMPT_NS INT64_C(10000000000)

static struct livedisk_connection *connection;

static void *wait_in_finish(void *operation)
{
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_CANCELLED, bed_domain(GUEST_WITH_AGENT),
                livedisk_finish(operation, -1, NULL, 0, &error));
    return NULL;
}

static void *wait_in_poll(void *operation)
{
    bed_await(operation, LIVEDISK_PHASE_CANCELLED);
    return NULL;
}

static void cancel_while(void *(*wait)(void *))
{
    struct livedisk_error *error = NULL;
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITH_AGENT, path, SLOW);
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, wait, operation) == 0);
    bed_sleep_ms(500);
    int64_t began = bed_monotonic_ns();
    CHECK_OK(error, livedisk_cancel(operation, &error));
    for (size_t i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(bed_monotonic_ns() - began < PROMPT_NS);
    CHECK(!bed_exists(path));
    livedisk_operation_free(operation);
    free(path);
    bed_check_clean(GUEST_WITH_AGENT);
}

static void *finish(void *operation)
{
    return (void *)(intptr_t)livedisk_finish(operation, -1, NULL, 0, NULL);
}

/* Whichever comes first, both sides agree on it, and the guest goes on. */
static void cancel_against_finish(void)
{
    for (long delay_ms = 0; delay_ms < 80; delay_ms += 20) {
        char *path = bed_destination("vda.qcow2");
        struct livedisk_operation *operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
        bed_await(operation, LIVEDISK_PHASE_READY);
        pthread_t thread;
        void *finished;
        CHECK(pthread_create(&thread, NULL, finish, operation) == 0);
        bed_sleep_ms(delay_ms);
        int32_t cancelled = livedisk_cancel(operation, NULL);
        CHECK(pthread_join(thread, &finished) == 0);
        if (cancelled == LIVEDISK_OK) {
            CHECK_EQ((intptr_t)finished, LIVEDISK_ERR_CANCELLED);
            CHECK(!bed_exists(path));
        } else {
            CHECK_EQ(cancelled, LIVEDISK_ERR_NO_OPERATION);
            CHECK_EQ((intptr_t)finished, LIVEDISK_OK);
            CHECK(remove(path) == 0);
        }
        livedisk_operation_free(operation);
        free(path);
        bed_check_clean(GUEST_WITH_AGENT);
    }
}

int main(void)
{
    connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    cancel_while(wait_in_finish);
    cancel_while(wait_in_poll);
    cancel_against_finish();
    livedisk_close(connection);
    return 0;
}
