/* SPDX-License-Identifier: LGPL-2.1-or-later
 * An operation that was released is resumed and finished; another one is recovered. */
#include "bed.h"
#include "check.h"

int main(void)
{
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    char *destination = bed_destination("attached");
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1, .bandwidth = 4 << 20};
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_operation *operation = NULL;
    struct livedisk_recovery recovery;
    struct livedisk_report report;
    struct livedisk_error *error;

    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, "vda", livedisk_attach(connection, domain, "vda", &operation, &error));
    CHECK_EQ(livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, NULL), LIVEDISK_OK);
    struct livedisk_operation *second = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_BUSY, "process", livedisk_attach(connection, domain, "vda", &second, &error));
    CHECK_EQ(livedisk_recover(connection, domain, &recovery, sizeof recovery, NULL), LIVEDISK_OK);
    CHECK(recovery.domains == 0);
    livedisk_operation_free(operation);

    CHECK_EQ(livedisk_attach(connection, domain, "vda", &operation, NULL), LIVEDISK_OK);
    CHECK_EQ(livedisk_finish(operation, -1, &report, sizeof report, NULL), LIVEDISK_OK);
    CHECK(report.method == LIVEDISK_METHOD_MIRROR && report.bytes_copied > 0 && report.point_in_time_ns > 0);
    livedisk_operation_free(operation);
    CHECK(bed_exists(destination));
    CHECK_EQ(remove(destination), 0);

    CHECK_EQ(livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, NULL), LIVEDISK_OK);
    livedisk_operation_free(operation);
    CHECK_EQ(livedisk_recover(connection, NULL, &recovery, sizeof recovery, NULL), LIVEDISK_OK);
    CHECK(recovery.domains == 1 && recovery.taken_back == 1 && recovery.failed == 0 && recovery.completed == 0);
    CHECK(!bed_exists(destination));
    CHECK_EQ(livedisk_recover(connection, NULL, NULL, 0, NULL), LIVEDISK_OK);
    free(destination);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
