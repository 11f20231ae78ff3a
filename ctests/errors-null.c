/* SPDX-License-Identifier: LGPL-2.1-or-later
 * NULL for each pointer of each function. */
#include "bed.h"
#include "check.h"

#include <libvirt/libvirt.h>

static int somewhere;
#define UNTOUCHED ((void *)&somewhere)

static struct livedisk_error *error;
static struct livedisk_error **where;
static struct livedisk_connection *connection;
static struct livedisk_operation *operation;

/* With an error object, which names what is NULL, and without. `call` passes `where`. */
#define REFUSES_NULL(word, call)                                         \
    do {                                                                 \
        where = &error;                                                  \
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, word, call);   \
        where = NULL;                                                    \
        CHECK_EQ(call, LIVEDISK_ERR_INVALID_ARGUMENT);                   \
    } while (0)

static void connections(void)
{
    struct livedisk_connection *out = UNTOUCHED;
    virConnectPtr vir_connect = virConnectOpen(bed_env("URI"));
    CHECK(vir_connect != NULL);
    REFUSES_NULL("out", livedisk_open(bed_env("URI"), 0, NULL, where));
    REFUSES_NULL("out", livedisk_open_from(vir_connect, 0, NULL, where));
    REFUSES_NULL("vir_connect", livedisk_open_from(NULL, 0, &out, where));
    CHECK(out == UNTOUCHED);
    CHECK_EQ(virConnectClose(vir_connect), 0);

    CHECK(setenv("LIBVIRT_DEFAULT_URI", bed_env("URI"), 1) == 0);
    CHECK_OK(error, livedisk_open(NULL, 0, &out, NULL));
    livedisk_close(out);
    livedisk_close(NULL);
}

static void starts(void)
{
    char *destination = bed_destination("never-made");
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination}, whole = disk;
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    struct livedisk_operation *out = UNTOUCHED;
    const size_t size = sizeof options;
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);

    REFUSES_NULL("connection", livedisk_start_live_snapshot(NULL, domain, &options, size, &out, where));
    REFUSES_NULL("domain", livedisk_start_live_snapshot(connection, NULL, &options, size, &out, where));
    REFUSES_NULL("options", livedisk_start_live_snapshot(connection, domain, NULL, size, &out, where));
    REFUSES_NULL("options", livedisk_start_live_snapshot(connection, domain, NULL, 0, &out, where));
    REFUSES_NULL("out", livedisk_start_live_snapshot(connection, domain, &options, size, NULL, where));
    disk.target = NULL;
    REFUSES_NULL("disks[0].target", livedisk_start_live_snapshot(connection, domain, &options, size, &out, where));
    disk = whole;
    disk.destination = NULL;
    REFUSES_NULL("disks[0].destination",
                 livedisk_start_live_snapshot(connection, domain, &options, size, &out, where));
    disk = whole;
    options.clone = LIVEDISK_CLONE_CALLBACK;
    REFUSES_NULL("clone_callback", livedisk_start_live_snapshot(connection, domain, &options, size, &out, where));
    options.clone = LIVEDISK_CLONE_AUTO;
    options.disks = NULL;
    REFUSES_NULL("options.disks", livedisk_start_live_snapshot(connection, domain, &options, size, &out, where));

    struct livedisk_migrate_options move = {.target = "vda", .destination = destination};
    REFUSES_NULL("connection", livedisk_migrate_disk(NULL, domain, &move, sizeof move, &out, where));
    REFUSES_NULL("domain", livedisk_migrate_disk(connection, NULL, &move, sizeof move, &out, where));
    REFUSES_NULL("options", livedisk_migrate_disk(connection, domain, NULL, sizeof move, &out, where));
    REFUSES_NULL("out", livedisk_migrate_disk(connection, domain, &move, sizeof move, NULL, where));
    move.target = NULL;
    REFUSES_NULL("options.target", livedisk_migrate_disk(connection, domain, &move, sizeof move, &out, where));
    move = (struct livedisk_migrate_options){.target = "vda"};
    REFUSES_NULL("options.destination", livedisk_migrate_disk(connection, domain, &move, sizeof move, &out, where));

    REFUSES_NULL("connection", livedisk_attach(NULL, domain, "vda", &out, where));
    REFUSES_NULL("domain", livedisk_attach(connection, NULL, "vda", &out, where));
    REFUSES_NULL("target", livedisk_attach(connection, domain, NULL, &out, where));
    REFUSES_NULL("out", livedisk_attach(connection, domain, "vda", NULL, where));
    CHECK(out == UNTOUCHED);

    struct livedisk_recovery recovery;
    REFUSES_NULL("connection", livedisk_recover(NULL, domain, &recovery, sizeof recovery, where));
    REFUSES_NULL("recovery", livedisk_recover(connection, domain, NULL, sizeof recovery, where));
    CHECK(!bed_exists(destination));
    free(destination);
}

static void operations(void)
{
    struct livedisk_progress progress;
    struct livedisk_report report;
    REFUSES_NULL("operation", livedisk_poll(NULL, 0, &progress, sizeof progress, where));
    REFUSES_NULL("progress", livedisk_poll(operation, 0, NULL, sizeof progress, where));
    REFUSES_NULL("operation", livedisk_finish(NULL, 0, &report, sizeof report, where));
    REFUSES_NULL("report", livedisk_finish(operation, 0, NULL, sizeof report, where));
    REFUSES_NULL("operation", livedisk_cancel(NULL, where));
    CHECK_OK(error, livedisk_poll(operation, 0, NULL, 0, NULL));
    CHECK_OK(error, livedisk_finish(operation, 0, NULL, 0, NULL));
    CHECK_EQ(livedisk_operation_fd(NULL), -1);
    livedisk_operation_free(NULL);
}

int main(void)
{
    connections();
    connection = bed_open(0);
    operation = bed_start_dry(connection, GUEST_WITHOUT_AGENT);
    starts();
    operations();
    livedisk_operation_free(operation);
    livedisk_close(connection);

    CHECK_EQ(livedisk_error_code(NULL), LIVEDISK_OK);
    CHECK_EQ(livedisk_error_libvirt_code(NULL), 0);
    CHECK(strcmp(livedisk_error_message(NULL), "") == 0);
    livedisk_error_free(NULL);
    CHECK_OK(error, livedisk_set_log(NULL, LIVEDISK_LOG_LEVEL_TRACE, NULL, NULL));
    CHECK(livedisk_version() != NULL);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
