# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library's lines in `logging`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import bed
import pytest

import livedisk
from conftest import Start, cancelled


class Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__(livedisk.TRACE)
        self.records: list[logging.LogRecord] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.current_thread().name)
        self.records.append(record)

    def find(self, words: str, seconds: float = 10) -> list[logging.LogRecord]:
        """Lines come some moments later."""
        deadline = time.monotonic() + seconds
        while True:
            found = [record for record in self.records if words in record.getMessage()]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    logger, made = logging.getLogger("livedisk"), Recorder()
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)
    logger.setLevel(logging.NOTSET)
    livedisk.update_log_level()


def plan(connection: livedisk.Connection) -> None:
    connection.start_live_snapshot(
        bed.WITHOUT_AGENT.domain, {"vda": bed.path("never-made")}, dry_run=True
    ).close()


def test_the_loggers_level_counts(recorder: Recorder, connection: livedisk.Connection, start: Start) -> None:
    plan(connection)
    assert not recorder.find("step 1:", 0.5)
    logging.getLogger("livedisk").setLevel(logging.INFO)
    plan(connection)
    assert [record.levelno for record in recorder.find("step 1:")] == [logging.INFO]
    logging.getLogger("livedisk").setLevel(logging.DEBUG)
    operation, path = start()
    cancelled(operation, bed.WITHOUT_AGENT, path)
    assert logging.DEBUG in {record.levelno for record in recorder.find("")}
    # Never on a thread that the library waits for.
    assert recorder.threads == {"livedisk-log"}


def test_a_level_that_changes_meanwhile(recorder: Recorder, start: Start) -> None:
    operation, path = start()
    logging.getLogger("livedisk").setLevel(livedisk.TRACE)
    livedisk.update_log_level()
    cancelled(operation, bed.WITHOUT_AGENT, path)
    assert recorder.find("")


def test_a_handler_that_raises_or_blocks_is_nobody_elses(
    recorder: Recorder, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("livedisk").setLevel(livedisk.TRACE)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    released = threading.Event()

    class Blocked(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            released.wait(60)
            raise RuntimeError("a handler of somebody's")

        def handleError(self, record: logging.LogRecord) -> None:
            pass

        def handle(self, record: logging.LogRecord) -> bool:
            try:
                self.emit(record)
            except RuntimeError:
                pass
            return True

    handler = Blocked()
    logging.getLogger("livedisk").addHandler(handler)
    try:
        operation, path = start(bandwidth=0)
        assert operation.finish(60).disk_count == 1
        assert not recorder.records or not released.is_set()
    finally:
        released.set()
        logging.getLogger("livedisk").removeHandler(handler)
    assert recorder.find("")
