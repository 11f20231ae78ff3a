/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Strings that are not UTF-8. */
#include "bed.h"
#include "check.h"

/* Latin-1, a surrogate, and a sequence that ends too early. */
static const char *const strings[] = {"caf\xe9", "\xed\xa0\x80", "a\xc3"};

int main(void)
{
    struct livedisk_connection *connection = bed_open(0), *other = NULL;
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);

    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const char *bad = strings[i];
        struct livedisk_snapshot_disk disk = {.target = "vda", .destination = "/nowhere"}, whole_disk = disk;
        struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1}, whole = options;
        struct livedisk_migrate_options move = {.target = "vda", .destination = bad};

#define SNAPSHOT_REFUSES(word, domain)                                                                               \
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, word " is not UTF-8",                                          \
                livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, &error));     \
    disk = whole_disk;                                                                                               \
    options = whole

        SNAPSHOT_REFUSES("domain", bad);
        disk.target = bad;
        SNAPSHOT_REFUSES("disks[0].target", domain);
        disk.destination = bad;
        SNAPSHOT_REFUSES("disks[0].destination", domain);
        disk.format = bad;
        SNAPSHOT_REFUSES("disks[0].format", domain);
        options.checkpoint = bad;
        SNAPSHOT_REFUSES("options.checkpoint", domain);
        options.since = bad;
        SNAPSHOT_REFUSES("options.since", domain);

        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "uri is not UTF-8", livedisk_open(bad, 0, &other, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "options.destination is not UTF-8",
                    livedisk_migrate_disk(connection, domain, &move, sizeof move, &operation, &error));
        move.target = bad;
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "options.target is not UTF-8",
                    livedisk_migrate_disk(connection, domain, &move, sizeof move, &operation, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain is not UTF-8",
                    livedisk_migrate_disk(connection, bad, &move, sizeof move, &operation, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain is not UTF-8",
                    livedisk_attach(connection, bad, "vda", &operation, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "target is not UTF-8",
                    livedisk_attach(connection, domain, bad, &operation, &error));
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain is not UTF-8",
                    livedisk_recover(connection, bad, NULL, 0, &error));
    }
    CHECK(operation == NULL && other == NULL);
    livedisk_close(connection);
    return 0;
}
