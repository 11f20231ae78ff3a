/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What livedisk leaves alone: signals, working directory, umask, stdout and stderr, and the table of descriptors. */
#include "bed.h"
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

/* As Linux counts them, SIGRTMAX included. */
enum { SIGNALS = 65 };

struct state {
    struct sigaction actions[SIGNALS];
    sigset_t mask;
    mode_t umask;
    char directory[4096];
};

static void look(struct state *state)
{
    memset(state, 0, sizeof *state);
    for (int i = 1; i < SIGNALS; i++)
        sigaction(i, NULL, &state->actions[i]);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &state->mask) == 0);
    state->umask = umask(0);
    umask(state->umask);
    CHECK(getcwd(state->directory, sizeof state->directory) != NULL);
}

static void check_same(const struct state *before)
{
    struct state now;
    look(&now);
    for (int i = 1; i < SIGNALS; i++) {
        if (now.actions[i].sa_handler != before->actions[i].sa_handler ||
            now.actions[i].sa_flags != before->actions[i].sa_flags)
            CHECK_FATAL("expected: the disposition of signal %d is as before", i);
        CHECK_EQ(sigismember(&now.mask, i), sigismember(&before->mask, i));
    }
    CHECK_EQ(now.umask, before->umask);
    CHECK(strcmp(now.directory, before->directory) == 0);
}

static void failures(struct livedisk_connection *connection)
{
    struct livedisk_snapshot_disk disk = {.target = "vdz", .destination = "/no/such/directory/image"};
    struct livedisk_snapshot_options options = {.disks = &disk, .disk_count = 1};
    struct livedisk_connection *other = NULL;
    struct livedisk_operation *operation = NULL;
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    CHECK(livedisk_open("qemu+unix:///system?socket=/no/such/socket", 0, &other, NULL) < 0);
    CHECK(livedisk_open("nosuch:///", 0, &other, NULL) < 0);
    CHECK(livedisk_start_live_snapshot(connection, "none", &options, sizeof options, &operation, NULL) < 0);
    CHECK(livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, NULL) < 0);
    disk.target = "vda";
    CHECK(livedisk_start_live_snapshot(connection, domain, &options, sizeof options, &operation, NULL) < 0);
}

static void operations(struct livedisk_connection *connection)
{
    struct livedisk_error *error = NULL;
    char *path = bed_destination("vda.qcow2");
    struct livedisk_operation *operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
    CHECK_OK(error, livedisk_finish(operation, -1, NULL, 0, &error));
    livedisk_operation_free(operation);
    CHECK(unlink(path) == 0);

    operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
    bed_await(operation, LIVEDISK_PHASE_READY);
    CHECK_OK(error, livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);

    /* The job is ended under the operation's feet. */
    operation = bed_start(connection, GUEST_WITH_AGENT, path, 0);
    bed_await(operation, LIVEDISK_PHASE_READY);
    bed_end_operation(GUEST_WITH_AGENT, "vda");
    CHECK(livedisk_finish(operation, -1, NULL, 0, NULL) < 0);
    bed_await(operation, LIVEDISK_PHASE_FAILED);
    livedisk_operation_free(operation);
    unlink(path);
    free(path);
}

static void everything(uint32_t flags)
{
    struct livedisk_connection *connection = bed_open(flags);
    failures(connection);
    operations(connection);
    livedisk_close(connection);
}

static int kept[2], output;

static void redirect(const char *path)
{
    output = open(path, O_CREAT | O_EXCL | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
    kept[0] = dup(STDOUT_FILENO);
    kept[1] = dup(STDERR_FILENO);
    CHECK(output >= 0 && kept[0] >= 0 && kept[1] >= 0);
    CHECK(dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0);
}

/* Returns what was written meanwhile: nothing, or why a check failed. */
static void restore(void)
{
    char text[4096];
    dup2(kept[0], STDOUT_FILENO);
    dup2(kept[1], STDERR_FILENO);
    ssize_t length = pread(output, text, sizeof text, 0);
    if (length > 0)
        fprintf(stderr, "expected: nothing is written to stdout and stderr; it was: %.*s\n", (int)length, text);
}

int main(void)
{
    struct state before;
    char *path = bed_destination("output");
    CHECK(chdir("/") == 0);
    umask(027);
    look(&before);

    redirect(path);
    CHECK(atexit(restore) == 0);
    /* The first use of libvirt opens what lives as long as the process. */
    everything(0);
    int count = bed_descriptors();
    everything(0);
    CHECK_EQ(bed_descriptors(), count);
    everything(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    check_same(&before);
    CHECK_EQ(lseek(output, 0, SEEK_END), 0);
    CHECK(unlink(path) == 0);
    free(path);
    bed_check_clean(GUEST_WITH_AGENT);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
