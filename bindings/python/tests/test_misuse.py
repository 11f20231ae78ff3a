# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong is said, and nothing crashes."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path
from typing import Any

import bed
import pytest

import livedisk
from conftest import Start, cancelled

WRONG_SNAPSHOTS: list[dict[str, Any]] = [
    {"domain": None},
    {"domain": b"guest"},
    {"domain": "gu\0est"},
    {"domain": "\udc80"},
    {"disks": None},
    {"disks": {}},
    {"disks": []},
    {"disks": "vda"},
    {"disks": ["vda"]},
    {"disks": {1: "/nowhere"}},
    {"disks": {"vda": None}},
    {"disks": {"vda": b"/nowhere"}},
    {"disks": {"vda": "/no\0where"}},
    {"disks": {"vda": "relative"}},
    {"disks": [livedisk.SnapshotDisk("vda", Path("/nowhere"), format=3)]},  # type: ignore[arg-type]
    {"method": "miror"},
    {"method": 99},
    {"method": -1},
    {"method": 2**40},
    {"method": None},
    {"method": 1.5},
    {"quiesce": "maybe"},
    {"quiesce": 3},
    {"clone": "cp"},
    {"clone": "callback"},
    {"clone_callback": "cp"},
    {"format": 7},
    {"freeze_limit": 0},
    {"freeze_limit": -1},
    {"freeze_limit": float("nan")},
    {"freeze_limit": 1e9},
    {"bandwidth": -1},
    {"bandwidth": 2**64},
    {"bandwidth": 0.5},
    {"bandwidth": "fast"},
    {"checkpoint": 1},
    {"since": b"monday"},
]


@pytest.mark.parametrize("wrong", WRONG_SNAPSHOTS, ids=repr)
def test_snapshot(wrong: dict[str, Any], connection: livedisk.Connection) -> None:
    call = {"domain": bed.WITHOUT_AGENT.domain, "disks": {"vda": bed.path("never-made")}, **wrong}
    with pytest.raises(livedisk.InvalidArgumentError) as raised:
        connection.start_live_snapshot(call.pop("domain"), call.pop("disks"), **call)
    # It is what Python calls a wrong value, and it names it.
    assert isinstance(raised.value, ValueError) and raised.value.code is livedisk.ErrorCode.INVALID_ARGUMENT
    assert re.search(f"{next(iter(wrong)).split('_')[0].rstrip('s')}|'relative'", str(raised.value))


@pytest.mark.parametrize("wrong", [{"target": None}, {"destination": 3}, {"bandwidth": -1}, {"method": "x"}, {"clone": 9}])
def test_migrate(wrong: dict[str, Any], connection: livedisk.Connection) -> None:
    call = {"target": "vda", "destination": bed.path("never-made"), **wrong}
    with pytest.raises(livedisk.InvalidArgumentError, match=next(iter(wrong))):
        connection.migrate_disk(bed.WITHOUT_AGENT.domain, call.pop("target"), call.pop("destination"), **call)


def test_unknown_options(connection: livedisk.Connection) -> None:
    with pytest.raises(TypeError, match="compres"):
        connection.start_live_snapshot("guest", {}, compres=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [None, 5, "qemu:///system", object()])
def test_open_from_something_else(wrong: object) -> None:
    with pytest.raises(livedisk.InvalidArgumentError, match="virConnect"):
        livedisk.open_from(wrong)


def test_open_from_null() -> None:
    class Null:
        def c_pointer(self) -> int:
            return 0

    with pytest.raises(livedisk.InvalidArgumentError):
        livedisk.open_from(Null())


def test_open_with_a_wrong_uri() -> None:
    with pytest.raises(livedisk.InvalidArgumentError, match="uri"):
        livedisk.open(7)  # type: ignore[arg-type]
    with pytest.raises(livedisk.NoConnectionError) as raised:
        livedisk.open("qemu+unix:///system?socket=/no/such/socket")
    assert raised.value.libvirt_code > 0 and "/no/such/socket" in str(raised.value)


def test_a_closed_connection() -> None:
    connection = livedisk.open(bed.uri())
    with connection:
        assert not connection.closed
    connection.close()
    assert connection.closed
    for call in (
        lambda: connection.start_live_snapshot("guest", {"vda": "/nowhere"}),
        lambda: connection.migrate_disk("guest", "vda", "/nowhere"),
        lambda: connection.attach("guest", "vda"),
        lambda: connection.recover(),
    ):
        with pytest.raises(livedisk.InvalidArgumentError, match="connection is closed"):
            call()


def test_a_closed_operation(start: Start, connection: livedisk.Connection) -> None:
    operation, path = start()
    connection.close()
    # The operation keeps what it needs.
    cancelled(operation, bed.WITHOUT_AGENT, path)
    operation.close()
    operation.close()
    assert operation.closed and "closed" in repr(operation)
    for call in operation.poll, operation.finish, operation.cancel, operation.fileno, lambda: next(iter(operation)):
        with pytest.raises(livedisk.InvalidArgumentError, match=f"operation on domain '{operation.domain}' is closed"):
            call()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_wrong_timeouts(timeout: float, start: Start) -> None:
    operation, _ = start(dry_run=True)
    for wait in operation.poll, operation.finish:
        with pytest.raises(livedisk.InvalidArgumentError, match="timeout"):
            wait(timeout)
    assert operation.finish(1e300).disk_count == 1


def test_timeout_is_a_timeout(start: Start) -> None:
    operation, path = start()
    with pytest.raises(TimeoutError) as raised:
        operation.finish(0.3)
    assert isinstance(raised.value, livedisk.TimeoutError) and isinstance(raised.value, livedisk.Error)
    cancelled(operation, bed.WITHOUT_AGENT, path)
    with pytest.raises(livedisk.CancelledError):
        operation.finish()


def test_errors_are_distinguished() -> None:
    error = livedisk.PermissionError("may not", libvirt_code=38)
    assert isinstance(error, PermissionError) and isinstance(error, OSError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is livedisk.PermissionError and again.libvirt_code == 38 and str(again) == "may not"
    assert again.code is livedisk.ErrorCode.PERMISSION and again.errno is None and errno.errorcode
    assert isinstance(livedisk.IOError("x"), OSError)


def test_errors_of_the_library_are_whole(connection: livedisk.Connection) -> None:
    with pytest.raises(livedisk.NoDomainError) as raised:
        connection.attach("no-such-domain", "vda")
    assert "no-such-domain" in str(raised.value) and raised.value.libvirt_code == 42
    assert pickle.loads(pickle.dumps(raised.value)).code is livedisk.ErrorCode.NO_DOMAIN


def test_calls_back_from_the_clone_function(connection: livedisk.Connection) -> None:
    """What would wait for itself is refused."""
    said: list[str] = []
    path = bed.path("never-made")

    def clone(source: str, destination: str) -> None:
        for call in operation.finish, operation.cancel, operation.close:
            try:
                call()
            except livedisk.InvalidArgumentError as error:
                said.append(str(error))
        assert operation.poll(0).phase is livedisk.Phase.COPYING
        raise KeyError("enough")

    with connection.start_live_snapshot(
        bed.WITHOUT_AGENT.domain, {"vda": path}, method="clone", clone="callback", clone_callback=clone
    ) as operation:
        with pytest.raises(livedisk.JobFailedError) as raised:
            operation.finish(60)
    assert repr(raised.value.__cause__) == "KeyError('enough')"
    assert len(said) == 3 and all("clone_callback" in text for text in said), said
    bed.WITHOUT_AGENT.check_clean()
