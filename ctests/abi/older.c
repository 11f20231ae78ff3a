/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A program built with an older header (older/livedisk.h) runs with the library as it is. */
#include "../bed.h"
#include "../check.h"

#include <unistd.h>

enum { CANARY = 0xa5, BEHIND = 64 };

/* What an older program has after its structs. */
#define GUARDED(type)                 \
    struct {                          \
        struct type value;            \
        unsigned char behind[BEHIND]; \
    }
#define PREPARE(guarded) memset(&(guarded), CANARY, sizeof(guarded))

static void check_behind(const unsigned char *behind)
{
    for (int i = 0; i < BEHIND; i++)
        CHECK_EQ(behind[i], CANARY);
}

static void snapshot(struct livedisk_connection *connection)
{
    char *destination = bed_destination("older.qcow2");
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    GUARDED(livedisk_snapshot_options) options;
    GUARDED(livedisk_progress) progress;
    GUARDED(livedisk_report) report;
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    PREPARE(options);
    options.value = (struct livedisk_snapshot_options){.disks = &disk, .disk_count = 1, .bandwidth = 64 << 20};
    int64_t began = bed_realtime_ns(), at_least = bed_last_record(GUEST_WITH_AGENT, "vda");
    CHECK_OK(error, livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITH_AGENT), &options.value,
                                                 sizeof options.value, &operation, &error));
    do {
        PREPARE(progress);
        CHECK_OK(error, livedisk_poll(operation, -1, &progress.value, sizeof progress.value, &error));
        check_behind(progress.behind);
        CHECK(progress.value.phase <= LIVEDISK_PHASE_READY);
        CHECK(progress.value.bytes_done <= progress.value.bytes_total);
    } while (progress.value.phase != LIVEDISK_PHASE_READY);
    PREPARE(report);
    CHECK_OK(error, livedisk_finish(operation, 60000, &report.value, sizeof report.value, &error));
    check_behind(report.behind);
    CHECK_EQ(report.value.method, LIVEDISK_METHOD_MIRROR);
    CHECK_EQ(report.value.disk_count, 1);
    CHECK(report.value.point_in_time_ns > began && report.value.freeze_ns > 0);
    livedisk_operation_free(operation);
    bed_check_image(destination, "qcow2", report.value.consistency, at_least);
    CHECK(unlink(destination) == 0);
    free(destination);
}

static void migrate(struct livedisk_connection *connection)
{
    char *destination = bed_destination("older-moved.qcow2");
    GUARDED(livedisk_migrate_options) options;
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    PREPARE(options);
    options.value = (struct livedisk_migrate_options){.target = "vda", .destination = destination};
    CHECK_OK(error, livedisk_migrate_disk(connection, bed_domain(GUEST_WITHOUT_AGENT), &options.value,
                                          sizeof options.value, &operation, &error));
    bed_await(operation, LIVEDISK_PHASE_READY);
    CHECK_OK(error, livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);
    CHECK(!bed_exists(destination));
    free(destination);
}

/* What was released is resumed, released again, and resolved. */
static void recover(struct livedisk_connection *connection)
{
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    char *destination = bed_destination("older-left.qcow2");
    GUARDED(livedisk_recovery) recovery;
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    livedisk_operation_free(bed_start(connection, GUEST_WITHOUT_AGENT, destination, 1 << 20));
    CHECK_OK(error, livedisk_attach(connection, domain, "vda", &operation, &error));
    livedisk_operation_free(operation);
    PREPARE(recovery);
    CHECK_OK(error, livedisk_recover(connection, domain, &recovery.value, sizeof recovery.value, &error));
    check_behind(recovery.behind);
    CHECK_EQ(recovery.value.domains, 1);
    CHECK_EQ(recovery.value.thawed, 0);
    CHECK_EQ(recovery.value.completed, 0);
    CHECK_EQ(recovery.value.taken_back, 1);
    CHECK(!bed_exists(destination));
    free(destination);
}

int main(void)
{
    struct livedisk_connection *connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    snapshot(connection);
    migrate(connection);
    recover(connection);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITH_AGENT);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
