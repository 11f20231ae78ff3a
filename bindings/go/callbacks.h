/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Callbacks into Go. A cgo.Handle is a small number, which Go must not see as a pointer: it becomes one in C only. */
#ifndef LIVEDISK_GO_CALLBACKS_H
#define LIVEDISK_GO_CALLBACKS_H

#include <livedisk.h>

/* As cgo writes a prototype it knows no const. */
typedef const char livedisk_go_text;
typedef const struct livedisk_operation_info livedisk_go_operation_info;
typedef const struct livedisk_checkpoint livedisk_go_checkpoint_info;

/* clone_callback and clone_data that call the Go function behind the handle. */
void livedisk_go_clone_snapshot(struct livedisk_snapshot_options *options, uintptr_t handle);
void livedisk_go_clone_migrate(struct livedisk_migrate_options *options, uintptr_t handle);

/* Lines go to Go if wanted, else nowhere. */
int32_t livedisk_go_set_log(int32_t wanted, int32_t level, struct livedisk_error **error);

/* The Go slice behind the handle gets the operations, or the checkpoints. */
int32_t livedisk_go_list_operations(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                    struct livedisk_error **error);
int32_t livedisk_go_list_checkpoints(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                     struct livedisk_error **error);

#endif
