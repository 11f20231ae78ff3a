/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Each field of livedisk_migrate_options misused. */
#include "bed.h"
#include "check.h"

static struct livedisk_connection *connection;
static struct livedisk_migrate_options options;

static void refuses(const char *word)
{
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    CHECK_FAILS(error, LIVEDISK_ERR_INVALID_ARGUMENT, word,
                livedisk_migrate_disk(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options, &operation,
                                      &error));
    CHECK(operation == NULL);
}

static void refuses_values(int32_t *value, const char *word)
{
    static const int32_t unknown[] = {5, INT32_MAX, -1, INT32_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        *value = unknown[i];
        refuses(word);
    }
    *value = 0;
}

static void refuses_bits(uint32_t *flags, int first, const char *word)
{
    for (int bit = first; bit < 32; bit++) {
        *flags = UINT32_C(1) << bit;
        refuses(word);
    }
    *flags = 0;
}

static void refuses_string(const char **string, bool may_be_null, const char *word, const char *not_utf8)
{
    const char *whole = *string;
    *string = "\xff";
    refuses(not_utf8);
    *string = NULL;
    if (!may_be_null)
        refuses(word);
    *string = whole;
}

static int32_t never_called(const char *source, const char *destination, void *data)
{
    (void)source, (void)destination, (void)data;
    CHECK_FATAL("expected: a dry run clones nothing");
}

int main(void)
{
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    char *destination = bed_destination("never-made");
    connection = bed_open(0);
    options = (struct livedisk_migrate_options){.target = "vda", .destination = destination};

    refuses_string(&options.target, false, "options.target", "options.target is not UTF-8");
    refuses_string(&options.destination, false, "options.destination", "options.destination is not UTF-8");
    refuses_string(&options.format, true, "", "options.format is not UTF-8");
    refuses_values(&options.method, "options.method");
    refuses_values(&options.clone, "options.clone");
    refuses_bits(&options.flags, 6, "options.flags");
    refuses_bits(&options.reserved, 0, "options.reserved");
    options.clone = LIVEDISK_CLONE_CALLBACK;
    refuses("options.clone_callback");
    /* Snapshots know these, migrations do not. */
    options.clone = LIVEDISK_CLONE_AUTO;
    options.method = LIVEDISK_METHOD_BACKUP;
    refuses("MIRROR");
    options.method = LIVEDISK_METHOD_REBASE;
    refuses("MIRROR");

    options.method = LIVEDISK_METHOD_CLONE;
    options.clone = LIVEDISK_CLONE_CALLBACK;
    options.clone_callback = never_called;
    options.flags = LIVEDISK_MIGRATE_DRY_RUN;
    CHECK_OK(error, livedisk_migrate_disk(connection, bed_domain(GUEST_WITHOUT_AGENT), &options, sizeof options,
                                          &operation, &error));
    CHECK_OK(error, livedisk_finish(operation, 0, NULL, 0, &error));
    livedisk_operation_free(operation);
    CHECK(!bed_exists(destination));
    free(destination);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
