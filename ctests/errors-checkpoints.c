/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Listing and deleting checkpoints with what is no domain, no function and no name. */
#include "bed.h"
#include "check.h"

static int32_t never(const struct livedisk_checkpoint *checkpoint, size_t size, void *data)
{
    (void)size;
    (void)data;
    CHECK_FATAL("received a checkpoint %s", checkpoint->name);
}

int main(void)
{
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_error *error = NULL;

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection",
                livedisk_list_checkpoints(NULL, domain, never, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain",
                livedisk_list_checkpoints(connection, NULL, never, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "each",
                livedisk_list_checkpoints(connection, domain, NULL, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8",
                livedisk_list_checkpoints(connection, "\xff", never, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody",
                livedisk_list_checkpoints(connection, "nobody", never, NULL, &error));
    CHECK_EQ(livedisk_list_checkpoints(connection, "nobody", never, NULL, NULL), LIVEDISK_ERR_NO_DOMAIN);

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection",
                livedisk_delete_checkpoint(NULL, domain, "first", &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain",
                livedisk_delete_checkpoint(connection, NULL, "first", &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "name", livedisk_delete_checkpoint(connection, domain, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8",
                livedisk_delete_checkpoint(connection, domain, "\xff", &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody", livedisk_delete_checkpoint(connection, "nobody", "first", &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_CHECKPOINT, "never", livedisk_delete_checkpoint(connection, domain, "never", &error));
    CHECK_EQ(livedisk_delete_checkpoint(connection, domain, "never", NULL), LIVEDISK_ERR_NO_CHECKPOINT);

    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
