/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What this version of livedisk says UNSUPPORTED to. */
#include "bed.h"
#include "check.h"

static struct livedisk_connection *connection;
static struct livedisk_error *error;

static void snapshot(struct livedisk_snapshot_options options, const char *word)
{
    char *destination = bed_destination("never-made");
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_operation *operation = NULL;
    options.disks = &disk;
    options.disk_count = 1;
    CHECK_FAILS(error, LIVEDISK_ERR_UNSUPPORTED, word,
                livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options,
                                             &operation, &error));
    CHECK(operation == NULL && !bed_exists(destination));
    free(destination);
}

int main(void)
{
    connection = bed_open(0);
    snapshot((struct livedisk_snapshot_options){.method = LIVEDISK_METHOD_CLONE, .clone = LIVEDISK_CLONE_VOLUME}, "volumes");
    snapshot((struct livedisk_snapshot_options){.method = LIVEDISK_METHOD_MIRROR, .checkpoint = "c"}, "checkpoint");
    snapshot((struct livedisk_snapshot_options){.method = LIVEDISK_METHOD_CLONE, .since = "c"}, "since");
    snapshot((struct livedisk_snapshot_options){.method = LIVEDISK_METHOD_MIRROR, .flags = LIVEDISK_SNAPSHOT_COMPRESS}, "COMPRESS");
    snapshot((struct livedisk_snapshot_options){.flags = LIVEDISK_SNAPSHOT_COMPRESS | LIVEDISK_SNAPSHOT_SHALLOW}, "SHALLOW");
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
