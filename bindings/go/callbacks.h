/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Callbacks into Go. A cgo.Handle is a small number, which Go must not see as a pointer: it becomes one in C only. */
#ifndef LIVEDISK_GO_CALLBACKS_H
#define LIVEDISK_GO_CALLBACKS_H

#include "livedisk.h"

/* As cgo writes a prototype it knows no const. */
typedef const char livedisk_go_text;
typedef const struct livedisk_operation_info livedisk_go_operation_info;
typedef const struct livedisk_checkpoint livedisk_go_checkpoint_info;

/* clone_callback and clone_data that call the Go function of the handle. */
void livedisk_go_clone_snapshot(struct livedisk_snapshot_options *options, uintptr_t handle);
void livedisk_go_clone_migrate(struct livedisk_migrate_options *options, uintptr_t handle);

/* Lines go to Go if wanted, else nowhere. */
int32_t livedisk_go_set_log(int32_t wanted, int32_t level, struct livedisk_error **error);

/* The Go slice of the handle gets the operations, or the checkpoints. */
int32_t livedisk_go_list_operations(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                    struct livedisk_error **error);
int32_t livedisk_go_list_checkpoints(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                     struct livedisk_error **error);

/* What came after the first release. An older library lacks these functions, so the program is not linked to them. Go asks
 * for the library's version before it calls them (release.go). */
int32_t livedisk_go_freeze(struct livedisk_connection *connection, const char *domain, uint32_t limit_ms,
                           uint32_t *filesystems, struct livedisk_error **error);
int32_t livedisk_go_thaw(struct livedisk_connection *connection, const char *domain, uint32_t *filesystems,
                         struct livedisk_error **error);
int32_t livedisk_go_recover_flags(struct livedisk_connection *connection, const char *domain, uint32_t flags,
                                  struct livedisk_recovery *recovery, size_t recovery_size, struct livedisk_error **error);
int32_t livedisk_go_request_cancel(struct livedisk_operation *operation, struct livedisk_error **error);
int32_t livedisk_go_delete_checkpoint(struct livedisk_connection *connection, const char *domain, const char *name,
                                      struct livedisk_error **error);
const char *livedisk_go_error_name(int32_t code);

#endif
