/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Listing operations and recovering with what is no domain, no function and no flag. */
#include "bed.h"
#include "check.h"

static int32_t never(const struct livedisk_operation_info *info, size_t size, void *data)
{
    (void)size;
    (void)data;
    CHECK_FATAL("received an operation on %s", info->domain);
}

int main(void)
{
    const char *domain = bed_domain(GUEST_WITHOUT_AGENT);
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_error *error = NULL;
    struct livedisk_recovery recovery;
    memset(&recovery, 0xa5, sizeof recovery);

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection",
                livedisk_list_operations(NULL, domain, never, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "each",
                livedisk_list_operations(connection, domain, NULL, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8",
                livedisk_list_operations(connection, "\xff", never, NULL, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody",
                livedisk_list_operations(connection, "nobody", never, NULL, &error));
    CHECK_EQ(livedisk_list_operations(connection, "nobody", never, NULL, NULL), LIVEDISK_ERR_NO_DOMAIN);

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection",
                livedisk_recover_flags(NULL, domain, 0, &recovery, sizeof recovery, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "recovery",
                livedisk_recover_flags(connection, domain, 0, NULL, sizeof recovery, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8",
                livedisk_recover_flags(connection, "\xff", 0, &recovery, sizeof recovery, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody",
                livedisk_recover_flags(connection, "nobody", LIVEDISK_RECOVER_DRY_RUN, &recovery, sizeof recovery, &error));
    for (int bit = 1; bit < 32; bit++)
        CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "flags",
                    livedisk_recover_flags(connection, domain, UINT32_C(1) << bit, &recovery, sizeof recovery, &error));
    for (size_t i = 0; i < sizeof recovery; i++)
        CHECK_EQ(((const unsigned char *)&recovery)[i], 0xa5);

    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
