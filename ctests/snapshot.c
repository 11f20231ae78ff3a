/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Whole snapshots of two disks, driven by epoll on livedisk_operation_fd(). */
#include "bed.h"
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

static void check_progress(const struct livedisk_progress *now, const struct livedisk_progress *before)
{
    if (now->phase < before->phase)
        CHECK_FATAL("expected: the phase never goes back; it went from %d to %d", before->phase, now->phase);
    CHECK(now->phase <= LIVEDISK_PHASE_DONE);
    CHECK(now->step >= before->step);
    CHECK(now->step <= now->step_count);
    CHECK_EQ(now->reserved, 0);
    CHECK(now->bytes_done >= before->bytes_done);
    CHECK(now->bytes_done <= now->bytes_total);
    CHECK(now->elapsed_ns >= before->elapsed_ns);
}

static void look_at_records(int64_t acknowledged[2])
{
    acknowledged[0] = bed_last_record(GUEST_WITH_AGENT, "vda");
    acknowledged[1] = bed_last_record(GUEST_WITH_AGENT, "vdb");
}

/* Goes through the phases up to DONE, and returns which it saw as bits. Finishes by itself if asked to, and looks
 * at the records just before. */
static unsigned drive(struct livedisk_operation *operation, bool finish, int64_t acknowledged[2])
{
    struct livedisk_error *error = NULL;
    struct livedisk_progress before = {0}, now = {0};
    unsigned seen = 0;
    int events = epoll_create1(EPOLL_CLOEXEC), fd = livedisk_operation_fd(operation);
    CHECK(events >= 0 && fd >= 0);
    CHECK(epoll_ctl(events, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN}) == 0);
    do {
        struct epoll_event event;
        int ready = epoll_wait(events, &event, 1, 60000);
        if (ready < 0 && errno == EINTR)
            continue;
        CHECK_EQ(ready, 1);
        CHECK_OK(error, livedisk_poll(operation, 0, &now, sizeof now, &error));
        check_progress(&now, &before);
        seen |= 1u << now.phase;
        if (now.phase == LIVEDISK_PHASE_READY && finish) {
            look_at_records(acknowledged);
            CHECK_FAILS(error, LIVEDISK_ERR_TIMEOUT, "", livedisk_finish(operation, 0, NULL, 0, &error));
            finish = false;
        }
        before = now;
    } while (now.phase != LIVEDISK_PHASE_DONE);
    CHECK_EQ(now.step, now.step_count);
    CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
    close(events);
    return seen;
}

static void snapshot(uint32_t open_flags, int32_t method, uint32_t flags)
{
    struct livedisk_error *error = NULL;
    char *paths[] = {bed_destination("vda.qcow2"), bed_destination("vdb.raw")};
    struct livedisk_snapshot_disk disks[] = {
        {.target = "vda", .destination = paths[0], .format = "qcow2"},
        {.target = "vdb", .destination = paths[1], .format = "raw"},
    };
    struct livedisk_snapshot_options options = {.disks = disks,
                                                .disk_count = 2,
                                                .method = method,
                                                .quiesce = LIVEDISK_QUIESCE_REQUIRE,
                                                .flags = flags,
                                                .bandwidth = 48 << 20};
    struct livedisk_connection *connection = bed_open(open_flags);
    struct livedisk_operation *operation = NULL;
    int64_t at_start[2], at_finish[2], began = bed_realtime_ns();
    look_at_records(at_start);
    CHECK_OK(error, livedisk_start_live_snapshot(connection, bed_domain(GUEST_WITH_AGENT), &options, sizeof options,
                                                 &operation, &error));
    bool finish = !(flags & LIVEDISK_SNAPSHOT_AUTO_FINISH);
    unsigned seen = drive(operation, finish, at_finish);
    CHECK(seen & 1u << LIVEDISK_PHASE_COPYING);
    if (finish)
        CHECK(seen & 1u << LIVEDISK_PHASE_READY);

    struct livedisk_report report = {0};
    CHECK_OK(error, livedisk_finish(operation, 0, &report, sizeof report, &error));
    int64_t ended = bed_realtime_ns();
    CHECK_EQ(report.method, method);
    CHECK_EQ(report.consistency, LIVEDISK_CONSISTENCY_FILESYSTEM);
    CHECK(report.filesystems_frozen > 0);
    CHECK_EQ(report.disk_count, 2);
    CHECK(report.point_in_time_ns >= began && report.point_in_time_ns <= ended);
    CHECK(report.freeze_ns > 0);
    CHECK_EQ(report.pause_ns, 0);
    /* A small backup may be over before anybody saw it run. */
    if (method == LIVEDISK_METHOD_MIRROR)
        CHECK(report.bytes_copied > 0);
    CHECK(report.elapsed_ns > report.freeze_ns && (int64_t)report.elapsed_ns <= ended - began);
    livedisk_operation_free(operation);
    livedisk_close(connection);

    for (size_t i = 0; i < 2; i++) {
        /* A mirror's content is that of the finish, a backup's that of the start. */
        const int64_t *at_least = finish && method == LIVEDISK_METHOD_MIRROR ? at_finish : at_start;
        bed_check_image(paths[i], disks[i].format, report.consistency, at_least[i]);
        CHECK(unlink(paths[i]) == 0);
        free(paths[i]);
    }
    bed_check_clean(GUEST_WITH_AGENT);
}

int main(void)
{
    snapshot(0, LIVEDISK_METHOD_MIRROR, 0);
    snapshot(LIVEDISK_OPEN_RUN_EVENT_LOOP, LIVEDISK_METHOD_MIRROR, 0);
    snapshot(LIVEDISK_OPEN_RUN_EVENT_LOOP, LIVEDISK_METHOD_BACKUP, 0);
    snapshot(LIVEDISK_OPEN_RUN_EVENT_LOOP, LIVEDISK_METHOD_MIRROR, LIVEDISK_SNAPSHOT_AUTO_FINISH);
    snapshot(0, LIVEDISK_METHOD_BACKUP, LIVEDISK_SNAPSHOT_AUTO_FINISH);
    return 0;
}
