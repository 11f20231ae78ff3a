/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Somebody else's program: it is built against an installed livedisk and calls through it into libvirt's own test driver. */
#include <livedisk.h>
#include <stdio.h>

int main(void)
{
    struct livedisk_connection *connection = NULL;
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = "/never-made"};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    if (livedisk_open("test:///default", 0, &connection, &error) != LIVEDISK_OK) {
        fprintf(stderr, "%s\n", livedisk_error_message(error));
        return 1;
    }
    int32_t code =
        livedisk_start_live_snapshot(connection, "no-such-domain", &options, sizeof options, &operation, &error);
    printf("%s %d %s\n", livedisk_version(), (int)code, livedisk_error_message(error));
    livedisk_error_free(error);
    livedisk_close(connection);
    return code == LIVEDISK_ERR_NO_DOMAIN ? 0 : 1;
}
