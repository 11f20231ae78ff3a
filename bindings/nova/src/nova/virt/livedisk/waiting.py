# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waits as the service does: in eventlet's hub, or on a native thread.

A green thread that waits for an operation holds no thread of tpool's: the operation's descriptor wakes it.
"""

import contextlib
import logging

import livedisk
from nova import utils

try:
    _is_native = utils.concurrency_mode_threading()
except AttributeError:
    # There was nothing else before Nova 32.
    _is_native = False

if not _is_native:
    from eventlet import hubs
    from eventlet import tpool

    # Nova's handlers are the hub's, and the library's lines come on threads of its own.
    livedisk.write_log()

# At DEBUG the library would wait for Python's global lock while a server is frozen. Who wants it all the same says
# livedisk=DEBUG in default_log_levels.
if logging.getLogger("livedisk").level == logging.NOTSET:
    logging.getLogger("livedisk").setLevel(logging.INFO)


def call(function, *args, **kwargs):
    """Makes a call that blocks, in a native thread."""
    if _is_native:
        return function(*args, **kwargs)
    try:
        return tpool.execute(function, *args, **kwargs)
    finally:
        livedisk.write_log()


@contextlib.contextmanager
def started(start, *args, **kwargs):
    """The operation that ``start`` starts; whatever ends the block rolls back what is not done."""
    operation = call(start, *args, **kwargs)
    try:
        yield operation
    except BaseException:
        _cancel(operation)
        raise
    finally:
        call(operation.close)


def finish(operation):
    """The report of an operation when it is done."""
    if _is_native:
        return operation.finish()
    _reach(operation, livedisk.Phase.READY, livedisk.Phase.FINISHING)
    try:
        return operation.finish(0)
    except livedisk.TimeoutError:
        _reach(operation)
        return operation.finish(0)


def _cancel(operation):
    with contextlib.suppress(livedisk.Error):
        if _is_native:
            operation.cancel()
        else:
            # What has failed is rolled back already.
            operation.request_cancel()
            _reach(operation)


def _reach(operation, *phases):
    while True:
        phase = operation.poll(0).phase
        livedisk.write_log()
        if phase in phases or phase.is_final:
            return
        hubs.trampoline(operation.fileno(), read=True)
