# SPDX-License-Identifier: LGPL-2.1-or-later
"""What came with liblivedisk 0.2."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import bed
import pytest

import livedisk
from conftest import Start, cancelled
from livedisk import Phase


def test_operations(start: Start, connection: livedisk.Connection) -> None:
    domain = bed.WITHOUT_AGENT.domain
    assert connection.operations(domain) == []
    operation, path = start()
    while operation.poll().bytes_total == 0:
        pass
    (found,) = connection.operations(domain)
    assert connection.operations() == [found] or connection.operations()[0].id == found.id
    assert (found.domain, found.targets, found.destinations) == (domain, ("vda",), (str(path),))
    assert found.owner_process == str(os.getpid()) and found.owner_host == socket.gethostname()
    assert not found.is_migration and not found.orphaned and found.disk_count == 1
    assert found.method is livedisk.Method.MIRROR
    assert abs(found.started_ns - time.time_ns()) < 60 * 10**9
    operation.close()
    (found,) = connection.operations(domain)
    assert found.orphaned and found.bytes_total > 0
    with connection.attach(domain, "vda") as again:
        cancelled(again, bed.WITHOUT_AGENT, path)
    assert connection.operations(domain) == []
    with pytest.raises(livedisk.NoDomainError):
        connection.operations("no-such-domain")


def test_a_dry_recovery_changes_nothing(start: Start, connection: livedisk.Connection) -> None:
    domain = bed.WITHOUT_AGENT.domain
    operation, path = start()
    while operation.poll().bytes_total == 0:
        pass
    operation.close()
    expected = livedisk.Recovery(1, 0, 0, 1, 0)
    assert connection.recover(domain, dry_run=True) == expected
    assert connection.recover(domain, dry_run=True) == expected
    assert connection.operations(domain)[0].orphaned
    assert connection.recover(domain) == expected
    assert connection.recover(domain, dry_run=True) == livedisk.Recovery(0, 0, 0, 0, 0)
    bed.WITHOUT_AGENT.check_clean()


def test_request_cancel(start: Start) -> None:
    operation, path = start()
    operation.request_cancel()
    operation.request_cancel()
    with pytest.raises(livedisk.CancelledError):
        operation.finish(30)
    assert operation.poll(0).phase is Phase.CANCELLED and not path.exists()
    bed.WITHOUT_AGENT.check_clean()


def test_request_cancel_comes_too_late(start: Start) -> None:
    operation, path = start(bandwidth=0)
    operation.finish(60)
    with pytest.raises(livedisk.NoOperationError):
        operation.request_cancel()
    assert path.exists()


def test_async_cancel_takes_no_thread(start: Start) -> None:
    """The loop is free while an operation is rolled back."""
    operation, path = start()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with operation:
                async for progress in operation:
                    if progress.phase is Phase.COPYING:
                        raise ZeroDivisionError
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]

    asyncio.run(main())
    assert operation.closed and not path.exists()
    bed.WITHOUT_AGENT.check_clean()


@pytest.mark.parametrize(
    "options",
    [{"compress": True}, {"since": "a", "full_if_needed": True}, {"method": "backup", "scratch": "/nowhere"}],
    ids=repr,
)
def test_options_reach_the_library(options: dict[str, object], connection: livedisk.Connection) -> None:
    """It takes them or refuses them by name; either way it knows them."""
    try:
        connection.start_live_snapshot(
            bed.WITHOUT_AGENT.domain, {"vda": bed.path("never-made")}, dry_run=True, **options  # type: ignore[arg-type]
        ).close()
    except (livedisk.UnsupportedError, livedisk.InvalidArgumentError, livedisk.DestinationError) as error:
        assert "needs liblivedisk" not in str(error) and any(name in str(error).lower() for name in options), error
    except livedisk.NoCheckpointError:
        assert "since" in options


def test_freeze_and_thaw(connection: livedisk.Connection) -> None:
    domain = bed.WITH_AGENT.domain
    assert connection.freeze(domain, limit=30) > 0
    try:
        with pytest.raises(livedisk.BusyError):
            connection.freeze(domain)
    finally:
        assert connection.thaw(domain) > 0
    with pytest.raises(livedisk.NoOperationError):
        connection.thaw(domain)
    with pytest.raises(livedisk.InvalidArgumentError, match="limit"):
        connection.freeze(domain, limit=0)
    bed.WITH_AGENT.check_clean()


def test_checkpoints(connection: livedisk.Connection) -> None:
    domain = bed.WITHOUT_AGENT.domain
    assert connection.checkpoints(domain) == []
    for name in "first", "second":
        path = bed.path(f"{name}.xml")
        path.write_text(
            f"<domaincheckpoint><name>{name}</name><disks><disk name='vda'/></disks></domaincheckpoint>"
        )
        bed.virsh("checkpoint-create", domain, str(path))
        path.unlink()
    first, second = connection.checkpoints(domain)
    assert (first.name, first.parent, second.name, second.parent) == ("first", None, "second", "first")
    for found in first, second:
        assert found.usable and found.why_not is None and found.disk_count == 1
        assert found.changed_bytes is not None and found.changed_bytes % 65536 == 0
        assert abs(found.created_ns - time.time_ns()) < 60 * 10**9
    connection.delete_checkpoint(domain, "first")
    with pytest.raises(livedisk.NoCheckpointError, match="first"):
        connection.delete_checkpoint(domain, "first")
    (second,) = connection.checkpoints(domain)
    assert (second.name, second.parent) == ("second", None)
    connection.delete_checkpoint(domain, "second")
    assert connection.checkpoints(domain) == []
    with pytest.raises(livedisk.NoDomainError):
        connection.checkpoints("no-such-domain")
    bed.WITHOUT_AGENT.check_clean()
