/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A forked child: the parent's handles are not its own, and it opens a connection only where libvirt cannot hang. */
#include "bed.h"
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

/* In the child they are neither used nor freed, and stay reachable. */
static struct livedisk_connection *connection;
static struct livedisk_operation *operation;

/* Runs `work` in a child, which may take no longer than a hang is worth. */
static void in_child(void (*work)(void))
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        work();
        /* What only the parent's threads knew of is lost here, and no leak of this program's. */
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

static void during_an_operation(void)
{
    static struct livedisk_connection *own;
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "forked", livedisk_poll(operation, -1, NULL, 0, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "forked", livedisk_finish(operation, -1, NULL, 0, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "forked", livedisk_cancel(operation, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "forked", livedisk_request_cancel(operation, &error));
    CHECK_EQ(livedisk_operation_fd(operation), -1);
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "forked", livedisk_recover(connection, NULL, NULL, 0, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_UNSUPPORTED, "forked", livedisk_open(bed_env("URI"), 0, &own, &error));
    CHECK(own == NULL);
    livedisk_operation_free(operation);
    livedisk_close(connection);
}

static void at_rest(void)
{
    struct livedisk_connection *own = NULL;
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_UNSUPPORTED, "event loop",
                livedisk_open(bed_env("URI"), LIVEDISK_OPEN_RUN_EVENT_LOOP, &own, &error));
    CHECK_OK(error, livedisk_open(bed_env("URI"), 0, &own, &error));
    CHECK_OK(error, livedisk_recover(own, NULL, NULL, 0, &error));
    livedisk_close(own);
}

int main(void)
{
    char *destination = bed_destination("forked");
    struct livedisk_error *error = NULL;
    connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    operation = bed_start(connection, GUEST_WITHOUT_AGENT, destination, 1 << 20);
    bed_await(operation, LIVEDISK_PHASE_COPYING);
    in_child(during_an_operation);
    /* What the child did is nothing to the parent. */
    CHECK_OK(error, livedisk_cancel(operation, &error));
    livedisk_operation_free(operation);
    in_child(at_rest);
    CHECK_OK(error, livedisk_recover(connection, NULL, NULL, 0, &error));
    livedisk_close(connection);
    free(destination);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
