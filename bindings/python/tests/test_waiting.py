# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waits, from many threads, and what ends them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import bed
import pytest

import livedisk
from conftest import Start, cancelled
from livedisk import Phase

# What a wait may take to end, on a busy machine.
PROMPT = 30


def test_progress(start: Start) -> None:
    operation, path = start(bandwidth=0)
    seen = list(operation)
    assert seen[-1].phase is Phase.READY and seen[-1].bytes_done > 0
    assert [progress.phase for progress in seen] == sorted(progress.phase for progress in seen)
    # Again it is the present one.
    assert [progress.phase for progress in operation] == [Phase.READY]
    record = bed.WITHOUT_AGENT.last_record()
    report = operation.finish()
    assert report.method is livedisk.Method.MIRROR and report.consistency is livedisk.Consistency.CRASH
    assert [progress.phase for progress in operation] == [Phase.DONE]
    bed.check_image(path, "qcow2", False, record)


def test_iteration_ends_with_a_failure(start: Start) -> None:
    operation, path = start()
    timer = threading.Timer(0.5, operation.cancel)
    timer.start()
    assert [progress.phase for progress in operation][-1] is Phase.CANCELLED
    timer.join()


def test_poll_waits_for_news(start: Start) -> None:
    operation, path = start()
    operation.poll(0)
    began = time.monotonic()
    assert operation.poll(0.05).phase <= Phase.COPYING
    assert time.monotonic() - began < PROMPT
    before = operation.poll()
    assert operation.poll() != before
    cancelled(operation, bed.WITHOUT_AGENT, path)


def test_frozen_and_several_disks(connection: livedisk.Connection) -> None:
    disks = [
        livedisk.SnapshotDisk("vda", bed.path("vda"), format="raw"),
        livedisk.SnapshotDisk("vdb", bed.path("vdb"), format="qcow2"),
    ]
    with connection.start_live_snapshot(bed.WITH_AGENT.domain, disks, quiesce="require", verify=True) as operation:
        report = operation.finish(60)
    assert report.consistency is livedisk.Consistency.FILESYSTEM and report.filesystems_frozen > 0
    assert 0 < report.freeze_ns < 10**10 and abs(report.point_in_time_ns - time.time_ns()) < 60 * 10**9
    for disk in disks:
        assert disk.format is not None
        bed.check_image(disk.destination, disk.format, True)  # type: ignore[arg-type]
        os.remove(disk.destination)


def test_an_exception_cancels(start: Start) -> None:
    operation, path = start()
    with pytest.raises(ZeroDivisionError):
        with operation:
            operation.poll(1)
            raise ZeroDivisionError
    assert operation.closed and not path.exists()
    bed.WITHOUT_AGENT.check_clean()


def test_an_exception_after_the_end_is_itself(start: Start) -> None:
    operation, path = start(bandwidth=0)
    with pytest.raises(ZeroDivisionError):
        with operation:
            operation.finish()
            raise ZeroDivisionError
    assert path.exists()


def test_without_one_it_only_lets_go(start: Start, connection: livedisk.Connection) -> None:
    operation, path = start()
    with operation:
        while operation.poll().phase < Phase.COPYING:
            pass
    assert operation.closed
    with connection.attach(bed.WITHOUT_AGENT.domain, "vda") as again:
        cancelled(again, bed.WITHOUT_AGENT, path)


def test_cancel_ends_waits(start: Start) -> None:
    operation, path = start()
    with ThreadPoolExecutor() as pool:
        finish = pool.submit(operation.finish)
        listed = pool.submit(list, operation)
        time.sleep(0.3)
        cancelled(operation, bed.WITHOUT_AGENT, path)
        assert isinstance(finish.exception(PROMPT), livedisk.CancelledError)
        assert listed.result(PROMPT)[-1].phase is Phase.CANCELLED
    # It is rolled back already.
    operation.cancel()


def test_close_ends_waits_and_nothing_else(start: Start, connection: livedisk.Connection) -> None:
    operation, path = start()
    with ThreadPoolExecutor() as pool:
        waits: list[Future[object]] = [pool.submit(operation.finish) for _ in range(3)]
        waits += [pool.submit(list, operation) for _ in range(3)]
        while operation.poll().phase < Phase.COPYING:
            pass
        time.sleep(0.3)
        operation.close()
        for wait in waits:
            assert isinstance(wait.exception(PROMPT), livedisk.InvalidArgumentError)
    assert "Copy" in bed.virsh("blockjob", bed.WITHOUT_AGENT.domain, "vda")
    assert connection.recover(bed.WITHOUT_AGENT.domain) == livedisk.Recovery(1, 0, 0, 1, 0)
    assert not path.exists()
    bed.WITHOUT_AGENT.check_clean()


def test_two_iterations_see_the_end(start: Start) -> None:
    """News goes to whoever looks first; nobody waits in vain for it."""
    operation, path = start(bandwidth=0)
    with ThreadPoolExecutor() as pool:
        lists = [pool.submit(list, operation) for _ in range(8)]
        assert all(found.result(PROMPT)[-1].phase is Phase.READY for found in lists)


def test_everything_at_once(start: Start, connection: livedisk.Connection) -> None:
    """What is used and closed at the same time from many sides neither crashes nor hangs."""
    operation, path = start(bandwidth=0)

    def use(number: int) -> None:
        for _ in range(50):
            with suppress(livedisk.Error):
                if number % 4 == 0:
                    operation.poll(0)
                elif number % 4 == 1:
                    next(iter(operation))
                elif number % 4 == 2:
                    operation.finish(0.001)
                else:
                    if number == 15:
                        operation.cancel()
                    operation.close()

    with ThreadPoolExecutor(16) as pool:
        for used in [pool.submit(use, number) for number in range(16)]:
            used.result(PROMPT)
    assert operation.closed
    # Whoever came first, it is cleaned up.
    assert connection.recover(bed.WITHOUT_AGENT.domain).failed == 0
    bed.WITHOUT_AGENT.check_clean()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("wait", ["poll", "finish"])
def test_a_signal_ends_a_wait(wait: str, start: Start) -> None:
    """As Ctrl-C does: the handler runs in the midst of the wait."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    operation, path = start(bandwidth=4096)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Interrupted):
            while True:
                getattr(operation, wait)()
        assert time.monotonic() - began < PROMPT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    cancelled(operation, bed.WITHOUT_AGENT, path)


def test_a_signal_handler_may_cancel_and_close(start: Start) -> None:
    operation, path = start()

    def stop(number: int, frame: object) -> None:
        operation.cancel()
        operation.close()

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises((livedisk.InvalidArgumentError, livedisk.CancelledError)):
            operation.finish(PROMPT)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert operation.closed and not path.exists()


def test_a_forgotten_operation_is_a_warning(start: Start, connection: livedisk.Connection) -> None:
    path = bed.path("forgotten")
    operation = connection.start_live_snapshot(
        bed.THIRD.domain, {"vda": path}, bandwidth=bed.SLOW, method="mirror"
    )
    while operation.poll().phase < Phase.COPYING:
        pass
    with pytest.warns(ResourceWarning, match=f"operation on domain '{bed.THIRD.domain}' was not closed"):
        del operation
        gc.collect()
    # It was let go, and goes on.
    deadline = time.monotonic() + PROMPT
    while True:
        try:
            again = connection.attach(bed.THIRD.domain, "vda")
            break
        except livedisk.BusyError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with again:
        cancelled(again, bed.THIRD, path)


def test_a_forgotten_connection_is_a_warning() -> None:
    with pytest.warns(ResourceWarning, match="connection was not closed"):
        livedisk.open(bed.uri())
        gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        livedisk.open(bed.uri()).close()
        gc.collect()
