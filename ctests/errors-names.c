/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Things that do not exist, or exist already. */
#include "bed.h"
#include "check.h"

#include <libvirt/virterror.h>
#include <sys/stat.h>
#include <unistd.h>

static struct livedisk_connection *connection;

static void refuses(int guest, int32_t code, const char *word, struct livedisk_snapshot_options options)
{
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, code, word,
                livedisk_start_live_snapshot(connection, bed_domain(guest), &options, sizeof options, &operation, &error));
    CHECK(operation == NULL);
}

static void uris(void)
{
    struct livedisk_connection *out = NULL;
    struct livedisk_error *error = NULL;
    CHECK_EQ(livedisk_open("qemu+unix:///system?socket=/no/such/socket", 0, &out, &error), LIVEDISK_ERR_NO_CONNECTION);
    CHECK_EQ(livedisk_error_libvirt_code(error), VIR_ERR_SYSTEM_ERROR);
    CHECK(strstr(livedisk_error_message(error), "/no/such/socket") != NULL);
    livedisk_error_free(error);
    CHECK_FAILS(error, LIVEDISK_ERR_NO_CONNECTION, "nosuch:///", livedisk_open("nosuch:///", 0, &out, &error));
    CHECK(out == NULL);
}

static void domains(const char *destination)
{
    static const char *const unknown[] = {"no-such-domain", "", "5b4a1f6e-0000-4000-8000-000000000000"};
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    for (size_t i = 0; i < 3; i++)
        CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, unknown[i],
                    livedisk_start_live_snapshot(connection, unknown[i], &options, sizeof options, &operation, &error));
    CHECK(operation == NULL);
}

static void disks(const char *destination)
{
    struct livedisk_snapshot_disk twice[] = {{.target = "vda", .destination = destination},
                                             {.target = "vda", .destination = destination}};
    struct livedisk_snapshot_disk unknown = {.target = "vdz", .destination = destination};
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_NO_DISK, "vdz",
            (struct livedisk_snapshot_options){.disks = &unknown, .disk_count = 1});
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_INVALID_ARGUMENT, "vda",
            (struct livedisk_snapshot_options){.disks = twice, .disk_count = 2});
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_INVALID_ARGUMENT, "disk",
            (struct livedisk_snapshot_options){.disks = twice, .disk_count = 0});
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_AGENT, bed_domain(GUEST_WITHOUT_AGENT),
            (struct livedisk_snapshot_options){.disks = twice, .disk_count = 1, .quiesce = LIVEDISK_QUIESCE_REQUIRE});
}

static void destinations(const char *destination)
{
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    FILE *file = fopen(destination, "w");
    CHECK(file != NULL && fputs("mine", file) >= 0 && fclose(file) == 0);
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_DESTINATION, destination, options);
    struct stat status;
    CHECK(stat(destination, &status) == 0);
    CHECK_EQ(status.st_size, 4);
    CHECK(unlink(destination) == 0);

    disk.destination = bed_env("DIR");
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_DESTINATION, bed_env("DIR"), options);
    disk.destination = "/no/such/directory/image";
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_DESTINATION, "/no/such/directory", options);
    disk.destination = destination;
    disk.format = "vmdk";
    refuses(GUEST_WITHOUT_AGENT, LIVEDISK_ERR_UNSUPPORTED, "vmdk", options);
}

int main(void)
{
    char *destination = bed_destination("image.qcow2");
    connection = bed_open(0);
    uris();
    domains(destination);
    disks(destination);
    destinations(destination);
    livedisk_close(connection);
    CHECK(!bed_exists(destination));
    free(destination);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
