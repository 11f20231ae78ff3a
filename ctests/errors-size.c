/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Structs that are shorter or longer than livedisk's own. */
#include "bed.h"
#include "check.h"

#include <sys/mman.h>
#include <unistd.h>

/* More than any struct of the header, and what a later header might append. */
enum { ROOM = 128, CANARY = 0xa5 };

/* The end of a page after which nothing may be read. */
static unsigned char *wall;

static void build_wall(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    wall = pages + page;
    CHECK(mprotect(wall, page, PROT_NONE) == 0);
}

/* The first `size` bytes of a struct, with zeros after its own end, up against the wall. */
static const void *cut(const void *whole, size_t whole_size, size_t size)
{
    memset(wall - size, 0, size);
    memcpy(wall - size, whole, size < whole_size ? size : whole_size);
    return wall - size;
}

/* Whether a struct of `size` bytes ends within a field that is set, so that zeros after it would change its value. */
static bool cuts_a_value(const void *whole, size_t whole_size, size_t size, const size_t *ends)
{
    size_t from = 0;
    for (; *ends != 0 && *ends <= size; ends++)
        from = *ends;
    for (size_t i = from; i < size && i < whole_size; i++) {
        if (((const unsigned char *)whole)[i] != 0)
            return true;
    }
    return false;
}

static void short_snapshot_options(struct livedisk_connection *connection)
{
    /* After the fields, where an older header may have ended. */
    static const size_t ends[] = {8, 16, 20, 24, 28, 32, 40, 48, 56, 60, 64, 72, 80, 88, 0};
    char *destination = bed_destination("never-made");
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    const char *domain = "no-such-domain";
    const size_t size = sizeof options;

    /* Nothing is asked for, so no disk is. */
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "no disk is named",
                livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITHOUT_AGENT), cut(&options, size, 0), 0,
                                             &operation, &error));
    for (size_t i = 1; i < size + ROOM; i++) {
        const void *short_or_long = cut(&options, size, i);
        if (cuts_a_value(&options, size, i, ends))
            CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "within a field",
                        livedisk_start_live_snapshot(connection, domain, short_or_long, i, &operation, &error));
        else
            CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, domain,
                        livedisk_start_live_snapshot(connection, domain, short_or_long, i, &operation, &error));
    }
    /* Half of disk_count, which is set. */
    CHECK(cuts_a_value(&options, size, 12, ends));
    for (size_t i = size; i < size + ROOM; i++) {
        cut(&options, size, size + ROOM);
        wall[(ptrdiff_t)(i - (size + ROOM))] = 1;
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "options",
                    livedisk_start_live_snapshot(connection, domain, (const void *)(wall - (size + ROOM)), size + ROOM,
                                                 &operation, &error));
    }
    CHECK(operation == NULL);

    /* Fields after the caller's size are zero, whatever stands there. */
    memset(&options.freeze_limit_ms, 0xff, size - offsetof(struct livedisk_snapshot_options, freeze_limit_ms));
    options.flags = LIVEDISK_SNAPSHOT_DRY_RUN;
    CHECK_OK(error,
             livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITHOUT_AGENT), &options,
                                          offsetof(struct livedisk_snapshot_options, freeze_limit_ms), &operation, &error));
    livedisk_operation_free(operation);
    free(destination);
}

static void short_migrate_options(struct livedisk_connection *connection)
{
    static const size_t ends[] = {8, 16, 24, 28, 32, 36, 40, 48, 56, 64, 0};
    char *destination = bed_destination("never-made");
    struct livedisk_migrate_options options = {.target = "vda", .destination = destination};
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    const size_t size = sizeof options;

    for (size_t i = 0; i < size + ROOM; i++) {
        int32_t result = livedisk_migrate_disk(connection, "no-such-domain", cut(&options, size, i), i, &operation, &error);
        /* Target and destination have to be there. */
        bool is_valid = i >= 16 && !cuts_a_value(&options, size, i, ends);
        CHECK_EQ(result == LIVEDISK_ERR_INVALID_ARGUMENT, !is_valid);
        livedisk_error_free(error);
        error = NULL;
    }
    cut(&options, size, size + 1);
    wall[-1] = 1;
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "options",
                livedisk_migrate_disk(connection, "no-such-domain", (const void *)(wall - (size + 1)), size + 1,
                                      &operation, &error));
    CHECK(operation == NULL);
    free(destination);
}

/* `buffer` was given for `size` bytes of a struct that is `whole`. */
static void check_output(const unsigned char *buffer, size_t size, const void *whole, size_t whole_size)
{
    size_t known = size < whole_size ? size : whole_size;
    CHECK(memcmp(buffer, whole, known) == 0);
    for (size_t i = known; i < ROOM; i++)
        CHECK_EQ(buffer[i], i < size ? 0 : CANARY);
}

static void outputs(struct livedisk_connection *connection)
{
    union {
        unsigned char bytes[ROOM];
        struct livedisk_progress progress;
        struct livedisk_report report;
        struct livedisk_recovery recovery;
    } room;
    struct livedisk_operation *operation = bed_start_dry(connection, GUEST_WITHOUT_AGENT);
    struct livedisk_error *error = NULL;
    struct livedisk_progress progress;
    struct livedisk_report report;
    static const struct livedisk_recovery nothing;
    CHECK_OK(error, livedisk_poll(operation, 0, &progress, sizeof progress, &error));
    CHECK_OK(error, livedisk_finish(operation, 0, &report, sizeof report, &error));
    for (size_t size = 0; size < ROOM; size++) {
        memset(&room, CANARY, sizeof room);
        CHECK_OK(error, livedisk_poll(operation, 0, &room.progress, size, &error));
        check_output(room.bytes, size, &progress, sizeof progress);
        memset(&room, CANARY, sizeof room);
        CHECK_OK(error, livedisk_finish(operation, 0, &room.report, size, &error));
        check_output(room.bytes, size, &report, sizeof report);
        memset(&room, CANARY, sizeof room);
        CHECK_OK(error, livedisk_recover(connection, bed_domain(GUEST_WITHOUT_AGENT), &room.recovery, size, &error));
        check_output(room.bytes, size, &nothing, sizeof nothing);
    }
    livedisk_operation_free(operation);

    /* A failure writes nothing. */
    memset(&room, CANARY, sizeof room);
    CHECK_EQ(livedisk_poll(NULL, 0, &room.progress, sizeof room, NULL), LIVEDISK_ERR_INVALID_ARGUMENT);
    CHECK_EQ(livedisk_finish(NULL, 0, &room.report, sizeof room, NULL), LIVEDISK_ERR_INVALID_ARGUMENT);
    CHECK_EQ(livedisk_recover(NULL, NULL, &room.recovery, sizeof room, NULL), LIVEDISK_ERR_INVALID_ARGUMENT);
    check_output(room.bytes, 0, "", 0);
}

int main(void)
{
    build_wall();
    struct livedisk_connection *connection = bed_open(0);
    short_snapshot_options(connection);
    short_migrate_options(connection);
    outputs(connection);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
