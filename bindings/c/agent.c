/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A management agent in small: takes a live snapshot of one disk of a running guest, shows its progress, and rolls
 * back on Ctrl-C.
 *
 *     agent URI DOMAIN DISK DESTINATION
 *     agent qemu:///system web1 vda /backup/web1.qcow2
 *
 * Exit status: 0 the image is complete, 1 it failed, 2 wrong usage, 130 cancelled. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <livedisk.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CANCELLED = 130 };

/* Reports an error and frees it: the caller owns it. */
static int failed(const char *what, struct livedisk_error *error)
{
    fprintf(stderr, "agent: %s: %s\n", what, livedisk_error_message(error));
    livedisk_error_free(error);
    return EXIT_FAILED;
}

static const char *phase_name(int32_t phase)
{
    switch (phase) {
    case LIVEDISK_PHASE_PREPARING: return "preparing";
    case LIVEDISK_PHASE_COPYING: return "copying";
    case LIVEDISK_PHASE_READY: return "ready";
    case LIVEDISK_PHASE_FINISHING: return "finishing";
    case LIVEDISK_PHASE_DONE: return "done";
    case LIVEDISK_PHASE_CANCELLED: return "cancelled";
    case LIVEDISK_PHASE_FAILED: return "failed";
    default: return "in a phase that this program does not know";
    }
}

static void show(const struct livedisk_progress *progress)
{
    printf("%s: step %" PRId32 " of %" PRId32 ", %" PRIu64 " of %" PRIu64 " MiB, %" PRIu64 " MiB/s\n",
           phase_name(progress->phase), progress->step, progress->step_count, progress->bytes_done >> 20,
           progress->bytes_total >> 20, progress->bytes_per_second >> 20);
    fflush(stdout);
}

static void show_report(const struct livedisk_report *report)
{
    const char *grade = report->consistency == LIVEDISK_CONSISTENCY_FILESYSTEM ? "file system" : "crash";
    printf("complete: %s-consistent as of %" PRId64 ".%09" PRId64 ", guest frozen for %.1f ms, %" PRIu64
           " MiB copied in %.1f s\n",
           grade, report->point_in_time_ns / 1000000000, report->point_in_time_ns % 1000000000,
           (double)report->freeze_ns / 1e6, report->bytes_copied >> 20, (double)report->elapsed_ns / 1e9);
}

/* Waits until the operation is ready or over, showing its progress. A signal cancels it. Returns an exit status. */
static int watch(struct livedisk_operation *operation, int signals)
{
    struct livedisk_error *error = NULL;
    struct livedisk_progress progress = {0};
    struct pollfd fds[] = {
        {.fd = livedisk_operation_fd(operation), .events = POLLIN}, /* the operation's own, not to be closed */
        {.fd = signals, .events = POLLIN},
    };
    while (progress.phase < LIVEDISK_PHASE_READY) {
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            perror("agent: poll");
            return EXIT_FAILED;
        }
        if (fds[1].revents != 0) {
            /* Returns when the guest is as it was before. */
            if (livedisk_cancel(operation, &error) != LIVEDISK_OK)
                return failed("cannot cancel", error);
            puts("cancelled");
            return EXIT_CANCELLED;
        }
        if (fds[0].revents != 0) {
            if (livedisk_poll(operation, 0, &progress, sizeof progress, &error) != LIVEDISK_OK)
                return failed("cannot poll", error);
            show(&progress);
        }
    }
    return EXIT_OK;
}

static int snapshot(struct livedisk_connection *connection, const char *domain, const char *disk,
                    const char *destination, int signals)
{
    /* Whatever is not named is zero, and zero is the default. Only borrowed: free to go when the start returns. */
    struct livedisk_snapshot_disk disks[] = {{.target = disk, .destination = destination}};
    struct livedisk_snapshot_options options = {
        .disks = disks,
        .disk_count = 1,
        .quiesce = LIVEDISK_QUIESCE_PREFER, /* REQUIRE: fail rather than be only crash-consistent */
    };
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    if (livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, &error) != LIVEDISK_OK)
        return failed("cannot start", error);

    /* From here on the operation is ours to free. */
    int status = watch(operation, signals);
    if (status == EXIT_OK) {
        /* Fixes the point in time: the guest is frozen for this moment only. Reports also why an operation failed. */
        struct livedisk_report report = {0};
        if (livedisk_finish(operation, -1, &report, sizeof report, &error) == LIVEDISK_OK)
            show_report(&report);
        else
            status = failed("cannot finish", error);
    } else if (status == EXIT_FAILED) {
        /* To free it alone would leave the copy running. */
        livedisk_cancel(operation, NULL);
    }
    livedisk_operation_free(operation);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "Usage: agent URI DOMAIN DISK DESTINATION\n");
        return EXIT_USAGE;
    }
    /* Before livedisk starts its threads, so that they block these signals too and only the descriptor gets them. */
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC);
    if (signals < 0) {
        perror("agent: signalfd");
        return EXIT_FAILED;
    }

    struct livedisk_connection *connection = NULL; /* ours from a successful open to the close */
    struct livedisk_error *error = NULL;           /* ours from a failed call to the free in failed() */
    int status;
    if (livedisk_open(argv[1], LIVEDISK_OPEN_RUN_EVENT_LOOP, &connection, &error) == LIVEDISK_OK) {
        status = snapshot(connection, argv[2], argv[3], argv[4], signals);
        livedisk_close(connection);
    } else {
        status = failed("cannot open", error);
    }
    close(signals);
    return status;
}
