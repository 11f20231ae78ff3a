/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Operations that are freed while they run: the guest is thawed, QEMU's job and the record stay, the program goes on. */
#include "bed.h"
#include "check.h"

#include <unistd.h>

static struct livedisk_connection *connection;

static bool is_busy(void)
{
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = "/no/such/directory/image"};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1, .flags = LIVEDISK_SNAPSHOT_DRY_RUN};
    struct livedisk_operation *operation = NULL;
    int32_t code = livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITH_AGENT), &options, sizeof options,
                                                &operation, NULL);
    CHECK(code == LIVEDISK_ERR_BUSY || code == LIVEDISK_ERR_DESTINATION);
    return code == LIVEDISK_ERR_BUSY;
}

/* The guest writes; what is left is cleaned up; whether it was rolled back. Else it had completed. */
static bool clean_up(char *path)
{
    struct livedisk_recovery recovery;
    struct livedisk_error *error = NULL;
    bed_check_writes(GUEST_WITH_AGENT);
    CHECK_OK(error, livedisk_recover(connection, bed_domain(GUEST_WITH_AGENT), &recovery, sizeof recovery, &error));
    CHECK(recovery.thawed == 0 && recovery.failed == 0);
    CHECK_EQ(bed_exists(path), recovery.taken_back == 0);
    unlink(path);
    free(path);
    CHECK(!is_busy());
    bed_check_clean(GUEST_WITH_AGENT);
    return recovery.taken_back == 1;
}

static void while_ready(void)
{
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
    bed_await(operation, LIVEDISK_PHASE_READY);
    livedisk_operation_free(operation);
    CHECK(bed_exists(path));
    CHECK(is_busy());
    CHECK(clean_up(path));
}

static void while_copying(void)
{
    char *path = bed_destination("vda.qcow2");
    livedisk_operation_free(bed_start(connection, GUEST_WITH_AGENT, path, 1 << 20));
    CHECK(clean_up(path));
}

/* As near to the freeze window as a program can get; several times, each a little later. */
static void while_finishing(void)
{
    for (long delay_ms = 0; delay_ms < 80; delay_ms += 20) {
        char *path = bed_destination("vda.qcow2");
        struct livedisk_operation *operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
        bed_await(operation, LIVEDISK_PHASE_READY);
        int32_t code = livedisk_finish(operation, 0, NULL, 0, NULL);
        CHECK_EQ(code, LIVEDISK_ERR_TIMEOUT);
        bed_sleep_ms(delay_ms);
        livedisk_operation_free(operation);
        clean_up(path);
    }
}

int main(void)
{
    connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    while_ready();
    while_copying();
    while_finishing();
    livedisk_close(connection);
    return 0;
}
