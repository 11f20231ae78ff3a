/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "callbacks.h"

#include "_cgo_export.h"

static int32_t clone(const char *source, const char *destination, void *data)
{
    return livedisk_go_clone(source, destination, (uintptr_t)data);
}

void livedisk_go_clone_snapshot(struct livedisk_snapshot_options *options, uintptr_t handle)
{
    options->clone_callback = clone;
    options->clone_data = (void *)handle;
}

void livedisk_go_clone_migrate(struct livedisk_migrate_options *options, uintptr_t handle)
{
    options->clone_callback = clone;
    options->clone_data = (void *)handle;
}

static void line(int32_t level, const char *message, void *data)
{
    (void)data;
    livedisk_go_log(level, message);
}

int32_t livedisk_go_set_log(int32_t wanted, int32_t level, struct livedisk_error **error)
{
    return livedisk_set_log(wanted ? line : NULL, level, NULL, error);
}

static int32_t operation(const struct livedisk_operation_info *info, size_t size, void *data)
{
    /* The library has the fields of this header, and perhaps more. */
    if (size < sizeof *info)
        return 1;
    livedisk_go_operation(info, (uintptr_t)data);
    return 0;
}

int32_t livedisk_go_list_operations(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                    struct livedisk_error **error)
{
    return livedisk_list_operations(connection, domain, operation, (void *)handle, error);
}

static int32_t checkpoint(const struct livedisk_checkpoint *found, size_t size, void *data)
{
    if (size < sizeof *found)
        return 1;
    livedisk_go_checkpoint(found, (uintptr_t)data);
    return 0;
}

int32_t livedisk_go_list_checkpoints(struct livedisk_connection *connection, const char *domain, uintptr_t handle,
                                     struct livedisk_error **error)
{
    return livedisk_list_checkpoints(connection, domain, checkpoint, (void *)handle, error);
}
