/* SPDX-License-Identifier: LGPL-2.1-or-later
 * The released numbers and layouts, written down by hand for LP64. A change here is a change of the ABI. Compiling is
 * the test. */
#include <livedisk.h>

#define IS(name, value) _Static_assert((name) == (value), #name)

IS(LIVEDISK_OK, 0);
IS(LIVEDISK_ERR_INVALID_ARGUMENT, -1);
IS(LIVEDISK_ERR_NO_CONNECTION, -2);
IS(LIVEDISK_ERR_NO_DOMAIN, -3);
IS(LIVEDISK_ERR_NO_DISK, -4);
IS(LIVEDISK_ERR_DOMAIN_STATE, -5);
IS(LIVEDISK_ERR_BUSY, -6);
IS(LIVEDISK_ERR_UNSUPPORTED, -7);
IS(LIVEDISK_ERR_AGENT, -8);
IS(LIVEDISK_ERR_FREEZE, -9);
IS(LIVEDISK_ERR_DESTINATION, -10);
IS(LIVEDISK_ERR_NO_SPACE, -11);
IS(LIVEDISK_ERR_PERMISSION, -12);
IS(LIVEDISK_ERR_JOB_FAILED, -13);
IS(LIVEDISK_ERR_CANCELLED, -14);
IS(LIVEDISK_ERR_TIMEOUT, -15);
IS(LIVEDISK_ERR_NO_OPERATION, -16);
IS(LIVEDISK_ERR_VERIFY, -17);
IS(LIVEDISK_ERR_LIBVIRT, -18);
IS(LIVEDISK_ERR_IO, -19);
IS(LIVEDISK_ERR_INTERNAL, -20);
IS(LIVEDISK_ERR_CHECKPOINT, -21);
IS(LIVEDISK_ERR_NO_CHECKPOINT, -22);

IS(LIVEDISK_METHOD_AUTO, 0);
IS(LIVEDISK_METHOD_BACKUP, 1);
IS(LIVEDISK_METHOD_MIRROR, 2);
IS(LIVEDISK_METHOD_REBASE, 3);
IS(LIVEDISK_METHOD_CLONE, 4);
IS(LIVEDISK_QUIESCE_PREFER, 0);
IS(LIVEDISK_QUIESCE_REQUIRE, 1);
IS(LIVEDISK_QUIESCE_NONE, 2);
IS(LIVEDISK_CLONE_AUTO, 0);
IS(LIVEDISK_CLONE_REFLINK, 1);
IS(LIVEDISK_CLONE_COPY, 2);
IS(LIVEDISK_CLONE_VOLUME, 3);
IS(LIVEDISK_CLONE_CALLBACK, 4);
IS(LIVEDISK_PHASE_PREPARING, 0);
IS(LIVEDISK_PHASE_COPYING, 1);
IS(LIVEDISK_PHASE_READY, 2);
IS(LIVEDISK_PHASE_FINISHING, 3);
IS(LIVEDISK_PHASE_DONE, 4);
IS(LIVEDISK_PHASE_CANCELLED, 5);
IS(LIVEDISK_PHASE_FAILED, 6);
IS(LIVEDISK_LOG_LEVEL_ERROR, 0);
IS(LIVEDISK_LOG_LEVEL_WARN, 1);
IS(LIVEDISK_LOG_LEVEL_INFO, 2);
IS(LIVEDISK_LOG_LEVEL_DEBUG, 3);
IS(LIVEDISK_LOG_LEVEL_TRACE, 4);
IS(LIVEDISK_CONSISTENCY_CRASH, 0);
IS(LIVEDISK_CONSISTENCY_FILESYSTEM, 1);

IS(LIVEDISK_OPEN_RUN_EVENT_LOOP, 1);
IS(LIVEDISK_OPEN_USE_EVENTS, 2);
IS(LIVEDISK_SNAPSHOT_SHALLOW, 1);
IS(LIVEDISK_SNAPSHOT_AUTO_FINISH, 2);
IS(LIVEDISK_SNAPSHOT_DRY_RUN, 4);
IS(LIVEDISK_SNAPSHOT_VERIFY, 8);
IS(LIVEDISK_SNAPSHOT_WRITE_BLOCKING, 16);
IS(LIVEDISK_SNAPSHOT_COMPRESS, 32);
IS(LIVEDISK_SNAPSHOT_FULL_IF_NEEDED, 64);
IS(LIVEDISK_RECOVER_DRY_RUN, 1);
IS(LIVEDISK_WARNING_UNIDENTIFIED_IMAGE, 1);
IS(LIVEDISK_WARNING_LABEL_LOST, 2);
IS(LIVEDISK_WARNING_ZEROES_UNDETECTED, 4);
IS(LIVEDISK_WARNING_SOURCE_KEPT, 8);
IS(LIVEDISK_DISK_REUSE_EXISTING, 1);
IS(LIVEDISK_DISK_ALLOW_PLAINTEXT, 2);
IS(LIVEDISK_MIGRATE_AUTO_FINISH, 1);
IS(LIVEDISK_MIGRATE_DRY_RUN, 2);
IS(LIVEDISK_MIGRATE_VERIFY, 4);
IS(LIVEDISK_MIGRATE_DELETE_SOURCE, 8);
IS(LIVEDISK_MIGRATE_WRITE_BLOCKING, 16);
IS(LIVEDISK_MIGRATE_ALLOW_PLAINTEXT, 32);

#ifdef __LP64__
#define SIZE(name, value) _Static_assert(sizeof(struct livedisk_##name) == (value), "sizeof " #name)
#define AT(name, field, value) \
    _Static_assert(offsetof(struct livedisk_##name, field) == (value), #name "." #field)

SIZE(snapshot_disk, 64);
AT(snapshot_disk, target, 0);
AT(snapshot_disk, destination, 8);
AT(snapshot_disk, format, 16);
AT(snapshot_disk, flags, 24);
AT(snapshot_disk, backing, 32);
AT(snapshot_disk, reserved, 40);

SIZE(snapshot_options, 88);
AT(snapshot_options, disks, 0);
AT(snapshot_options, disk_count, 8);
AT(snapshot_options, method, 16);
AT(snapshot_options, quiesce, 20);
AT(snapshot_options, flags, 24);
AT(snapshot_options, freeze_limit_ms, 28);
AT(snapshot_options, bandwidth, 32);
AT(snapshot_options, checkpoint, 40);
AT(snapshot_options, since, 48);
AT(snapshot_options, clone, 56);
AT(snapshot_options, reserved, 60);
AT(snapshot_options, clone_callback, 64);
AT(snapshot_options, clone_data, 72);
AT(snapshot_options, scratch, 80);

SIZE(migrate_options, 64);
AT(migrate_options, target, 0);
AT(migrate_options, destination, 8);
AT(migrate_options, format, 16);
AT(migrate_options, method, 24);
AT(migrate_options, clone, 28);
AT(migrate_options, flags, 32);
AT(migrate_options, reserved, 36);
AT(migrate_options, bandwidth, 40);
AT(migrate_options, clone_callback, 48);
AT(migrate_options, clone_data, 56);

SIZE(progress, 56);
AT(progress, phase, 0);
AT(progress, step, 4);
AT(progress, step_count, 8);
AT(progress, reserved, 12);
AT(progress, bytes_done, 16);
AT(progress, bytes_total, 24);
AT(progress, bytes_per_second, 32);
AT(progress, elapsed_ns, 40);
AT(progress, guest_write_limit, 48);

SIZE(report, 72);
AT(report, method, 0);
AT(report, consistency, 4);
AT(report, filesystems_frozen, 8);
AT(report, disk_count, 12);
AT(report, point_in_time_ns, 16);
AT(report, freeze_ns, 24);
AT(report, pause_ns, 32);
AT(report, bytes_copied, 40);
AT(report, elapsed_ns, 48);
AT(report, full_disks, 56);
AT(report, reserved, 60);
AT(report, warnings, 64);
AT(report, reserved_too, 68);

SIZE(checkpoint, 48);
AT(checkpoint, name, 0);
AT(checkpoint, parent, 8);
AT(checkpoint, created_ns, 16);
AT(checkpoint, changed_bytes, 24);
AT(checkpoint, usable, 32);
AT(checkpoint, disk_count, 36);
AT(checkpoint, why_not, 40);

SIZE(operation_info, 88);
AT(operation_info, domain, 0);
AT(operation_info, id, 8);
AT(operation_info, owner_host, 16);
AT(operation_info, owner_process, 24);
AT(operation_info, is_migration, 32);
AT(operation_info, method, 36);
AT(operation_info, orphaned, 40);
AT(operation_info, disk_count, 44);
AT(operation_info, targets, 48);
AT(operation_info, destinations, 56);
AT(operation_info, started_ns, 64);
AT(operation_info, bytes_done, 72);
AT(operation_info, bytes_total, 80);

SIZE(recovery, 24);
AT(recovery, domains, 0);
AT(recovery, thawed, 4);
AT(recovery, completed, 8);
AT(recovery, taken_back, 12);
AT(recovery, failed, 16);
AT(recovery, reserved, 20);
#endif
