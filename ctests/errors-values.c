/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Unknown flags and values, and reserved fields that are set. */
#include "bed.h"
#include "check.h"

static struct livedisk_connection *connection;
static struct livedisk_snapshot_disk disk;
static struct livedisk_snapshot_options options;

static void refuses(const char *word)
{
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, word,
                livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options,
                                             &operation, &error));
    CHECK(operation == NULL);
}

/* Each bit from `first` up, alone. */
static void refuses_bits(uint32_t *flags, int first, const char *word)
{
    for (int bit = first; bit < 32; bit++) {
        *flags = UINT32_C(1) << bit;
        refuses(word);
    }
    *flags = 0;
}

static void refuses_values(int32_t *value, int32_t first, const char *word)
{
    const int32_t unknown[] = {first, INT32_MAX, -1, INT32_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        *value = unknown[i];
        refuses(word);
    }
    *value = 0;
}

static void open_flags(void)
{
    struct livedisk_connection *out = NULL;
    struct livedisk_error *error = NULL;
    for (int bit = 2; bit < 32; bit++) {
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "flags",
                    livedisk_open(bed_env("URI"), UINT32_C(1) << bit, &out, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "flags",
                    livedisk_open_from(connection, UINT32_C(1) << bit, &out, &error));
    }
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "USE_EVENTS",
                livedisk_open(bed_env("URI"), LIVEDISK_OPEN_RUN_EVENT_LOOP | LIVEDISK_OPEN_USE_EVENTS, &out, &error));
    CHECK(out == NULL);
}

static void timeouts(void)
{
    struct livedisk_operation *operation = bed_start_dry(connection, GUEST_WITHOUT_AGENT);
    struct livedisk_error *error = NULL;
    const int32_t unknown[] = {-2, INT32_MIN};
    for (size_t i = 0; i < 2; i++) {
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "timeout_ms",
                    livedisk_poll(operation, unknown[i], NULL, 0, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "timeout_ms",
                    livedisk_finish(operation, unknown[i], NULL, 0, &error));
    }
    livedisk_operation_free(operation);
}

static void log_levels(void)
{
    struct livedisk_error *error = NULL;
    const int32_t unknown[] = {-1, 5, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++)
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "level", livedisk_set_log(NULL, unknown[i], NULL, &error));
}

int main(void)
{
    char *destination = bed_destination("never-made");
    disk = (struct livedisk_snapshot_disk){.target = "vda", .destination = destination};
    options = (struct livedisk_snapshot_options){.disks = &disk, .disk_count = 1};
    connection = bed_open(0);

    open_flags();
    refuses_bits(&options.flags, 7, "options.flags");
    refuses_bits(&disk.flags, 2, "disks[0].flags");
    refuses_bits(&options.reserved, 0, "options.reserved");
    refuses_values(&options.method, 5, "options.method");
    refuses_values(&options.quiesce, 3, "options.quiesce");
    refuses_values(&options.clone, 5, "options.clone");
    for (size_t i = 0; i < 3; i++) {
        disk.reserved[i] = 1;
        refuses("disks[0].reserved");
        disk.reserved[i] = 0;
    }
    timeouts();
    log_levels();

    livedisk_close(connection);
    CHECK(!bed_exists(destination));
    free(destination);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
