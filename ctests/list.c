/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Operations are listed while they run and after they were let go of, and a dry run of recover counts them. */
#include "bed.h"
#include "check.h"

#include <unistd.h>

struct found {
    const char *domain, *destination;
    int count;
    int32_t orphaned, answer;
    char id[64];
};

static int32_t each(const struct livedisk_operation_info *info, size_t size, void *data)
{
    struct found *found = data;
    char process[16], host[256];
    snprintf(process, sizeof process, "%d", (int)getpid());
    CHECK(gethostname(host, sizeof host) == 0);
    CHECK_EQ(size, sizeof *info);
    CHECK(strcmp(info->domain, found->domain) == 0);
    CHECK(strcmp(info->owner_process, process) == 0 && strcmp(info->owner_host, host) == 0);
    CHECK_EQ(info->disk_count, 1);
    CHECK(strcmp(info->targets[0], "vda") == 0 && strcmp(info->destinations[0], found->destination) == 0);
    CHECK_EQ(info->is_migration, 0);
    CHECK_EQ(info->method, LIVEDISK_METHOD_MIRROR);
    CHECK(info->started_ns <= bed_realtime_ns() && info->started_ns > bed_realtime_ns() - INT64_C(300000000000));
    CHECK(info->bytes_total > 0 && info->bytes_done <= info->bytes_total);
    CHECK(strlen(info->id) > 0 && strlen(info->id) < sizeof found->id);
    CHECK(found->id[0] == 0 || strcmp(found->id, info->id) == 0);
    strcpy(found->id, info->id);
    found->orphaned = info->orphaned;
    found->count++;
    return found->answer;
}

int main(void)
{
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    char *destination = bed_destination("listed");
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_recovery recovery;
    struct livedisk_error *error = NULL;
    struct found found = {.domain = domain, .destination = destination};

    CHECK_OK(error, livedisk_list_operations(connection, NULL, each, &found, &error));
    CHECK_EQ(found.count, 0);

    struct livedisk_operation *operation = bed_start(connection, GUEST_WITHOUT_AGENT, destination, 1 << 20);
    /* The phase begins before the job does. */
    struct livedisk_progress progress = {0};
    while (progress.bytes_total == 0)
        CHECK_OK(error, livedisk_poll(operation, -1, &progress, sizeof progress, &error));
    CHECK_OK(error, livedisk_list_operations(connection, domain, each, &found, &error));
    CHECK(found.count == 1 && found.orphaned == 0);
    CHECK_OK(error, livedisk_list_operations(connection, NULL, each, &found, &error));
    CHECK_EQ(found.count, 2);
    CHECK_OK(error, livedisk_list_operations(connection, bed_domain(GUEST_WITH_AGENT), each, &found, &error));
    CHECK_EQ(found.count, 2);
    found.answer = -7;
    CHECK_FAILS(error, LIVEDISK_ERR_CANCELLED, "callback", livedisk_list_operations(connection, NULL, each, &found, &error));
    CHECK_EQ(found.count, 3);
    found.answer = 0;
    CHECK_OK(error, livedisk_recover_flags(connection, domain, LIVEDISK_RECOVER_DRY_RUN, &recovery, sizeof recovery, &error));
    CHECK_EQ(recovery.domains, 0);

    livedisk_operation_free(operation);
    CHECK_OK(error, livedisk_list_operations(connection, domain, each, &found, &error));
    CHECK(found.count == 4 && found.orphaned == 1);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(error, livedisk_recover_flags(connection, i ? NULL : domain, LIVEDISK_RECOVER_DRY_RUN, &recovery,
                                               sizeof recovery, &error));
        CHECK(recovery.domains == 1 && recovery.taken_back == 1 && recovery.completed == 0 && recovery.failed == 0);
        CHECK_EQ(recovery.thawed, 0);
    }
    CHECK_OK(error, livedisk_recover_flags(connection, domain, 0, &recovery, sizeof recovery, &error));
    CHECK(recovery.domains == 1 && recovery.taken_back == 1 && recovery.failed == 0);
    CHECK(!bed_exists(destination));
    CHECK_OK(error, livedisk_list_operations(connection, domain, each, &found, &error));
    CHECK_EQ(found.count, 4);

    free(destination);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
