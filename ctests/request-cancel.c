/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A cancel that does not wait; the phase and the descriptor show its end. */
#include "bed.h"
#include "check.h"

#include <poll.h>

int main(void)
{
    char *destination = bed_destination("not-wanted");
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_error *error = NULL;
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, destination, 1 << 20);
    struct livedisk_progress progress;

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "operation", livedisk_request_cancel(NULL, &error));
    CHECK_EQ(livedisk_request_cancel(NULL, NULL), LIVEDISK_ERR_INVALID_ARGUMENT);

    bed_await(operation, LIVEDISK_PHASE_COPYING);
    CHECK_OK(error, livedisk_request_cancel(operation, &error));
    CHECK_OK(error, livedisk_request_cancel(operation, &error));
    do {
        struct pollfd descriptor = {.fd = livedisk_operation_fd(operation), .events = POLLIN};
        CHECK_EQ(poll(&descriptor, 1, 60000), 1);
        CHECK_OK(error, livedisk_poll(operation, 0, &progress, sizeof progress, &error));
    } while (progress.phase < LIVEDISK_PHASE_DONE);
    CHECK_EQ(progress.phase, LIVEDISK_PHASE_CANCELLED);
    CHECK(!bed_exists(destination));
    CHECK_FAILS(error, LIVEDISK_ERR_CANCELLED, "cancelled", livedisk_finish(operation, 0, NULL, 0, &error));
    CHECK_OK(error, livedisk_request_cancel(operation, &error));
    CHECK_OK(error, livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);

    operation = bed_start_dry(connection, GUEST_WITHOUT_AGENT);
    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, "complete", livedisk_request_cancel(operation, &error));
    livedisk_operation_free(operation);
    free(destination);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
