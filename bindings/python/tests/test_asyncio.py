# SPDX-License-Identifier: LGPL-2.1-or-later
"""asyncio: the loop waits for descriptors, and no thread does."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, Coroutine, TypeVar

import bed
import pytest

import livedisk
from conftest import Start, cancelled
from livedisk import Phase

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_await(start: Start) -> None:
    operation, path = start(bed.WITH_AGENT, bandwidth=0)

    async def main() -> livedisk.Report:
        return await operation

    report = run(main())
    assert report == operation.finish(0) and report.consistency is livedisk.Consistency.FILESYSTEM
    bed.check_image(path, "qcow2", True)


def test_await_what_fails(start: Start) -> None:
    operation, _ = start()

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.5, operation.cancel)
        await operation

    with pytest.raises(livedisk.CancelledError):
        run(main())


def test_async_for(start: Start) -> None:
    operation, path = start(bandwidth=0)

    async def main() -> list[livedisk.Progress]:
        return [progress async for progress in operation]

    seen = run(main())
    assert seen[-1].phase is Phase.READY
    assert [progress.phase for progress in seen] == sorted(progress.phase for progress in seen)


def test_a_cancelled_task_only_stops_waiting(start: Start) -> None:
    operation, path = start(bandwidth=0)

    async def main() -> None:
        async for _ in operation:
            pass
        # Ready, and not asked to finish.
        task = asyncio.ensure_future(operation)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert operation.poll(0).phase is Phase.READY
    cancelled(operation, bed.WITHOUT_AGENT, path)


def test_async_with_cancels(start: Start) -> None:
    operation, path = start()

    async def main() -> None:
        async with operation:
            await asyncio.wait_for(operation, 0.5)

    with pytest.raises(asyncio.TimeoutError):
        run(main())
    assert operation.closed and not path.exists()
    bed.WITHOUT_AGENT.check_clean()


def test_close_ends_an_await(start: Start, connection: livedisk.Connection) -> None:
    operation, path = start()

    async def main() -> None:
        timer = threading.Timer(0.5, operation.close)
        timer.start()
        try:
            await operation
        finally:
            timer.join()

    with pytest.raises(livedisk.InvalidArgumentError, match="closed"):
        run(main())
    assert connection.recover(bed.WITHOUT_AGENT.domain).taken_back == 1


def test_a_hundred_wait_without_a_thread(start: Start) -> None:
    """100 coroutines wait for operations that copy, through a descriptor each."""
    guests = [bed.WITH_AGENT, bed.WITHOUT_AGENT, bed.THIRD]
    begun = [start(guest) for guest in guests]

    async def follow(operation: livedisk.Operation) -> Phase:
        async for progress in operation:
            last = progress
        return last.phase

    async def main() -> list[Any]:
        threads_before, descriptors_before = threads(), descriptors()
        tasks = [asyncio.ensure_future(begun[i % 3][0] if i % 2 else follow(begun[i % 3][0])) for i in range(100)]
        # Long enough for several lots of progress to wake them all.
        await asyncio.sleep(2)
        assert not any(task.done() for task in tasks)
        assert threads() <= threads_before
        # One that was just woken has its next descriptor a turn later; a start held some.
        deadline = time.monotonic() + 20
        while descriptors() < descriptors_before + 90:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        for operation, _ in begun:
            await asyncio.get_running_loop().run_in_executor(None, operation.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert descriptors() <= descriptors_before
        return outcomes

    outcomes = run(main())
    for i, outcome in enumerate(outcomes):
        if i % 2:
            assert isinstance(outcome, livedisk.CancelledError), outcome
        else:
            assert outcome is Phase.CANCELLED, outcome
    for (operation, path), guest in zip(begun, guests):
        cancelled(operation, guest, path)


def test_a_hundred_operations(connection: livedisk.Connection) -> None:
    """100 operations, each with a descriptor of the library's, awaited together. Those of one guest that change
    something come one after the other; a dry run is an operation like any."""
    operations = [
        connection.start_live_snapshot(bed.THIRD.domain, {"vda": bed.path("never-made")}, dry_run=True)
        for _ in range(100)
    ]
    assert len({operation.fileno() for operation in operations}) == 100

    async def main() -> list[livedisk.Report]:
        before = threads()
        reports = await asyncio.gather(*operations)
        assert threads() <= before
        return reports

    assert [report.disk_count for report in run(main())] == [1] * 100
    for operation in operations:
        operation.close()


def test_two_loops_and_a_thread(start: Start) -> None:
    """Loops in several threads, and a thread that polls, take the news from each other and all see the end."""
    operation, path = start(bandwidth=0)
    found: list[Phase] = []

    async def follow() -> None:
        async for progress in operation:
            last = progress
        found.append(last.phase)

    def poll() -> None:
        for progress in operation:
            last = progress
        found.append(last.phase)

    workers = [threading.Thread(target=lambda: asyncio.run(follow())) for _ in range(3)]
    workers += [threading.Thread(target=poll)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    for worker in workers:
        worker.join(deadline - time.monotonic())
    assert found == [Phase.READY] * 4
    cancelled(operation, bed.WITHOUT_AGENT, path)


def test_a_descriptor_for_other_loops(start: Start) -> None:
    import select

    operation, path = start()
    poller = select.poll()
    poller.register(operation.fileno(), select.POLLIN)
    operation.poll(0)
    phases = set()
    for _ in range(5):
        assert poller.poll(30_000), "no news for 30 s of an operation that copies"
        phases.add(operation.poll(0).phase)
        # It is not readable again until there is more.
    assert Phase.COPYING in phases
    cancelled(operation, bed.WITHOUT_AGENT, path)
