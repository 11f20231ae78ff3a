/* SPDX-License-Identifier: LGPL-2.1-or-later
 * A freeze around somebody else's snapshots. */
#include "bed.h"
#include "check.h"

static int count;

static int32_t each(const struct livedisk_operation_info *info, size_t size, void *data)
{
    CHECK_EQ(size, sizeof *info);
    CHECK(strcmp(info->domain, data) == 0 && info->disk_count == 0 && info->is_migration == 0 && info->orphaned == 0);
    count++;
    return 0;
}

int main(void)
{
    const char *domain = bed_domain(GUEST_WITH_AGENT);
    struct livedisk_connection *connection = bed_open(0), *other = bed_open(0);
    struct livedisk_error *error = NULL;
    uint32_t frozen = 0, thawed = 0;

    CHECK_OK(error, livedisk_freeze(connection, domain, 60000, &frozen, &error));
    CHECK(frozen > 0);
    livedisk_close(connection);
    CHECK_OK(error, livedisk_list_operations(other, domain, each, (void *)domain, &error));
    CHECK_EQ(count, 1);
    CHECK_FAILS(error, LIVEDISK_ERR_BUSY, "freeze", livedisk_freeze(other, domain, 60000, &thawed, &error));
    CHECK_EQ(thawed, 0);
    CHECK_OK(error, livedisk_thaw(other, domain, &thawed, &error));
    CHECK_EQ(thawed, frozen);

    /* The limit passes. */
    CHECK_OK(error, livedisk_freeze(other, domain, 1000, NULL, &error));
    bed_sleep_ms(3000);
    thawed = 77;
    CHECK_FAILS(error, LIVEDISK_ERR_FREEZE, "not consistent", livedisk_thaw(other, domain, &thawed, &error));
    CHECK_EQ(thawed, 77);
    CHECK_OK(error, livedisk_freeze(other, domain, 0, NULL, &error));
    CHECK_OK(error, livedisk_thaw(other, domain, NULL, &error));

    livedisk_close(other);
    bed_check_clean(GUEST_WITH_AGENT);
    return 0;
}
