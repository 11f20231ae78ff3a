/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A connection that is closed while operations are alive: they go on. */
#include "bed.h"
#include "check.h"

#include <unistd.h>

static void close_with_operations(uint32_t flags)
{
    struct livedisk_connection *connection = bed_open(flags);
    struct livedisk_error *error = NULL;
    char *finished = bed_destination("finished.qcow2"), *cancelled = bed_destination("cancelled.qcow2");
    struct livedisk_operation *first = bed_start(connection, GUEST_WITH_AGENT, finished, 0);
    struct livedisk_operation *second = bed_start(connection, GUEST_WITHOUT_AGENT, cancelled, 0);
    livedisk_close(connection);

    int64_t acknowledged = bed_last_record(GUEST_WITH_AGENT, "vda");
    struct livedisk_report report = {0};
    CHECK_OK(error, livedisk_finish(first, -1, &report, sizeof report, &error));
    CHECK_EQ(report.consistency, LIVEDISK_CONSISTENCY_FILESYSTEM);
    CHECK_OK(error, livedisk_cancel(second, &error));
    livedisk_operation_free(first);
    livedisk_operation_free(second);

    bed_check_image(finished, "qcow2", report.consistency, acknowledged);
    CHECK(unlink(finished) == 0);
    CHECK(!bed_exists(cancelled));
    free(finished);
    free(cancelled);
    bed_check_clean(GUEST_WITH_AGENT);
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

int main(void)
{
    close_with_operations(0);
    close_with_operations(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    return 0;
}
