/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Freezing and thawing what cannot be, or is no domain. */
#include "bed.h"
#include "check.h"

int main(void)
{
    const char *domain = bed_domain(GUEST_WITH_AGENT), *dumb = bed_domain(GUEST_WITHOUT_AGENT);
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_error *error = NULL;
    uint32_t count = 77;

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection", livedisk_freeze(NULL, domain, 0, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain", livedisk_freeze(connection, NULL, 0, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8", livedisk_freeze(connection, "\xff", 0, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody", livedisk_freeze(connection, "nobody", 0, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_AGENT, dumb, livedisk_freeze(connection, dumb, 0, &count, &error));
    CHECK_EQ(livedisk_freeze(connection, "nobody", 0, &count, NULL), LIVEDISK_ERR_NO_DOMAIN);

    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "connection", livedisk_thaw(NULL, domain, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "domain", livedisk_thaw(connection, NULL, &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, "UTF-8", livedisk_thaw(connection, "\xff", &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_DOMAIN, "nobody", livedisk_thaw(connection, "nobody", &count, &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_OPERATION, domain, livedisk_thaw(connection, domain, &count, &error));
    CHECK_EQ(livedisk_thaw(connection, domain, NULL, NULL), LIVEDISK_ERR_NO_OPERATION);
    CHECK_EQ(count, 77);

    livedisk_close(connection);
    bed_check_clean(GUEST_WITH_AGENT);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
