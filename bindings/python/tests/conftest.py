# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator

import bed
import pytest

import livedisk

Start = Callable[..., "tuple[livedisk.Operation, Path]"]


@pytest.fixture
def connection() -> Iterator[livedisk.Connection]:
    with livedisk.open(bed.uri()) as opened:
        yield opened
    # A test that failed may have let go of something; the next is to have its guests.
    with livedisk.open(bed.uri()) as again:
        again.recover()


@pytest.fixture
def start(connection: livedisk.Connection) -> Iterator[Start]:
    """Snapshots vda, slowly; what the test leaves running is rolled back."""
    started = []

    def begin(
        guest: bed.Guest = bed.WITHOUT_AGENT, bandwidth: int = bed.SLOW, **options: object
    ) -> tuple[livedisk.Operation, Path]:
        path = bed.path("vda.qcow2")
        operation = connection.start_live_snapshot(
            guest.domain, {"vda": path}, bandwidth=bandwidth, method="mirror", **options  # type: ignore[arg-type]
        )
        started.append((operation, path))
        return operation, path

    yield begin
    for operation, path in started:
        with suppress(livedisk.InvalidArgumentError, livedisk.NoOperationError):
            operation.cancel()
        operation.close()
        path.unlink(missing_ok=True)


def cancelled(operation: livedisk.Operation, guest: bed.Guest, path: Path) -> None:
    """It is rolled back now, and nothing is left."""
    operation.cancel()
    assert operation.poll(0).phase is livedisk.Phase.CANCELLED
    assert not path.exists()
    guest.check_clean()
