# SPDX-License-Identifier: LGPL-2.1-or-later
"""Translates livedisk's failures into the exceptions of this Nova release."""

import contextlib

from nova import exception

import livedisk


def quiesce_failed(reason):
    """The exception for a server that could not be frozen. Nova has a specific one since 28."""
    kind = getattr(exception, "InstanceQuiesceFailed", None)
    return exception.InternalError(reason) if kind is None else kind(reason=reason)


@contextlib.contextmanager
def translated(instance_id, is_there):
    """Raises Nova's exceptions in place of livedisk's. ``is_there`` returns whether the guest exists, and whether it runs."""
    try:
        yield
    except livedisk.NoDomainError as error:
        raise exception.InstanceNotFound(instance_id=instance_id) from error
    except (livedisk.AgentError, livedisk.FreezeError) as error:
        raise quiesce_failed(str(error)) from error
    except livedisk.Error as error:
        exists, runs = is_there()
        if not exists:
            raise exception.InstanceNotFound(instance_id=instance_id) from error
        if not runs:
            raise exception.InstanceNotRunning(instance_id=instance_id) from error
        # This one reaches the API unchanged.
        raise exception.InternalError(f"livedisk: {error}") from error
