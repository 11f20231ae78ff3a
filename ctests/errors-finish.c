/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Finish and cancel more than once, in the wrong order, and without time. */
#include "bed.h"
#include "check.h"

#include <unistd.h>

static struct livedisk_connection *connection;
static struct livedisk_error *error;

static void finish_twice_then_cancel(void)
{
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0);
    int64_t acknowledged = bed_last_record(GUEST_WITHOUT_AGENT, "vda");
    struct livedisk_report report = {0}, untouched = {0}, again;
    CHECK_FAILS(error, LIVEDISK_ERR_TIMEOUT, "finish",
                livedisk_finish(operation, 0, &report, sizeof report, &error));
    CHECK(memcmp(&report, &untouched, sizeof report) == 0);
    CHECK_OK(error, livedisk_finish(operation, -1, &report, sizeof report, &error));
    CHECK_EQ(report.consistency, LIVEDISK_CONSISTENCY_CRASH);
    CHECK_EQ(report.filesystems_frozen, 0);
    CHECK_EQ(report.freeze_ns, 0);

    CHECK_OK(error, livedisk_finish(operation, 0, &again, sizeof again, &error));
    CHECK(memcmp(&report, &again, sizeof report) == 0);
    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, "", livedisk_cancel(operation, &error));
    CHECK_OK(error, livedisk_finish(operation, -1, &again, sizeof again, &error));
    CHECK(memcmp(&report, &again, sizeof report) == 0);
    bed_await(operation, LIVEDISK_PHASE_DONE);
    livedisk_operation_free(operation);
    bed_check_image(path, "qcow2", report.consistency, acknowledged);
    CHECK(unlink(path) == 0);
    free(path);
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

static void cancel_then_finish(void)
{
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0);
    CHECK_OK(error, livedisk_cancel(operation, &error));
    CHECK_OK(error, livedisk_cancel(operation, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_CANCELLED, bed_domain(GUEST_WITHOUT_AGENT),
                livedisk_finish(operation, -1, NULL, 0, &error));
    bed_await(operation, LIVEDISK_PHASE_CANCELLED);
    CHECK(!bed_exists(path));
    livedisk_operation_free(operation);
    free(path);
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

static void cancel_when_ready(void)
{
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0), *second = NULL;
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = path};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    bed_await(operation, LIVEDISK_PHASE_READY);
    char *other = bed_destination("second.qcow2");
    disk.destination = other;
    CHECK_FAILS(error, LIVEDISK_ERR_BUSY, bed_domain(GUEST_WITHOUT_AGENT),
                livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options,
                                             &second, &error));
    CHECK(second == NULL && !bed_exists(other));
    CHECK_OK(error, livedisk_cancel(operation, &error));
    CHECK(!bed_exists(path));
    livedisk_operation_free(operation);
    free(other);
    free(path);
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

static void dry_run(void)
{
    struct livedisk_operation *operation = bed_start_dry(connection, GUEST_WITHOUT_AGENT);
    struct livedisk_report report = {0};
    bed_await(operation, LIVEDISK_PHASE_DONE);
    CHECK_OK(error, livedisk_finish(operation, 0, &report, sizeof report, &error));
    CHECK_EQ(report.point_in_time_ns, 0);
    CHECK_EQ(report.bytes_copied, 0);
    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, "", livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

int main(void)
{
    connection = bed_open(0);
    finish_twice_then_cancel();
    cancel_then_finish();
    cancel_when_ready();
    dry_run();
    livedisk_close(connection);
    return 0;
}
