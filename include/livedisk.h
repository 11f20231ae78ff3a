/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * livedisk: live snapshot and live storage migration of running libvirt/QEMU guests.
 *
 * These rules hold for every call.
 *
 * Results. A call that can fail returns int32_t: LIVEDISK_OK or one of the negative LIVEDISK_ERR_*. A released code never
 * gets another meaning. The last argument receives an error object that the caller owns; it may be NULL. Outputs are written
 * only on success.
 *
 * Structs. Each struct is passed with its size. A shorter input struct is extended with zeros. Bytes beyond the fields that
 * this library knows must be zero, and so must a field that the size cuts off. An output struct is never written beyond the
 * caller's size.
 *
 * Checks. Every pointer is checked for NULL, every string for UTF-8, every flag for unknown bits. A panic never crosses the
 * boundary: it becomes LIVEDISK_ERR_INTERNAL, and the handle on which it happened refuses every further call.
 *
 * Threads. Any thread may use a handle, and several threads may use the same one at once. livedisk_cancel() from another
 * thread ends a livedisk_poll() or livedisk_finish() that waits. Freeing or closing a handle must be the last call on it.
 *
 * The process. livedisk installs no signal handler, changes no working directory or umask, writes nothing to stdout or
 * stderr, and registers libvirt's process-wide event loop only when asked to (LIVEDISK_OPEN_RUN_EVENT_LOOP).
 *
 * Forks. In a forked child, calls on the parent's handles fail with LIVEDISK_ERR_INVALID_ARGUMENT, and freeing them does
 * nothing. The child may open a connection of its own, except where an operation was running in the parent at the fork:
 * libvirt could hang there, so the open fails with LIVEDISK_ERR_UNSUPPORTED.
 *
 * cbindgen generates this file from src/. Change it there. */

#ifndef LIVEDISK_H
#define LIVEDISK_H

#include <stddef.h>
#include <stdint.h>

/**
 * The header's version: major * 1000000 + minor * 1000 + patch. livedisk_version() has the library's.
 */
#define LIVEDISK_VERSION_NUMBER 2000

/**
 * Success.
 */
#define LIVEDISK_OK 0

/**
 * An argument is invalid: a null pointer, an unknown flag or value, text that is not UTF-8, no disks. Correct the call.
 */
#define LIVEDISK_ERR_INVALID_ARGUMENT -1

/**
 * libvirt cannot be reached. Check the URI and the daemon, then open again.
 */
#define LIVEDISK_ERR_NO_CONNECTION -2

/**
 * There is no such domain on this connection. Check the name or UUID.
 */
#define LIVEDISK_ERR_NO_DOMAIN -3

/**
 * The domain has no such disk, or the disk has no medium. Check the disk target.
 */
#define LIVEDISK_ERR_NO_DISK -4

/**
 * The domain is not running, is paused, or was shut off under the operation. Start or resume it and try again.
 */
#define LIVEDISK_ERR_DOMAIN_STATE -5

/**
 * A block job, backup, freeze or operation is in the way. Wait for it or end it, then try again.
 */
#define LIVEDISK_ERR_BUSY -6

/**
 * This libvirt, QEMU, disk, format or version of livedisk cannot do it. Ask for something else.
 */
#define LIVEDISK_ERR_UNSUPPORTED -7

/**
 * Quiescing is required and no guest agent answers. Start the agent in the guest, or ask for less.
 */
#define LIVEDISK_ERR_AGENT -8

/**
 * Freeze or thaw failed, or the freeze limit was passed. The operation was rolled back. Try again, perhaps with a higher limit.
 */
#define LIVEDISK_ERR_FREEZE -9

/**
 * The destination exists, has the wrong size or format, or cannot be reached. Name another one, or fix this one.
 */
#define LIVEDISK_ERR_DESTINATION -10

/**
 * The destination's file system is full. Make room, or name another destination.
 */
#define LIVEDISK_ERR_NO_SPACE -11

/**
 * livedisk or QEMU may not read or write a path. Fix its owner, mode or security label.
 */
#define LIVEDISK_ERR_PERMISSION -12

/**
 * A block job failed in QEMU, for the reason in the message. The operation was rolled back.
 */
#define LIVEDISK_ERR_JOB_FAILED -13

/**
 * The operation was cancelled and rolled back.
 */
#define LIVEDISK_ERR_CANCELLED -14

/**
 * The wait ended and the operation continues. Wait again, or cancel.
 */
#define LIVEDISK_ERR_TIMEOUT -15

/**
 * There is no such operation, or it is over. Nothing is left to do.
 */
#define LIVEDISK_ERR_NO_OPERATION -16

/**
 * The copy failed its check, or differs from the source. It was removed.
 */
#define LIVEDISK_ERR_VERIFY -17

/**
 * Any other libvirt error; livedisk_error_libvirt_code() has its number.
 */
#define LIVEDISK_ERR_LIBVIRT -18

/**
 * A file could not be read or written.
 */
#define LIVEDISK_ERR_IO -19

/**
 * A bug in livedisk. Please report it.
 */
#define LIVEDISK_ERR_INTERNAL -20

/**
 * A checkpoint's bitmap is missing or inconsistent. Take a full backup.
 */
#define LIVEDISK_ERR_CHECKPOINT -21

/**
 * The domain has no checkpoint of that name. Check the name.
 */
#define LIVEDISK_ERR_NO_CHECKPOINT -22

/**
 * Let livedisk choose the cheapest method that cannot hurt the guest; the report says which one it was.
 */
#define LIVEDISK_METHOD_AUTO 0

/**
 * virDomainBackupBegin: content as of the start. A destination that fails or hangs never reaches the guest.
 */
#define LIVEDISK_METHOD_BACKUP 1

/**
 * virDomainBlockCopy: content as of the finish. A destination that fails or hangs never reaches the guest.
 */
#define LIVEDISK_METHOD_MIRROR 2

/**
 * Like MIRROR, by virDomainBlockRebase, for old hosts. Destinations are files and block devices. A persistent domain
 * is undefined for a moment, and defined again as it was. The disk's backing chain is copied into the image after the
 * point in time. Not for migrations.
 */
#define LIVEDISK_METHOD_REBASE 3

/**
 * External snapshot, clone of the base outside QEMU, active commit: content as of the start. A destination that fails
 * or hangs never reaches the guest. For a migration: the five steps of livedisk_migrate_disk().
 */
#define LIVEDISK_METHOD_CLONE 4

/**
 * Freeze if a guest agent answers; else the images are crash-consistent, and the report says so.
 */
#define LIVEDISK_QUIESCE_PREFER 0

/**
 * Freeze, or fail before anything is started.
 */
#define LIVEDISK_QUIESCE_REQUIRE 1

/**
 * Do not freeze.
 */
#define LIVEDISK_QUIESCE_NONE 2

/**
 * The cheapest way that works.
 */
#define LIVEDISK_CLONE_AUTO 0

/**
 * Share blocks (FICLONE), or fail.
 */
#define LIVEDISK_CLONE_REFLINK 1

/**
 * Copy, keeping holes. A snapshot that is flattened or converted, or whose destination exists, is written in one pass
 * from the content of the disk's backing chain; so it is with LIVEDISK_CLONE_AUTO.
 */
#define LIVEDISK_CLONE_COPY 2

/**
 * The daemon clones, as libvirt storage volumes: source and destination are in directories of active storage pools.
 * For migrations. LIVEDISK_CLONE_AUTO takes it on a remote connection.
 */
#define LIVEDISK_CLONE_VOLUME 3

/**
 * The caller's own function.
 */
#define LIVEDISK_CLONE_CALLBACK 4

/**
 * Destinations are being created.
 */
#define LIVEDISK_PHASE_PREPARING 0

/**
 * Content is being copied.
 */
#define LIVEDISK_PHASE_COPYING 1

/**
 * Everything is copied; livedisk_finish() will not take long.
 */
#define LIVEDISK_PHASE_READY 2

/**
 * The point in time is being fixed and the result checked, or the operation is being rolled back.
 */
#define LIVEDISK_PHASE_FINISHING 3

/**
 * The images are complete. Final.
 */
#define LIVEDISK_PHASE_DONE 4

/**
 * Cancelled and rolled back. Final.
 */
#define LIVEDISK_PHASE_CANCELLED 5

/**
 * Failed and rolled back; livedisk_finish() reports why. Final.
 */
#define LIVEDISK_PHASE_FAILED 6

/**
 * Something failed.
 */
#define LIVEDISK_LOG_LEVEL_ERROR 0

/**
 * Something differs from what was asked for; the operation continues.
 */
#define LIVEDISK_LOG_LEVEL_WARN 1

/**
 * What livedisk does, and the plan of a dry run.
 */
#define LIVEDISK_LOG_LEVEL_INFO 2

/**
 * Each step and what led to it.
 */
#define LIVEDISK_LOG_LEVEL_DEBUG 3

/**
 * Everything.
 */
#define LIVEDISK_LOG_LEVEL_TRACE 4

/**
 * As after a power failure: file systems replay their journals.
 */
#define LIVEDISK_CONSISTENCY_CRASH 0

/**
 * Frozen by the guest agent across the whole point in time, and still frozen when thawed.
 */
#define LIVEDISK_CONSISTENCY_FILESYSTEM 1

/**
 * livedisk runs libvirt's default event loop in its own thread for as long as the process lives.
 */
#define LIVEDISK_OPEN_RUN_EVENT_LOOP 1

/**
 * The caller runs libvirt's event loop, registered before this connection was opened.
 */
#define LIVEDISK_OPEN_USE_EVENTS 2

/**
 * Keep the backing file instead of making a standalone image. MIRROR and CLONE to qcow2 only.
 */
#define LIVEDISK_SNAPSHOT_SHALLOW 1

/**
 * Finish as soon as the operation is READY, without waiting for livedisk_finish().
 */
#define LIVEDISK_SNAPSHOT_AUTO_FINISH 2

/**
 * Check everything, report the plan to the log callback (INFO) and change nothing. The operation is DONE at once.
 */
#define LIVEDISK_SNAPSHOT_DRY_RUN 4

/**
 * Check the images when they are complete, and compare their content if the guest wrote nothing meanwhile.
 */
#define LIVEDISK_SNAPSHOT_VERIFY 8

/**
 * Let the guest's writes wait for the mirror, so that it always converges.
 */
#define LIVEDISK_SNAPSHOT_WRITE_BLOCKING 16

/**
 * Compress the images (qcow2, zstd). For BACKUP, which AUTO then takes.
 */
#define LIVEDISK_SNAPSHOT_COMPRESS 32

/**
 * Copy a disk whole if `since` cannot be used for it; the report counts such disks.
 */
#define LIVEDISK_SNAPSHOT_FULL_IF_NEEDED 64

/**
 * The destination already holds an image of this format and of exactly the disk's virtual size. It is overwritten, and
 * never removed.
 */
#define LIVEDISK_DISK_REUSE_EXISTING 1

/**
 * An encrypted disk may be written to a plain destination.
 */
#define LIVEDISK_DISK_ALLOW_PLAINTEXT 2

/**
 * As LIVEDISK_SNAPSHOT_AUTO_FINISH.
 */
#define LIVEDISK_MIGRATE_AUTO_FINISH 1

/**
 * As LIVEDISK_SNAPSHOT_DRY_RUN.
 */
#define LIVEDISK_MIGRATE_DRY_RUN 2

/**
 * Compare base and clone before the pivot. With LIVEDISK_METHOD_CLONE only; MIRROR is refused with
 * LIVEDISK_ERR_UNSUPPORTED, because the guest writes to both sides of a mirror.
 */
#define LIVEDISK_MIGRATE_VERIFY 4

/**
 * Remove the source when the disk has moved: the image, and the symbolic links by which the disk named it.
 */
#define LIVEDISK_MIGRATE_DELETE_SOURCE 8

/**
 * As LIVEDISK_SNAPSHOT_WRITE_BLOCKING.
 */
#define LIVEDISK_MIGRATE_WRITE_BLOCKING 16

/**
 * An encrypted disk becomes a plain one. Without this flag a LUKS disk moves, by LIVEDISK_METHOD_MIRROR, only to a new file
 * that libvirt encrypts with the same secret.
 */
#define LIVEDISK_MIGRATE_ALLOW_PLAINTEXT 32

/**
 * Count what would be done, and change nothing.
 */
#define LIVEDISK_RECOVER_DRY_RUN 1

/**
 * livedisk read an image by its name and could not confirm that QEMU has that same file open, because neither QEMU's
 * open files nor its locks could be inspected. If another file had taken the name, that file was copied. The log names
 * the image.
 */
#define LIVEDISK_WARNING_UNIDENTIFIED_IMAGE 1

/**
 * The old image had a `<seclabel>` of its own, which the new one lacks. Add it to the definition before the domain's
 * next start.
 */
#define LIVEDISK_WARNING_LABEL_LOST 2

/**
 * The disk moved by a clone, and QEMU no longer detects zeroes in the guest's writes to it (detect_zeroes) until the
 * domain's next start.
 */
#define LIVEDISK_WARNING_ZEROES_UNDETECTED 4

/**
 * The source was to be removed and was kept: it is not a file, or its name now leads to another file.
 */
#define LIVEDISK_WARNING_SOURCE_KEPT 8

/**
 * A connection to libvirt. Made by livedisk_open() or livedisk_open_from(), ended by livedisk_close(). Any thread.
 */
struct livedisk_connection;

/**
 * Why a call failed. Owned by the caller that received it; free it with livedisk_error_free(). Immutable, so it may be read
 * from any thread.
 */
struct livedisk_error;

/**
 * An operation on a running guest. It runs by itself; the handle watches and controls it. Made by
 * livedisk_start_live_snapshot(), livedisk_migrate_disk() or livedisk_attach(), ended by livedisk_operation_free(). Any
 * thread, several at once.
 */
struct livedisk_operation;

/**
 * One disk of a snapshot. Strings are copied before the call returns.
 */
struct livedisk_snapshot_disk {
  /**
   * The disk target, such as "vda".
   */
  const char *target;
  /**
   * Absolute path of a file that does not exist yet, path of a block device, or an nbd:// or nbd+unix:// URI.
   */
  const char *destination;
  /**
   * "qcow2" or "raw". NULL: the disk's own format for a file, raw for a block device or an NBD export.
   */
  const char *format;
  /**
   * LIVEDISK_DISK_*.
   */
  uint32_t flags;
  /**
   * The backing file of an increment (`since`): the image of the backup that made the checkpoint. It is taken as raw
   * if it is a block device or its name ends in `.raw`, else as qcow2; it is refused if its header says otherwise.
   * NULL: the increment names no backing file, and is not the whole disk by itself.
   */
  const char *backing;
  /**
   * Zero.
   */
  uint64_t reserved[3];
};

/**
 * Clones `source`, which does not change meanwhile, to `destination`, which does not exist yet unless it is to be
 * reused. Returns 0 on success, anything else on failure. It may run for hours. Without SHALLOW, the result for a
 * snapshot must be standalone, in the destination's format, and of exactly the disk's virtual size.
 */
typedef int32_t (*livedisk_clone_callback)(const char *source, const char *destination, void *data);

/**
 * Options of a live snapshot. Zero-initialise it, then set what you want.
 */
struct livedisk_snapshot_options {
  /**
   * The disks, each named once. All images have the content of one point in time.
   */
  const struct livedisk_snapshot_disk *disks;
  /**
   * Number of disks.
   */
  size_t disk_count;
  /**
   * LIVEDISK_METHOD_*.
   */
  int32_t method;
  /**
   * LIVEDISK_QUIESCE_*.
   */
  int32_t quiesce;
  /**
   * LIVEDISK_SNAPSHOT_*.
   */
  uint32_t flags;
  /**
   * Milliseconds the guest may be frozen; 0: 10 s. When the limit has passed, the guest is thawed and the operation
   * fails with FREEZE.
   */
  uint32_t freeze_limit_ms;
  /**
   * Bytes per second; 0: no limit. The disks of the operation share it equally.
   */
  uint64_t bandwidth;
  /**
   * BACKUP: create a checkpoint of this name at the point in time. It covers the disks that can keep a bitmap:
   * writable qcow2 images of version 3. A backup that fails or is cancelled leaves no checkpoint. NULL: none.
   */
  const char *checkpoint;
  /**
   * BACKUP: copy only what changed since this checkpoint, to a qcow2 image with the disk's `backing` as backing
   * file. A disk that the checkpoint does not cover is copied whole; the report counts it, and the log says why.
   * NULL: copy everything.
   */
  const char *since;
  /**
   * CLONE: how to clone, LIVEDISK_CLONE_*.
   */
  int32_t clone;
  /**
   * Zero.
   */
  uint32_t reserved;
  /**
   * CLONE with LIVEDISK_CLONE_CALLBACK: the function. It is called once for each disk, from another thread, before
   * the operation reaches a final phase.
   */
  livedisk_clone_callback clone_callback;
  /**
   * Passed to it unchanged.
   */
  void *clone_data;
  /**
   * BACKUP: absolute path of a directory for the scratch files, which grow as the guest overwrites data until
   * everything is copied. NULL: beside each disk's image.
   */
  const char *scratch;
};

/**
 * Options of a migration. Zero-initialise it, then set what you want.
 */
struct livedisk_migrate_options {
  /**
   * The disk target, such as "vda".
   */
  const char *target;
  /**
   * Where the disk moves: a path, or an nbd:// or nbd+unix:// URI.
   */
  const char *destination;
  /**
   * "qcow2" or "raw"; NULL: the disk's own.
   */
  const char *format;
  /**
   * LIVEDISK_METHOD_*.
   */
  int32_t method;
  /**
   * LIVEDISK_CLONE_*.
   */
  int32_t clone;
  /**
   * LIVEDISK_MIGRATE_*.
   */
  uint32_t flags;
  /**
   * Zero.
   */
  uint32_t reserved;
  /**
   * Bytes per second; 0: no limit.
   */
  uint64_t bandwidth;
  /**
   * With LIVEDISK_CLONE_CALLBACK: the function.
   */
  livedisk_clone_callback clone_callback;
  /**
   * Passed to it unchanged.
   */
  void *clone_data;
};

/**
 * Receives one log line: UTF-8 without a newline, valid for the call only.
 */
typedef void (*livedisk_log_callback)(int32_t level, const char *message, void *data);

/**
 * The progress of an operation. Filled by livedisk_poll().
 */
struct livedisk_progress {
  /**
   * One of LIVEDISK_PHASE_*. It never goes back.
   */
  int32_t phase;
  /**
   * Steps completed.
   */
  int32_t step;
  /**
   * Steps in total.
   */
  int32_t step_count;
  /**
   * 0.
   */
  int32_t reserved;
  /**
   * Bytes copied, over all disks.
   */
  uint64_t bytes_done;
  /**
   * Bytes to copy, as far as known now; grows while the guest writes.
   */
  uint64_t bytes_total;
  /**
   * Current transfer rate, bytes per second.
   */
  uint64_t bytes_per_second;
  /**
   * Nanoseconds since the start.
   */
  uint64_t elapsed_ns;
  /**
   * Bytes per second to which the guest's writes to the disk are throttled, because its job cannot keep up
   * (migrations, and snapshots by CLONE); 0: not throttled.
   */
  uint64_t guest_write_limit;
};

/**
 * What a finished operation did. Filled by livedisk_finish().
 */
struct livedisk_report {
  /**
   * The method used, one of LIVEDISK_METHOD_*.
   */
  int32_t method;
  /**
   * What the images can be relied on for, one of LIVEDISK_CONSISTENCY_*.
   */
  int32_t consistency;
  /**
   * How many file systems were frozen.
   */
  uint32_t filesystems_frozen;
  /**
   * How many disks were copied.
   */
  uint32_t disk_count;
  /**
   * The moment whose content the images have, in nanoseconds of CLOCK_REALTIME. They hold every write that was
   * acknowledged to the guest before it; without a freeze they may hold a little more. 0 for a dry run.
   */
  int64_t point_in_time_ns;
  /**
   * Nanoseconds from sending the freeze request to the answer to the thaw; 0: not frozen.
   */
  uint64_t freeze_ns;
  /**
   * Nanoseconds for which the vCPUs were paused, to give several mirrors one point in time; 0: not paused.
   */
  uint64_t pause_ns;
  /**
   * Bytes copied, over all disks.
   */
  uint64_t bytes_copied;
  /**
   * Nanoseconds from start to end.
   */
  uint64_t elapsed_ns;
  /**
   * Disks copied whole although `since` was given.
   */
  uint32_t full_disks;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The warnings that apply, LIVEDISK_WARNING_*; 0: none.
   */
  uint32_t warnings;
  /**
   * 0.
   */
  uint32_t reserved_too;
};

/**
 * What livedisk_recover() found and did.
 */
struct livedisk_recovery {
  /**
   * Domains on which something was left to clean up.
   */
  uint32_t domains;
  /**
   * Guests thawed.
   */
  uint32_t thawed;
  /**
   * Operations completed because they had passed their point of no return.
   */
  uint32_t completed;
  /**
   * Operations rolled back.
   */
  uint32_t taken_back;
  /**
   * Operations that could not be resolved; the log says why.
   */
  uint32_t failed;
  /**
   * 0.
   */
  uint32_t reserved;
};

/**
 * An operation that runs, or that a process left when it ended. It is valid until the callback that receives it returns.
 */
struct livedisk_operation_info {
  /**
   * The domain's name.
   */
  const char *domain;
  /**
   * The operation's unique id.
   */
  const char *id;
  /**
   * The name of the host on which its process runs.
   */
  const char *owner_host;
  /**
   * The number of that process, in digits.
   */
  const char *owner_process;
  /**
   * 1: a migration; 0: a snapshot, or a freeze of livedisk_freeze(), which has no disks.
   */
  int32_t is_migration;
  /**
   * LIVEDISK_METHOD_*.
   */
  int32_t method;
  /**
   * 1: the process has ended or released the operation, so call livedisk_attach() or livedisk_recover(); 0: it runs.
   */
  int32_t orphaned;
  /**
   * Its disks.
   */
  uint32_t disk_count;
  /**
   * The disk target of each.
   */
  const char *const *targets;
  /**
   * Where the content of each goes.
   */
  const char *const *destinations;
  /**
   * When it was started, in nanoseconds of CLOCK_REALTIME.
   */
  int64_t started_ns;
  /**
   * Bytes copied by the block jobs that run, over all disks.
   */
  uint64_t bytes_done;
  /**
   * Bytes that those jobs have to copy, as far as known now; 0 if no job runs.
   */
  uint64_t bytes_total;
};

/**
 * Receives one operation. `size` is the library's sizeof(struct livedisk_operation_info): do not read a field that
 * ends beyond it. Return 0 to continue; anything else ends the listing.
 */
typedef int32_t (*livedisk_operation_callback)(const struct livedisk_operation_info *info,
                                               size_t size,
                                               void *data);

/**
 * A checkpoint of a domain. It is valid until the callback that receives it returns.
 */
struct livedisk_checkpoint {
  /**
   * Its name.
   */
  const char *name;
  /**
   * The name of the checkpoint before it; NULL: it is the oldest.
   */
  const char *parent;
  /**
   * Its point in time, in nanoseconds of CLOCK_REALTIME; libvirt keeps whole seconds.
   */
  int64_t created_ns;
  /**
   * Bytes that have changed on its disks since then, in whole clusters; UINT64_MAX if that is not known, because it
   * is not usable, the domain is off, or a backup, migration or save is running.
   */
  uint64_t changed_bytes;
  /**
   * 1: what has changed since then is known for certain on all of its disks; 0: it is not, and `why_not` says why.
   */
  int32_t usable;
  /**
   * The disks of the domain that it covers.
   */
  uint32_t disk_count;
  /**
   * Why it is not usable, such as a missing or inconsistent bitmap; NULL: it is usable.
   */
  const char *why_not;
};

/**
 * Receives one checkpoint. `size` is the library's sizeof(struct livedisk_checkpoint): do not read a field that ends
 * beyond it. Return 0 to continue; anything else ends the listing.
 */
typedef int32_t (*livedisk_checkpoint_callback)(const struct livedisk_checkpoint *checkpoint,
                                                size_t size,
                                                void *data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Starts a live snapshot of a running guest. The guest's disks are copied to standalone images of one point in time,
 * and its file systems are frozen only while that point is fixed. The call returns as soon as the operation runs, and
 * the operation runs whether or not it is polled. Whatever can be checked beforehand is checked first, and a call that
 * fails has changed nothing.
 *
 * MIRROR (virDomainBlockCopy): the images have the content of the moment of livedisk_finish(). A destination that
 * fails or hangs never reaches the guest.
 *
 * BACKUP (virDomainBackupBegin, pull mode): the images have the content of the start. QEMU saves what the guest
 * overwrites in a scratch file for each disk, and livedisk reads QEMU's export with qemu-img at its own pace. A
 * destination that fails or hangs never reaches the guest. If the scratch files run out of room, the operation fails
 * with NO_SPACE and the guest continues.
 *
 * VERIFY compares a BACKUP's images with the export. COMPRESS, `checkpoint` and `since` work with BACKUP only. The
 * call that fixes the point in time also creates the checkpoint, and an increment holds the clusters that the bitmaps
 * of an older checkpoint mark. If a bitmap is missing or inconsistent, the checkpoint is refused before anything
 * begins; with FULL_IF_NEEDED that disk is copied whole.
 *
 * CLONE: the images have the content of the start. livedisk takes one external snapshot of all disks
 * (virDomainSnapshotCreateXML, no metadata), clones the images outside QEMU while they do not change, and commits the
 * overlays (virDomainBlockCommit, active, with pivot). Meanwhile the guest writes to the overlays, which lie beside
 * its images. A destination that fails or hangs never reaches the guest.
 *
 * If images share blocks with their clones, the time that CLONE takes does not depend on their size. A disk with a
 * backing file is flattened in the same pass unless SHALLOW is set.
 *
 * AUTO takes BACKUP for COMPRESS, `checkpoint` and `since`. Otherwise it takes CLONE if the destinations can share
 * blocks with the images and nothing needs flattening or converting, else MIRROR.
 *
 * The guest is frozen around the one call that fixes the point in time, and never around the copy (docs/threads.md
 * quotes qemu-devel, 20 January 2022, on Nova's live snapshot).
 *
 * A guard process, livedisk-guard, thaws or resumes the guest if this process dies or hangs while the guest is frozen.
 * The environment variable LIVEDISK_GUARD names its program; the default is in libexec beside the library. It starts
 * with the first operation that needs it and ends with this process. If it cannot run, a warning is logged before
 * the freeze; with LIVEDISK_GUARD_REQUIRED=1 in the environment, the start fails instead.
 *
 * @param connection    from livedisk_open() or livedisk_open_from()
 * @param domain        name or UUID of a running domain
 * @param options       the options; copied before the call returns
 * @param options_size  sizeof(struct livedisk_snapshot_options)
 * @param out           receives the operation, owned by the caller: end it with livedisk_operation_free()
 * @param error         receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_DISK (check the names),
 *         LIVEDISK_ERR_DOMAIN_STATE (start or resume the domain),
 *         LIVEDISK_ERR_BUSY (wait for what is in the way, or end it; a checkpoint of this name exists: name another),
 *         LIVEDISK_ERR_NO_CHECKPOINT (there is no checkpoint `since`: see livedisk_list_checkpoints()),
 *         LIVEDISK_ERR_CHECKPOINT (it cannot be used: take a full backup, or ask for FULL_IF_NEEDED),
 *         LIVEDISK_ERR_UNSUPPORTED (ask for another method, format or disk),
 *         LIVEDISK_ERR_AGENT (REQUIRE, and no agent answers: start it in the guest),
 *         LIVEDISK_ERR_FREEZE (a guard is required, and none can run: the message says why),
 *         LIVEDISK_ERR_DESTINATION, LIVEDISK_ERR_PERMISSION (name another destination, or fix this one),
 *         LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_IO, LIVEDISK_ERR_INTERNAL (see the message)
 *
 * Any thread.
 *
 * # Safety
 * Pointers are null or valid as described; `options` points to `options_size` bytes and `disks` to `disk_count` structs.
 */
int32_t livedisk_start_live_snapshot(struct livedisk_connection *connection,
                                     const char *domain,
                                     const struct livedisk_snapshot_options *options,
                                     size_t options_size,
                                     struct livedisk_operation **out,
                                     struct livedisk_error **error);

/**
 * Moves a disk of a running guest to other storage without downtime. The call returns as soon as the operation runs.
 *
 * CLONE takes five steps: an external snapshot (virDomainSnapshotCreateXML, no metadata), a clone of the base outside
 * QEMU while it does not change, an overlay on the clone, a shallow block copy with pivot (virDomainBlockCopy), and an
 * active commit with pivot (virDomainBlockCommit). docs/threads.md quotes their source, libvir-list, 7 October 2014.
 * MIRROR is one full block copy with pivot, for block devices, NBD exports and other formats. AUTO takes CLONE if the
 * destination is a file that can be cloned to, else MIRROR.
 *
 * At READY only the pivot to the destination is left. Until livedisk_finish() everything can be rolled back. After the
 * pivot the migration cannot be undone: livedisk_cancel() then completes it and returns NO_OPERATION.
 *
 * @param connection    from livedisk_open() or livedisk_open_from()
 * @param domain        name or UUID of a running domain
 * @param options       the options; copied before the call returns. clone_callback and clone_data are used, from another
 *                      thread, until the operation is in a final phase
 * @param options_size  sizeof(struct livedisk_migrate_options)
 * @param out           receives the operation, owned by the caller: end it with livedisk_operation_free()
 * @param error         receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or what livedisk_start_live_snapshot() returns, for the same reasons; LIVEDISK_ERR_BUSY also if
 *         the domain has snapshots, or if the destination is not qcow2 and a checkpoint's bitmap would be lost (delete
 *         them first)
 *
 * Any thread.
 *
 * # Safety
 * Pointers are null or valid as described; `options` points to `options_size` bytes.
 */
int32_t livedisk_migrate_disk(struct livedisk_connection *connection,
                              const char *domain,
                              const struct livedisk_migrate_options *options,
                              size_t options_size,
                              struct livedisk_operation **out,
                              struct livedisk_error **error);

/**
 * The error's code, one of `LIVEDISK_ERR_*`; the same number that the call returned.
 *
 * @param error  the error; NULL is no error
 * @return the code, LIVEDISK_OK for NULL
 *
 * Any thread.
 *
 * # Safety
 * `error` is null or a live error.
 */
int32_t livedisk_error_code(const struct livedisk_error *error);

/**
 * One line of UTF-8: what failed, on which domain, disk or path, why, and what to do.
 *
 * @param error  the error; NULL is no error
 * @return text that lives as long as the error; never NULL, empty for NULL
 *
 * Any thread.
 *
 * # Safety
 * `error` is null or a live error.
 */
const char *livedisk_error_message(const struct livedisk_error *error);

/**
 * libvirt's own virErrorNumber that caused the error.
 *
 * @param error  the error; NULL is no error
 * @return the number, 0 if libvirt did not fail
 *
 * Any thread.
 *
 * # Safety
 * `error` is null or a live error.
 */
int32_t livedisk_error_libvirt_code(const struct livedisk_error *error);

/**
 * Frees an error. Its message is invalid from then on.
 *
 * @param error  the error; NULL is fine
 *
 * Any thread, once.
 *
 * # Safety
 * `error` is null or a live error, and is not used any more.
 */
void livedisk_error_free(struct livedisk_error *error);

/**
 * Sets the callback that receives log lines, for the whole process. It replaces the previous one.
 *
 * When the call returns, the previous callback is not running and will not be called again. Callbacks come one at a
 * time, from any thread, including livedisk's own. A callback must not block for long. Calls to livedisk made within
 * it log nothing.
 *
 * @param callback  the function, NULL for none
 * @param level     LIVEDISK_LOG_LEVEL_*: this and everything more urgent
 * @param data      passed to the callback as it is; it must be usable from any thread
 * @param error     receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (unknown level: correct it; called from within the callback: call it elsewhere),
 *         LIVEDISK_ERR_INTERNAL (the process has another logger of the Rust crate `log`)
 *
 * Any thread.
 *
 * # Safety
 * `callback` and `data` stay usable from any thread until they are replaced; `error` is null or writable.
 */
int32_t livedisk_set_log(livedisk_log_callback callback,
                         int32_t level,
                         void *data,
                         struct livedisk_error **error);

/**
 * The name of a phase in lower case, as the command prints it, such as "copying".
 *
 * @param phase  LIVEDISK_PHASE_*
 * @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
 *
 * Any thread.
 */
const char *livedisk_phase_name(int32_t phase);

/**
 * The name of a method in lower case, as the command takes and prints it, such as "mirror".
 *
 * @param method  LIVEDISK_METHOD_*
 * @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
 *
 * Any thread.
 */
const char *livedisk_method_name(int32_t method);

/**
 * The name of an error code without LIVEDISK_ERR_, such as "NO_SPACE".
 *
 * @param code  LIVEDISK_OK, which is "OK", or LIVEDISK_ERR_*
 * @return text that lives as long as the library; "unknown" for a number that this library does not know, never NULL
 *
 * Any thread.
 */
const char *livedisk_error_name(int32_t code);

/**
 * livedisk's version, as "major.minor.patch".
 *
 * @return text that lives as long as the library
 *
 * Any thread.
 */
const char *livedisk_version(void);

/**
 * Opens a connection (virConnectOpen).
 *
 * The first open installs a libvirt error function (virSetErrorFunc), which is process-wide. It acts as libvirt's own,
 * except that it is silent about errors that livedisk handles. If you have one, install it after the first open.
 *
 * @param uri    libvirt URI; NULL is libvirt's own default
 * @param flags  LIVEDISK_OPEN_RUN_EVENT_LOOP or LIVEDISK_OPEN_USE_EVENTS; with neither, livedisk polls libvirt at an
 *               adaptive interval, and QEMU's reason for a failed copy may be missing. qemu:///embed needs one of them.
 * @param out    receives the connection, owned by the caller: end it with livedisk_close()
 * @param error  receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_CONNECTION (libvirt's reason is in the message: check the URI and the daemon),
 *         LIVEDISK_ERR_UNSUPPORTED (in a forked child: an operation or the event loop that is asked for runs in its parent)
 *
 * Any thread.
 *
 * # Safety
 * `uri` is null or NUL-terminated; `out` and `error` are null or writable.
 */
int32_t livedisk_open(const char *uri,
                      uint32_t flags,
                      struct livedisk_connection **out,
                      struct livedisk_error **error);

/**
 * Opens a connection over an existing virConnectPtr. livedisk takes one reference (virConnectRef) and releases it in
 * livedisk_close() or with the last operation that uses it, whichever comes later.
 *
 * @param vir_connect  a virConnectPtr with write access
 * @param flags        as for livedisk_open()
 * @param out          receives the connection, owned by the caller: end it with livedisk_close()
 * @param error        receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_CONNECTION (libvirt refuses the pointer),
 *         LIVEDISK_ERR_UNSUPPORTED (as for livedisk_open())
 *
 * Any thread.
 *
 * # Safety
 * `vir_connect` is null or a live virConnectPtr; `out` and `error` are null or writable.
 */
int32_t livedisk_open_from(void *vir_connect,
                           uint32_t flags,
                           struct livedisk_connection **out,
                           struct livedisk_error **error);

/**
 * Closes a connection. Operations that were started on it continue; they hold their own reference.
 *
 * @param connection  the connection; NULL is fine
 *
 * Any thread, once; no other call may use the connection at the time or later.
 *
 * # Safety
 * `connection` is null or a live connection, and is not used any more.
 */
void livedisk_close(struct livedisk_connection *connection);

/**
 * Waits until the phase changes or there is progress that no poll has returned yet, and reports the latest. It makes
 * no libvirt call on the caller's thread. In a final phase it returns at once; livedisk_finish() reports why an
 * operation failed.
 *
 * @param operation      the operation
 * @param timeout_ms     milliseconds to wait at most; 0: not at all; -1: for ever
 * @param progress       is filled; NULL with size 0 if not wanted
 * @param progress_size  sizeof(struct livedisk_progress)
 * @param error          receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, also when the time passed without news, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call), LIVEDISK_ERR_INTERNAL (free the handle)
 *
 * Any phase, any thread. livedisk_cancel() from another thread ends the wait.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_poll(struct livedisk_operation *operation,
                      int32_t timeout_ms,
                      struct livedisk_progress *progress,
                      size_t progress_size,
                      struct livedisk_error **error);

/**
 * A descriptor that is readable whenever a livedisk_poll() with timeout 0 would show something new: for poll(2),
 * epoll(7), GLib, libuv, Go. Do not read, write or close it; livedisk_poll() makes it unreadable again.
 *
 * @param operation  the operation
 * @return the descriptor, which lives as long as the operation; -1 for NULL
 *
 * Any phase, any thread.
 *
 * # Safety
 * `operation` is null or alive.
 */
int livedisk_operation_fd(const struct livedisk_operation *operation);

/**
 * Waits for READY if necessary, completes the operation, and reports. Once DONE it gives the same report again.
 *
 * @param operation    the operation
 * @param timeout_ms   milliseconds to wait at most; 0: not at all, the operation completes by itself; -1: for ever
 * @param report       is filled on success; NULL with size 0 if not wanted
 * @param report_size  sizeof(struct livedisk_report)
 * @param error        receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_TIMEOUT (the operation continues to its end: call again, or cancel),
 *         LIVEDISK_ERR_CANCELLED (it was cancelled and rolled back),
 *         or what made the operation fail, after it was rolled back: LIVEDISK_ERR_DOMAIN_STATE, LIVEDISK_ERR_BUSY (another
 *         program changed the domain meanwhile), LIVEDISK_ERR_FREEZE,
 *         LIVEDISK_ERR_DESTINATION, LIVEDISK_ERR_NO_SPACE, LIVEDISK_ERR_PERMISSION, LIVEDISK_ERR_JOB_FAILED,
 *         LIVEDISK_ERR_VERIFY, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_IO, LIVEDISK_ERR_INTERNAL
 *         (see the message for what to do, then start again)
 *
 * Any phase, any thread. livedisk_cancel() from another thread ends the wait.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_finish(struct livedisk_operation *operation,
                        int32_t timeout_ms,
                        struct livedisk_report *report,
                        size_t report_size,
                        struct livedisk_error **error);

/**
 * Rolls the operation back and waits until that is done: jobs are ended, the guest is thawed, disk chain and
 * definition are as before, and the files that the operation made are removed. Nothing else is touched. An operation
 * that was cancelled or failed is rolled back already.
 *
 * @param operation  the operation
 * @param error      receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_OPERATION (it was complete: its images are yours to remove),
 *         or what could not be rolled back (the message says what is left and where)
 *
 * Any phase, any thread; it ends a livedisk_poll() or livedisk_finish() that waits.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_cancel(struct livedisk_operation *operation,
                        struct livedisk_error **error);

/**
 * Requests what livedisk_cancel() does, and returns at once. livedisk_poll() and the descriptor show when it is over:
 * the phase is then LIVEDISK_PHASE_CANCELLED, and livedisk_finish() returns CANCELLED. LIVEDISK_PHASE_DONE means that
 * the request came too late. LIVEDISK_PHASE_FAILED means that not everything could be rolled back; livedisk_finish()
 * reports what is left. A second request does nothing.
 *
 * @param operation  the operation
 * @param error      receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, also where it is cancelled or failed already, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_OPERATION (it was complete: its images are yours to remove),
 *         LIVEDISK_ERR_INTERNAL (free the handle)
 *
 * Any phase, any thread. It does not block. A livedisk_finish() that waits returns when everything is rolled back.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_request_cancel(struct livedisk_operation *operation,
                                struct livedisk_error **error);

/**
 * Frees an operation's handle. It neither pivots nor aborts anything: QEMU's jobs continue, and the operation's record
 * stays with the domain. livedisk_attach() resumes the operation, livedisk_recover() cleans up, and until then a start
 * call on the domain returns BUSY. If the operation is in the freeze window, the call returns after the thaw.
 *
 * @param operation  the operation; NULL is fine
 *
 * Any phase, any thread, once; no other call may use the operation at the time or later, and its descriptor is closed.
 *
 * # Safety
 * `operation` is null or alive, and is not used any more.
 */
void livedisk_operation_free(struct livedisk_operation *operation);

/**
 * Resumes an operation of a running domain after the process that ran it has ended, or after
 * livedisk_operation_free(). Progress and finish work as if nothing had happened; AUTO_FINISH and the other flags
 * still apply. An operation that was being rolled back continues to be rolled back.
 *
 * @param connection  from livedisk_open() or livedisk_open_from()
 * @param domain      name or UUID of a domain
 * @param target      a disk target of the operation
 * @param out         receives the operation, owned by the caller: end it with livedisk_operation_free()
 * @param error       receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_DOMAIN,
 *         LIVEDISK_ERR_NO_OPERATION (the disk has none),
 *         LIVEDISK_ERR_BUSY (another process runs it; the message says which),
 *         LIVEDISK_ERR_DOMAIN_STATE (the domain is off: livedisk_recover() cleans up),
 *         LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_attach(struct livedisk_connection *connection,
                        const char *domain,
                        const char *target,
                        struct livedisk_operation **out,
                        struct livedisk_error **error);

/**
 * Cleans up operations whose process has ended, on a domain that is running or not. It thaws frozen guests, completes
 * operations that are past their point of no return, and rolls back the rest. Operations whose process is alive are
 * left alone, so it is safe at any time, any number of times. The log says what was found and done.
 *
 * @param connection     from livedisk_open() or livedisk_open_from()
 * @param domain         name or UUID; NULL: all domains
 * @param recovery       is filled; NULL with size 0 if not wanted
 * @param recovery_size  sizeof(struct livedisk_recovery)
 * @param error          receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, also where an operation could not be resolved: see `failed`; or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_recover(struct livedisk_connection *connection,
                         const char *domain,
                         struct livedisk_recovery *recovery,
                         size_t recovery_size,
                         struct livedisk_error **error);

/**
 * livedisk_recover() with flags.
 *
 * @param connection     from livedisk_open() or livedisk_open_from()
 * @param domain         name or UUID; NULL: all domains
 * @param flags          LIVEDISK_RECOVER_DRY_RUN: change nothing, count what would be done, and log the steps at INFO;
 *                       0: as livedisk_recover()
 * @param recovery       is filled; NULL with size 0 if not wanted
 * @param recovery_size  sizeof(struct livedisk_recovery)
 * @param error          receives the error, owned by the caller; may be NULL
 * @return as livedisk_recover()
 *
 * Any thread. It blocks on libvirt until everything is done.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_recover_flags(struct livedisk_connection *connection,
                               const char *domain,
                               uint32_t flags,
                               struct livedisk_recovery *recovery,
                               size_t recovery_size,
                               struct livedisk_error **error);

/**
 * Lists the operations on one domain or on all domains: those that run, in whichever process, and those whose process
 * has ended. A restarted agent finds its operations this way. It resumes the orphaned ones with livedisk_attach(), or
 * cleans up with livedisk_recover().
 *
 * @param connection  from livedisk_open() or livedisk_open_from()
 * @param domain      name or UUID; NULL: all domains
 * @param each        is called once for each operation, on this thread, after all of them were read; it may call livedisk
 * @param data        passed to it as it is
 * @param error       receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_CANCELLED (the callback ended the listing),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread. It blocks on libvirt.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_list_operations(struct livedisk_connection *connection,
                                 const char *domain,
                                 livedisk_operation_callback each,
                                 void *data,
                                 struct livedisk_error **error);

/**
 * Lists the checkpoints of a domain, oldest first, whichever program created them. The domain may be running or off.
 * The state of the bitmaps comes from QEMU or, if the domain is off, from the images.
 *
 * @param connection  from livedisk_open() or livedisk_open_from()
 * @param domain      name or UUID
 * @param each        is called once for each checkpoint, on this thread, after all of them were read; it may call livedisk
 * @param data        passed to it as it is
 * @param error       receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_CANCELLED (the callback ended the listing),
 *         LIVEDISK_ERR_UNSUPPORTED (this libvirt has no checkpoints),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread. It blocks on libvirt; if the domain is off, also on reading the headers of its images.
 * libvirt: virDomainListAllCheckpoints, virDomainCheckpointGetXMLDesc.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_list_checkpoints(struct livedisk_connection *connection,
                                  const char *domain,
                                  livedisk_checkpoint_callback each,
                                  void *data,
                                  struct livedisk_error **error);

/**
 * Deletes a checkpoint with its bitmaps, even if some of them are missing or inconsistent. Its child then records what
 * changed since its parent; if there is no child, that record is lost. Backups stay as they are.
 *
 * @param connection  from livedisk_open() or livedisk_open_from()
 * @param domain      name or UUID; running or off
 * @param name        the checkpoint's name
 * @param error       receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_NO_CHECKPOINT (there is none of that name: see livedisk_list_checkpoints()),
 *         LIVEDISK_ERR_BUSY (an operation, backup, migration or save is in the way: wait for it or end it),
 *         LIVEDISK_ERR_DOMAIN_STATE (the domain is off and its images are on another host: start it),
 *         LIVEDISK_ERR_IO (an image of a domain that is off cannot be changed),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread. It blocks on libvirt.
 * libvirt: virDomainCheckpointDelete.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_delete_checkpoint(struct livedisk_connection *connection,
                                   const char *domain,
                                   const char *name,
                                   struct livedisk_error **error);

/**
 * Freezes a guest's file systems while something else takes a snapshot, such as a volume service or a storage array.
 * The freeze is recorded in the domain's metadata. It ends with livedisk_thaw(), when this process dies (the guard
 * thaws the guest), or when the limit has passed, whichever comes first. The connection may be closed meanwhile.
 *
 * @param connection   from livedisk_open() or livedisk_open_from()
 * @param domain       name or UUID of a running domain with a guest agent
 * @param limit_ms     milliseconds it lasts at most; 0: 10 s
 * @param filesystems  receives how many file systems were frozen; may be NULL
 * @param error        receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK, or, with nothing frozen,
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_BUSY (an operation or a freeze is in the way, the message says whose: wait for it or end it),
 *         LIVEDISK_ERR_AGENT (no agent answers: start it in the guest),
 *         LIVEDISK_ERR_FREEZE (the freeze failed or took longer than the limit and was undone, or a guard is required and
 *         none can run),
 *         LIVEDISK_ERR_DOMAIN_STATE (start or resume the domain),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread. It blocks until the guest agent answers, limit_ms at most.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_freeze(struct livedisk_connection *connection,
                        const char *domain,
                        uint32_t limit_ms,
                        uint32_t *filesystems,
                        struct livedisk_error **error);

/**
 * Ends a freeze that livedisk_freeze() began, in whichever process and over whichever connection.
 *
 * @param connection   from livedisk_open() or livedisk_open_from()
 * @param domain       name or UUID of the domain
 * @param filesystems  receives how many file systems were thawed; may be NULL
 * @param error        receives the error, owned by the caller; may be NULL
 * @return LIVEDISK_OK: the guest was frozen the whole time; or
 *         LIVEDISK_ERR_INVALID_ARGUMENT (correct the call),
 *         LIVEDISK_ERR_FREEZE (the guest was thawed too early, so a snapshot taken meanwhile is not consistent: freeze
 *         and take it again; or the thaw failed: try again, the guard thaws the guest when the limit has passed),
 *         LIVEDISK_ERR_NO_OPERATION (the domain has no freeze of livedisk's: it was thawed or recovered before),
 *         LIVEDISK_ERR_NO_DOMAIN, LIVEDISK_ERR_NO_CONNECTION, LIVEDISK_ERR_LIBVIRT, LIVEDISK_ERR_INTERNAL
 *
 * Any thread. It blocks until the guest agent answers, for seconds at most.
 *
 * # Safety
 * Pointers are null or valid as described.
 */
int32_t livedisk_thaw(struct livedisk_connection *connection,
                      const char *domain,
                      uint32_t *filesystems,
                      struct livedisk_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LIVEDISK_H */
