/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Made of include/livedisk.h by filter_header.py. */
#define LIVEDISK_VERSION_NUMBER 2000
#define LIVEDISK_OK 0
#define LIVEDISK_ERR_INVALID_ARGUMENT -1
#define LIVEDISK_ERR_NO_CONNECTION -2
#define LIVEDISK_ERR_NO_DOMAIN -3
#define LIVEDISK_ERR_NO_DISK -4
#define LIVEDISK_ERR_DOMAIN_STATE -5
#define LIVEDISK_ERR_BUSY -6
#define LIVEDISK_ERR_UNSUPPORTED -7
#define LIVEDISK_ERR_AGENT -8
#define LIVEDISK_ERR_FREEZE -9
#define LIVEDISK_ERR_DESTINATION -10
#define LIVEDISK_ERR_NO_SPACE -11
#define LIVEDISK_ERR_PERMISSION -12
#define LIVEDISK_ERR_JOB_FAILED -13
#define LIVEDISK_ERR_CANCELLED -14
#define LIVEDISK_ERR_TIMEOUT -15
#define LIVEDISK_ERR_NO_OPERATION -16
#define LIVEDISK_ERR_VERIFY -17
#define LIVEDISK_ERR_LIBVIRT -18
#define LIVEDISK_ERR_IO -19
#define LIVEDISK_ERR_INTERNAL -20
#define LIVEDISK_ERR_CHECKPOINT -21
#define LIVEDISK_ERR_NO_CHECKPOINT -22
#define LIVEDISK_METHOD_AUTO 0
#define LIVEDISK_METHOD_BACKUP 1
#define LIVEDISK_METHOD_MIRROR 2
#define LIVEDISK_METHOD_REBASE 3
#define LIVEDISK_METHOD_CLONE 4
#define LIVEDISK_QUIESCE_PREFER 0
#define LIVEDISK_QUIESCE_REQUIRE 1
#define LIVEDISK_QUIESCE_NONE 2
#define LIVEDISK_CLONE_AUTO 0
#define LIVEDISK_CLONE_REFLINK 1
#define LIVEDISK_CLONE_COPY 2
#define LIVEDISK_CLONE_VOLUME 3
#define LIVEDISK_CLONE_CALLBACK 4
#define LIVEDISK_PHASE_PREPARING 0
#define LIVEDISK_PHASE_COPYING 1
#define LIVEDISK_PHASE_READY 2
#define LIVEDISK_PHASE_FINISHING 3
#define LIVEDISK_PHASE_DONE 4
#define LIVEDISK_PHASE_CANCELLED 5
#define LIVEDISK_PHASE_FAILED 6
#define LIVEDISK_LOG_LEVEL_ERROR 0
#define LIVEDISK_LOG_LEVEL_WARN 1
#define LIVEDISK_LOG_LEVEL_INFO 2
#define LIVEDISK_LOG_LEVEL_DEBUG 3
#define LIVEDISK_LOG_LEVEL_TRACE 4
#define LIVEDISK_CONSISTENCY_CRASH 0
#define LIVEDISK_CONSISTENCY_FILESYSTEM 1
#define LIVEDISK_OPEN_RUN_EVENT_LOOP 1
#define LIVEDISK_OPEN_USE_EVENTS 2
#define LIVEDISK_SNAPSHOT_SHALLOW 1
#define LIVEDISK_SNAPSHOT_AUTO_FINISH 2
#define LIVEDISK_SNAPSHOT_DRY_RUN 4
#define LIVEDISK_SNAPSHOT_VERIFY 8
#define LIVEDISK_SNAPSHOT_WRITE_BLOCKING 16
#define LIVEDISK_SNAPSHOT_COMPRESS 32
#define LIVEDISK_SNAPSHOT_FULL_IF_NEEDED 64
#define LIVEDISK_DISK_REUSE_EXISTING 1
#define LIVEDISK_DISK_ALLOW_PLAINTEXT 2
#define LIVEDISK_MIGRATE_AUTO_FINISH 1
#define LIVEDISK_MIGRATE_DRY_RUN 2
#define LIVEDISK_MIGRATE_VERIFY 4
#define LIVEDISK_MIGRATE_DELETE_SOURCE 8
#define LIVEDISK_MIGRATE_WRITE_BLOCKING 16
#define LIVEDISK_MIGRATE_ALLOW_PLAINTEXT 32
#define LIVEDISK_RECOVER_DRY_RUN 1
#define LIVEDISK_WARNING_UNIDENTIFIED_IMAGE 1
#define LIVEDISK_WARNING_LABEL_LOST 2
#define LIVEDISK_WARNING_ZEROES_UNDETECTED 4
#define LIVEDISK_WARNING_SOURCE_KEPT 8
struct livedisk_connection;
struct livedisk_error;
struct livedisk_operation;
struct livedisk_snapshot_disk {
  const char *target;
  const char *destination;
  const char *format;
  uint32_t flags;
  const char *backing;
  uint64_t reserved[3];
};
typedef int32_t (*livedisk_clone_callback)(const char *source, const char *destination, void *data);
struct livedisk_snapshot_options {
  const struct livedisk_snapshot_disk *disks;
  size_t disk_count;
  int32_t method;
  int32_t quiesce;
  uint32_t flags;
  uint32_t freeze_limit_ms;
  uint64_t bandwidth;
  const char *checkpoint;
  const char *since;
  int32_t clone;
  uint32_t reserved;
  livedisk_clone_callback clone_callback;
  void *clone_data;
  const char *scratch;
};
struct livedisk_migrate_options {
  const char *target;
  const char *destination;
  const char *format;
  int32_t method;
  int32_t clone;
  uint32_t flags;
  uint32_t reserved;
  uint64_t bandwidth;
  livedisk_clone_callback clone_callback;
  void *clone_data;
};
typedef void (*livedisk_log_callback)(int32_t level, const char *message, void *data);
struct livedisk_progress {
  int32_t phase;
  int32_t step;
  int32_t step_count;
  int32_t reserved;
  uint64_t bytes_done;
  uint64_t bytes_total;
  uint64_t bytes_per_second;
  uint64_t elapsed_ns;
  uint64_t guest_write_limit;
};
struct livedisk_report {
  int32_t method;
  int32_t consistency;
  uint32_t filesystems_frozen;
  uint32_t disk_count;
  int64_t point_in_time_ns;
  uint64_t freeze_ns;
  uint64_t pause_ns;
  uint64_t bytes_copied;
  uint64_t elapsed_ns;
  uint32_t full_disks;
  uint32_t reserved;
  uint32_t warnings;
  uint32_t reserved_too;
};
struct livedisk_recovery {
  uint32_t domains;
  uint32_t thawed;
  uint32_t completed;
  uint32_t taken_back;
  uint32_t failed;
  uint32_t reserved;
};
struct livedisk_operation_info {
  const char *domain;
  const char *id;
  const char *owner_host;
  const char *owner_process;
  int32_t is_migration;
  int32_t method;
  int32_t orphaned;
  uint32_t disk_count;
  const char *const *targets;
  const char *const *destinations;
  int64_t started_ns;
  uint64_t bytes_done;
  uint64_t bytes_total;
};
typedef int32_t (*livedisk_operation_callback)(const struct livedisk_operation_info *info,
                                               size_t size,
                                               void *data);
struct livedisk_checkpoint {
  const char *name;
  const char *parent;
  int64_t created_ns;
  uint64_t changed_bytes;
  int32_t usable;
  uint32_t disk_count;
  const char *why_not;
};
typedef int32_t (*livedisk_checkpoint_callback)(const struct livedisk_checkpoint *checkpoint,
                                                size_t size,
                                                void *data);
int32_t livedisk_start_live_snapshot(struct livedisk_connection *connection,
                                     const char *domain,
                                     const struct livedisk_snapshot_options *options,
                                     size_t options_size,
                                     struct livedisk_operation **out,
                                     struct livedisk_error **error);
int32_t livedisk_migrate_disk(struct livedisk_connection *connection,
                              const char *domain,
                              const struct livedisk_migrate_options *options,
                              size_t options_size,
                              struct livedisk_operation **out,
                              struct livedisk_error **error);
int32_t livedisk_error_code(const struct livedisk_error *error);
const char *livedisk_error_message(const struct livedisk_error *error);
int32_t livedisk_error_libvirt_code(const struct livedisk_error *error);
void livedisk_error_free(struct livedisk_error *error);
int32_t livedisk_set_log(livedisk_log_callback callback,
                         int32_t level,
                         void *data,
                         struct livedisk_error **error);
const char *livedisk_phase_name(int32_t phase);
const char *livedisk_method_name(int32_t method);
const char *livedisk_error_name(int32_t code);
const char *livedisk_version(void);
int32_t livedisk_open(const char *uri,
                      uint32_t flags,
                      struct livedisk_connection **out,
                      struct livedisk_error **error);
int32_t livedisk_open_from(void *vir_connect,
                           uint32_t flags,
                           struct livedisk_connection **out,
                           struct livedisk_error **error);
void livedisk_close(struct livedisk_connection *connection);
int32_t livedisk_poll(struct livedisk_operation *operation,
                      int32_t timeout_ms,
                      struct livedisk_progress *progress,
                      size_t progress_size,
                      struct livedisk_error **error);
int livedisk_operation_fd(const struct livedisk_operation *operation);
int32_t livedisk_finish(struct livedisk_operation *operation,
                        int32_t timeout_ms,
                        struct livedisk_report *report,
                        size_t report_size,
                        struct livedisk_error **error);
int32_t livedisk_cancel(struct livedisk_operation *operation,
                        struct livedisk_error **error);
int32_t livedisk_request_cancel(struct livedisk_operation *operation,
                                struct livedisk_error **error);
void livedisk_operation_free(struct livedisk_operation *operation);
int32_t livedisk_attach(struct livedisk_connection *connection,
                        const char *domain,
                        const char *target,
                        struct livedisk_operation **out,
                        struct livedisk_error **error);
int32_t livedisk_recover(struct livedisk_connection *connection,
                         const char *domain,
                         struct livedisk_recovery *recovery,
                         size_t recovery_size,
                         struct livedisk_error **error);
int32_t livedisk_recover_flags(struct livedisk_connection *connection,
                               const char *domain,
                               uint32_t flags,
                               struct livedisk_recovery *recovery,
                               size_t recovery_size,
                               struct livedisk_error **error);
int32_t livedisk_list_operations(struct livedisk_connection *connection,
                                 const char *domain,
                                 livedisk_operation_callback each,
                                 void *data,
                                 struct livedisk_error **error);
int32_t livedisk_list_checkpoints(struct livedisk_connection *connection,
                                  const char *domain,
                                  livedisk_checkpoint_callback each,
                                  void *data,
                                  struct livedisk_error **error);
int32_t livedisk_delete_checkpoint(struct livedisk_connection *connection,
                                   const char *domain,
                                   const char *name,
                                   struct livedisk_error **error);
int32_t livedisk_freeze(struct livedisk_connection *connection,
                        const char *domain,
                        uint32_t limit_ms,
                        uint32_t *filesystems,
                        struct livedisk_error **error);
int32_t livedisk_thaw(struct livedisk_connection *connection,
                      const char *domain,
                      uint32_t *filesystems,
                      struct livedisk_error **error);
