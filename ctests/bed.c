/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bed.h"

#include "check.h"

#include <dirent.h>
#include <libvirt/libvirt.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RECORD "urn:livedisk:operation:"

const char *bed_env(const char *name)
{
    char variable[64];
    snprintf(variable, sizeof variable, "LIVEDISK_TEST_%s", name);
    const char *value = getenv(variable);
    if (value == NULL)
        CHECK_FATAL("%s is not set; run this on the test bed, as ctest does", variable);
    return value;
}

static const char *guest_env(const char *name, int guest)
{
    char variable[64];
    snprintf(variable, sizeof variable, "%s_%d", name, guest);
    return bed_env(variable);
}

const char *bed_domain(int guest)
{
    return guest_env("DOMAIN", guest);
}

char *bed_destination(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%ld-%s", bed_env("DIR"), (long)getpid(), name);
    CHECK(!bed_exists(path));
    char *copy = strdup(path);
    CHECK(copy != NULL);
    return copy;
}

bool bed_exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t bed_realtime_ns(void)
{
    return now_ns(CLOCK_REALTIME);
}

int64_t bed_monotonic_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

void bed_sleep_ms(long milliseconds)
{
    struct timespec span = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    CHECK(nanosleep(&span, NULL) == 0);
}

int bed_descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

struct livedisk_connection *bed_open(uint32_t flags)
{
    struct livedisk_connection *connection = NULL;
    struct livedisk_error *error = NULL;
    CHECK_OK(error, livedisk_open(bed_env("URI"), flags, &connection, &error));
    return connection;
}

static struct livedisk_operation *start(struct livedisk_connection *connection, int guest, const char *destination,
                                        uint64_t bandwidth, uint32_t flags)
{
    struct livedisk_snapshot_disk disk = {.target = "vda", .destination = destination};
    struct livedisk_snapshot_options options = {
        .disks = &disk, .disk_count = 1, .bandwidth = bandwidth, .flags = flags};
    struct livedisk_operation *operation = NULL;
    struct livedisk_error *error = NULL;
    CHECK_OK(error, livedisk_start_live_snapshot(connection, bed_domain(guest), &options, sizeof options, &operation,
                                                 &error));
    return operation;
}

struct livedisk_operation *bed_start(struct livedisk_connection *connection, int guest, const char *destination,
                                     uint64_t bandwidth)
{
    return start(connection, guest, destination, bandwidth, 0);
}

struct livedisk_operation *bed_start_dry(struct livedisk_connection *connection, int guest)
{
    char *destination = bed_destination("never-made");
    struct livedisk_operation *operation = start(connection, guest, destination, 0, LIVEDISK_SNAPSHOT_DRY_RUN);
    free(destination);
    return operation;
}

void bed_await(struct livedisk_operation *operation, int32_t phase)
{
    struct livedisk_progress progress = {0};
    struct livedisk_error *error = NULL;
    do {
        CHECK_OK(error, livedisk_poll(operation, -1, &progress, sizeof progress, &error));
    } while (progress.phase != phase && progress.phase < LIVEDISK_PHASE_DONE);
    CHECK_EQ(progress.phase, phase);
}

/* The number after "name": in the records tool's output. */
static int64_t field(const char *json, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = strstr(json, key);
    if (found == NULL)
        CHECK_FATAL("expected '%s' in %s", key, json);
    return strtoll(found + strlen(key), NULL, 10);
}

int64_t bed_last_record(int guest, const char *disk)
{
    char line[256], name[16];
    int64_t sequence, last = 0;
    FILE *log = fopen(guest_env("WRITER", guest), "r");
    CHECK(log != NULL);
    while (fgets(line, sizeof line, log) != NULL) {
        /* The last line may not be whole yet. */
        if (strchr(line, '\n') != NULL && sscanf(line, "%" SCNd64 " %15s", &sequence, name) == 2 &&
            strcmp(name, disk) == 0 && sequence > last)
            last = sequence;
    }
    fclose(log);
    CHECK(last > 0);
    return last;
}

void bed_check_image(const char *image, const char *format, int32_t consistency, int64_t at_least)
{
    char command[8192], json[4096];
    snprintf(command, sizeof command, "'%s' '%s' --format %s --json", bed_env("RECORDS"), image, format);
    FILE *records = popen(command, "r");
    CHECK(records != NULL);
    json[fread(json, 1, sizeof json - 1, records)] = '\0';
    int status = pclose(records);
    if (status != 0)
        CHECK_FATAL("expected: %s finds nothing wrong; its status is %d, its output %s", command, status, json);
    bool clean = strstr(json, "\"fs_clean\":true") != NULL;
    if (consistency == LIVEDISK_CONSISTENCY_FILESYSTEM && !clean)
        CHECK_FATAL("expected a clean file system of a frozen guest in %s", json);

    if (field(json, "last") < at_least)
        CHECK_FATAL("expected record %" PRId64 ", acknowledged before the point in time, in %s", at_least, json);
}

static virDomainPtr look_up(virConnectPtr *connection, int guest)
{
    *connection = virConnectOpen(bed_env("URI"));
    CHECK(*connection != NULL);
    virDomainPtr domain = virDomainLookupByName(*connection, bed_domain(guest));
    CHECK(domain != NULL);
    return domain;
}

void bed_check_clean(int guest)
{
    static const unsigned int states[] = {0, VIR_DOMAIN_XML_INACTIVE};
    virConnectPtr connection;
    virDomainPtr domain = look_up(&connection, guest);
    for (size_t i = 0; i < 2; i++) {
        char *xml = virDomainGetXMLDesc(domain, states[i]);
        CHECK(xml != NULL);
        CHECK(strstr(xml, RECORD) == NULL);
        CHECK(strstr(xml, "<mirror") == NULL);
        free(xml);
    }
    virDomainJobInfo job;
    CHECK(virDomainGetJobInfo(domain, &job) == 0);
    CHECK_EQ(job.type, VIR_DOMAIN_JOB_NONE);
    virDomainFree(domain);
    virConnectClose(connection);
    bed_check_writes(guest);
}

void bed_check_writes(int guest)
{
    struct stat before, now;
    const char *log = guest_env("WRITER", guest);
    CHECK(stat(log, &before) == 0);
    for (int i = 0; i < 100; i++) {
        bed_sleep_ms(100);
        CHECK(stat(log, &now) == 0);
        if (now.st_size > before.st_size)
            return;
    }
    CHECK_FATAL("expected: guest %s writes; it did not for 10 s", bed_domain(guest));
}

void bed_end_operation(int guest, const char *disk)
{
    virConnectPtr connection;
    virDomainPtr domain = look_up(&connection, guest);
    virDomainBlockJobInfo job;
    if (virDomainGetBlockJobInfo(domain, disk, &job, 0) == 1)
        CHECK(virDomainBlockJobAbort(domain, disk, 0) == 0);
    char *xml = virDomainGetXMLDesc(domain, 0), uri[128] = "";
    const char *record = strstr(xml, RECORD);
    if (record != NULL) {
        CHECK(sscanf(record, "%127[^'\"]", uri) == 1);
        CHECK(virDomainSetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, NULL, NULL, uri,
                                   VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG) == 0);
    }
    free(xml);
    virDomainFree(domain);
    virConnectClose(connection);
}
