/* SPDX-License-Identifier: LGPL-2.1-or-later
 * What the programs need of the test bed: its environment, its guests as libvirt sees them, images read offline. */
#ifndef BED_H
#define BED_H

#include <livedisk.h>
#include <stdbool.h>
#include <stdint.h>

/* Guest 1: an agent, vda (qcow2 on a backing file) and vdb (raw). Guest 2: no agent, vda (qcow2). */
enum { GUEST_WITH_AGENT = 1, GUEST_WITHOUT_AGENT = 2 };

/* LIVEDISK_TEST_<name>. */
const char *bed_env(const char *name);
const char *bed_domain(int guest);

/* A path of this process's own that does not exist yet; owned by the caller. */
char *bed_destination(const char *name);
bool bed_exists(const char *path);

/* CLOCK_REALTIME and CLOCK_MONOTONIC in nanoseconds. */
int64_t bed_realtime_ns(void);
int64_t bed_monotonic_ns(void);
void bed_sleep_ms(long milliseconds);

/* How many descriptors this process has open, give or take a constant. */
int bed_descriptors(void);

struct livedisk_connection *bed_open(uint32_t flags);

/* A snapshot of vda of `guest` to `destination`, or none of its own: a dry run, which is DONE when it returns. */
struct livedisk_operation *bed_start(struct livedisk_connection *connection, int guest, const char *destination,
                                     uint64_t bandwidth);
struct livedisk_operation *bed_start_dry(struct livedisk_connection *connection, int guest);

/* Polls until the operation is in `phase`; another final phase fails the test. */
void bed_await(struct livedisk_operation *operation, int32_t phase);

/* The last record on a disk that the guest has acknowledged. */
int64_t bed_last_record(int guest, const char *disk);

/* The image is whole, and holds the record `at_least`, acknowledged before its point in time. */
void bed_check_image(const char *image, const char *format, int32_t consistency, int64_t at_least);

/* The guest writes, and neither a job nor a record of livedisk is left on it. */
void bed_check_clean(int guest);
void bed_check_writes(int guest);

/* Ends an operation's job and removes its record by libvirt's own means, under its feet. */
void bed_end_operation(int guest, const char *disk);

#endif
