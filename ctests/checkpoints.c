/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Checkpoints are listed, parents first, and deleted. */
#include "bed.h"
#include "check.h"

#include <libvirt/libvirt.h>

struct found {
    int count;
    int32_t answer;
    const char *names[2];
};

static int32_t each(const struct livedisk_checkpoint *checkpoint, size_t size, void *data)
{
    struct found *found = data;
    CHECK_EQ(size, sizeof *checkpoint);
    CHECK(found->count < 2 && strcmp(checkpoint->name, found->names[found->count]) == 0);
    if (found->count == 0)
        CHECK(checkpoint->parent == NULL);
    else
        CHECK(strcmp(checkpoint->parent, found->names[0]) == 0);
    CHECK(checkpoint->created_ns <= bed_realtime_ns());
    CHECK(checkpoint->created_ns > bed_realtime_ns() - INT64_C(300000000000));
    CHECK(checkpoint->usable == 1 && checkpoint->why_not == NULL);
    CHECK_EQ(checkpoint->disk_count, 1);
    CHECK(checkpoint->changed_bytes % 65536 == 0);
    found->count++;
    return found->answer;
}

static void create(virDomainPtr domain, const char *name)
{
    char xml[256];
    snprintf(xml, sizeof xml, "<domaincheckpoint><name>%s</name><disks><disk name='vda'/></disks></domaincheckpoint>", name);
    virDomainCheckpointPtr checkpoint = virDomainCheckpointCreateXML(domain, xml, 0);
    CHECK(checkpoint != NULL);
    virDomainCheckpointFree(checkpoint);
}

int main(void)
{
    const char *name = bed_domain(GUEST_WITHOUT_AGENT);
    struct livedisk_connection *connection = bed_open(0);
    struct livedisk_error *error = NULL;
    struct found found = {.names = {"first", "second"}};
    virConnectPtr libvirt = virConnectOpen(bed_env("URI"));
    CHECK(libvirt != NULL);
    virDomainPtr domain = virDomainLookupByName(libvirt, name);
    CHECK(domain != NULL);

    CHECK_OK(error, livedisk_list_checkpoints(connection, name, each, &found, &error));
    CHECK_EQ(found.count, 0);
    create(domain, "first");
    create(domain, "second");
    CHECK_OK(error, livedisk_list_checkpoints(connection, name, each, &found, &error));
    CHECK_EQ(found.count, 2);
    found = (struct found){.names = {"first", "second"}, .answer = 1};
    CHECK_FAILS(error, LIVEDISK_ERR_CANCELLED, "callback",
                livedisk_list_checkpoints(connection, name, each, &found, &error));
    CHECK_EQ(found.count, 1);

    CHECK_OK(error, livedisk_delete_checkpoint(connection, name, "first", &error));
    CHECK_FAILS(error, LIVEDISK_ERR_NO_CHECKPOINT, "first", livedisk_delete_checkpoint(connection, name, "first", &error));
    found = (struct found){.names = {"second", ""}};
    CHECK_OK(error, livedisk_list_checkpoints(connection, name, each, &found, &error));
    CHECK_EQ(found.count, 1);
    CHECK_OK(error, livedisk_delete_checkpoint(connection, name, "second", NULL));

    virDomainFree(domain);
    virConnectClose(libvirt);
    livedisk_close(connection);
    bed_check_clean(GUEST_WITHOUT_AGENT);
    return 0;
}
