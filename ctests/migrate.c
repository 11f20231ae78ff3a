/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Whole migrations, with the caller's own clone. */
#include "bed.h"
#include "check.h"

#include <fcntl.h>
#include <libvirt/libvirt.h>
#include <unistd.h>

static const char *const disk = "vda";

/* What the callback is given and asked to do. */
struct request {
    const char *destination;
    int32_t result;
    bool called;
};

static int32_t clone(const char *source, const char *destination, void *data)
{
    static char buffer[1 << 16];
    struct request *request = data;
    request->called = true;
    CHECK(strcmp(destination, request->destination) == 0);
    CHECK(bed_exists(source) && !bed_exists(destination));
    int from = open(source, O_RDONLY | O_CLOEXEC);
    int to = open(destination, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(from >= 0 && to >= 0);
    ssize_t length;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        CHECK(write(to, buffer, (size_t)length) == length);
    CHECK(length == 0 && close(from) == 0 && close(to) == 0);
    return request->result;
}

static struct livedisk_operation *start(struct livedisk_connection *connection, struct livedisk_migrate_options options)
{
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    options.target = disk;
    CHECK_OK(error, livedisk_migrate_disk(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options,
                                          &operation, &error));
    return operation;
}

static struct livedisk_migrate_options by_callback(struct request *request)
{
    return (struct livedisk_migrate_options){.destination = request->destination,
                                             .method = LIVEDISK_METHOD_CLONE,
                                             .clone = LIVEDISK_CLONE_CALLBACK,
                                             .flags = LIVEDISK_MIGRATE_VERIFY,
                                             .clone_callback = clone,
                                             .clone_data = request};
}

static void moves(struct livedisk_connection *connection, struct livedisk_migrate_options options, int32_t method)
{
    struct livedisk_error *error = NULL;
    struct livedisk_report report;
    int64_t began = bed_realtime_ns();
    struct livedisk_operation *operation = start(connection, options);
    if (!(options.flags & LIVEDISK_MIGRATE_AUTO_FINISH))
        bed_await(operation, LIVEDISK_PHASE_READY);
    CHECK_OK(error, livedisk_finish(operation, 60000, &report, sizeof report, &error));
    int64_t ended = bed_realtime_ns();
    CHECK_EQ(report.method, method);
    CHECK_EQ(report.disk_count, 1);
    CHECK_EQ(report.freeze_ns, 0);
    CHECK(report.point_in_time_ns >= began && report.point_in_time_ns <= ended);
    CHECK(report.elapsed_ns > 0 && (int64_t)report.elapsed_ns <= ended - began);
    /* It cannot be rolled back any more. */
    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, "", livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);
    CHECK(bed_exists(options.destination));
    bed_check_clean(GUEST_WITHOUT_AGENT);
}

/* The bed's directory as a storage pool, which it is not else. */
static void moves_by_volumes(struct livedisk_connection *connection, const char *destination)
{
    struct livedisk_migrate_options options = {.target = disk,
                                               .destination = destination,
                                               .clone = LIVEDISK_CLONE_VOLUME,
                                               .flags = LIVEDISK_MIGRATE_DELETE_SOURCE};
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    char xml[4096];
    CHECK_FAILS(error, LIVEDISK_ERR_UNSUPPORTED, "pool-create-as",
                livedisk_migrate_disk(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options, &operation,
                                      &error));
    CHECK(operation == NULL);
    virConnectPtr libvirt = virConnectOpen(bed_env("URI"));
    CHECK(libvirt != NULL);
    snprintf(xml, sizeof xml, "<pool type='dir'><name>ctests</name><target><path>%s</path></target></pool>",
             bed_env("DIR"));
    virStoragePoolPtr pool = virStoragePoolCreateXML(libvirt, xml, 0);
    CHECK(pool != NULL);
    moves(connection, options, LIVEDISK_METHOD_CLONE);
    CHECK(virStoragePoolDestroy(pool) == 0);
    virStoragePoolFree(pool);
    virConnectClose(libvirt);
}

int main(void)
{
    struct livedisk_error *error = NULL;
    struct livedisk_connection *connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    char *first = bed_destination("moved.qcow2"), *second = bed_destination("again.qcow2");
    char *third = bed_destination("mirrored.qcow2"), *fourth = bed_destination("volume.qcow2");
    char *never = bed_destination("never.qcow2");

    struct request request = {.destination = first};
    moves(connection, by_callback(&request), LIVEDISK_METHOD_CLONE);
    CHECK(request.called);

    /* It fails: everything as before. */
    request = (struct request){.destination = never, .result = 7};
    struct livedisk_operation *operation = start(connection, by_callback(&request));
    CHECK_FAILS(error, LIVEDISK_ERR_JOB_FAILED, never, livedisk_finish(operation, 60000, NULL, 0, &error));
    livedisk_operation_free(operation);
    CHECK(request.called && !bed_exists(never));
    bed_check_clean(GUEST_WITHOUT_AGENT);

    /* Rolled back at READY. */
    operation = start(connection, (struct livedisk_migrate_options){.destination = never});
    bed_await(operation, LIVEDISK_PHASE_READY);
    CHECK_OK(error, livedisk_cancel(operation, &error));
    bed_await(operation, LIVEDISK_PHASE_CANCELLED);
    livedisk_operation_free(operation);
    CHECK(!bed_exists(never));
    bed_check_clean(GUEST_WITHOUT_AGENT);

    moves(connection,
          (struct livedisk_migrate_options){
              .destination = second, .flags = LIVEDISK_MIGRATE_DELETE_SOURCE | LIVEDISK_MIGRATE_AUTO_FINISH},
          LIVEDISK_METHOD_CLONE);
    CHECK(!bed_exists(first));
    moves(connection,
          (struct livedisk_migrate_options){.destination = third,
                                            .format = "qcow2",
                                            .method = LIVEDISK_METHOD_MIRROR,
                                            .flags = LIVEDISK_MIGRATE_DELETE_SOURCE | LIVEDISK_MIGRATE_WRITE_BLOCKING},
          LIVEDISK_METHOD_MIRROR);
    CHECK(!bed_exists(second));
    moves_by_volumes(connection, fourth);
    CHECK(!bed_exists(third));
    free(first);
    free(second);
    free(third);
    free(fourth);
    free(never);
    livedisk_close(connection);
    return 0;
}
