/* SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE
#include "callbacks.h"

#include <dlfcn.h>

#include "_cgo_export.h"

/* A function that an older library lacks, by the prototype of the header. */
#define LATER(function) ((__typeof__(&function))dlsym(RTLD_DEFAULT, #function))

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
    return LATER(livedisk_list_operations)(connection, domain, operation, (void *)handle, error);
}

int32_t livedisk_go_freeze(struct livedisk_connection *connection, const char *domain, uint32_t limit_ms,
                           uint32_t *filesystems, struct livedisk_error **error)
{
    return LATER(livedisk_freeze)(connection, domain, limit_ms, filesystems, error);
}

int32_t livedisk_go_thaw(struct livedisk_connection *connection, const char *domain, uint32_t *filesystems,
                         struct livedisk_error **error)
{
    return LATER(livedisk_thaw)(connection, domain, filesystems, error);
}

int32_t livedisk_go_recover_flags(struct livedisk_connection *connection, const char *domain, uint32_t flags,
                                  struct livedisk_recovery *recovery, size_t recovery_size, struct livedisk_error **error)
{
    return LATER(livedisk_recover_flags)(connection, domain, flags, recovery, recovery_size, error);
}

int32_t livedisk_go_request_cancel(struct livedisk_operation *operation, struct livedisk_error **error)
{
    return LATER(livedisk_request_cancel)(operation, error);
}

const char *livedisk_go_error_name(int32_t code)
{
    return LATER(livedisk_error_name)(code);
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
    return LATER(livedisk_list_checkpoints)(connection, domain, checkpoint, (void *)handle, error);
}

int32_t livedisk_go_delete_checkpoint(struct livedisk_connection *connection, const char *domain, const char *name,
                                      struct livedisk_error **error)
{
    return LATER(livedisk_delete_checkpoint)(connection, domain, name, error);
}
