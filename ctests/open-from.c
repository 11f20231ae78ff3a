/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The program's own connection and event loop; livedisk takes a reference and gives it back. */
#include "bed.h"
#include "check.h"

#include <libvirt/libvirt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_bool stop;

static void *run_events(void *data)
{
    while (!atomic_load(&stop))
        CHECK(virEventRunDefaultImpl() == 0);
    return data;
}

static void tick(int timer, void *data)
{
    (void)timer;
    (void)data;
}

/* References of callbacks, and the connections that hang on them, go on the event loop's thread, a little later. */
static int settled_descriptors(void)
{
    int count, before;
    do {
        before = bed_descriptors();
        bed_sleep_ms(500);
        count = bed_descriptors();
    } while (count != before);
    return count;
}

static void snapshot(uint32_t flags)
{
    struct livedisk_error *error = NULL;
    struct livedisk_connection *connection = NULL;
    int before = settled_descriptors();
    virConnectPtr vir_connect = virConnectOpen(bed_env("URI"));
    CHECK(vir_connect != NULL);
    CHECK_OK(error, livedisk_open_from(vir_connect, flags, &connection, &error));
    /* 1: somebody else, who is livedisk, has a reference too. */
    CHECK_EQ(virConnectClose(vir_connect), 1);

    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, path, 0);
    livedisk_close(connection);
    int64_t acknowledged = bed_last_record(GUEST_WITHOUT_AGENT, "vda");
    struct livedisk_report report = {0};
    CHECK_OK(error, livedisk_finish(operation, -1, &report, sizeof report, &error));
    CHECK_EQ(report.consistency, LIVEDISK_CONSISTENCY_CRASH);
    livedisk_operation_free(operation);
    /* The last reference closes the socket. */
    CHECK_EQ(settled_descriptors(), before);

    bed_check_image(path, "qcow2", report.consistency, acknowledged);
    CHECK(unlink(path) == 0);
    free(path);
}

static void closed_at_once(uint32_t flags)
{
    struct livedisk_error *error = NULL;
    struct livedisk_connection *connection = NULL;
    virConnectPtr vir_connect = virConnectOpen(bed_env("URI"));
    CHECK(vir_connect != NULL);
    CHECK_OK(error, livedisk_open_from(vir_connect, flags, &connection, &error));
    livedisk_close(connection);
    CHECK_EQ(virConnectClose(vir_connect), 0);
}

int main(void)
{
    CHECK(virEventRegisterDefaultImpl() == 0);
    int timer = virEventAddTimeout(100, tick, NULL, NULL);
    CHECK(timer >= 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run_events, NULL) == 0);

    /* The first use of libvirt opens what lives as long as the process. */
    closed_at_once(LIVEDISK_OPEN_USE_EVENTS);
    closed_at_once(0);
    snapshot(LIVEDISK_OPEN_USE_EVENTS);
    snapshot(0);
    bed_check_clean(GUEST_WITHOUT_AGENT);

    atomic_store(&stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(virEventRemoveTimeout(timer) == 0);
    return 0;
}
