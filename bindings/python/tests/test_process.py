# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forks, the interpreter's end, and the library: there, absent, or another one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import bed
import pytest

import livedisk
from conftest import Start, cancelled

ROOT = Path(__file__).parents[3]


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONWARNINGS": "always::ResourceWarning", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        cwd=bed.value("DIR"),
    )


STARTED = f"""
import livedisk, logging, os, sys, threading, time
domain, uri = {bed.WITHOUT_AGENT.domain!r}, {bed.uri()!r}
def begin(path, **options):
    operation = connection.start_live_snapshot(domain, {{"vda": path}}, bandwidth=1 << 20, **options)
    while operation.poll().phase < livedisk.Phase.COPYING: pass
    return operation
connection = livedisk.open(uri)
"""


def recovered(connection: livedisk.Connection, path: Path) -> None:
    """What was let go is there, and is rolled back."""
    assert connection.recover(bed.WITHOUT_AGENT.domain) == livedisk.Recovery(1, 0, 0, 1, 0)
    assert not path.exists()
    bed.WITHOUT_AGENT.check_clean()


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(0)",
        # Daemon threads that wait, and lines that are logged, until the very end.
        "for wait in operation.finish, operation.poll, lambda: list(operation):\n"
        "    threading.Thread(target=wait, daemon=True).start()\n"
        "time.sleep(0.3)",
        # Its own globals go in any order.
        "sys.modules['keep'] = operation\ncycle = [operation]\ncycle.append(cycle)",
    ],
    ids=["falls off", "exit", "daemon threads", "cycles"],
)
def test_the_interpreter_ends_with_an_operation(end: str, connection: livedisk.Connection) -> None:
    path = bed.path("left")
    program = (
        STARTED
        + "logging.basicConfig(level=livedisk.TRACE)\nlogging.getLogger('asyncio')\n"
        + f"operation = begin({str(path)!r}, method='mirror')\n"
        + end
    )
    ended = python(program)
    assert ended.returncode == 0, ended.stdout
    assert "was not closed" in ended.stdout and "Fatal" not in ended.stdout, ended.stdout
    recovered(connection, path)


def test_the_interpreter_ends_with_a_clone_function_under_way(connection: livedisk.Connection) -> None:
    path = bed.path("left")
    ended = python(
        STARTED
        + f"""
inside = threading.Event()
def clone(source, destination):
    inside.set()
    time.sleep(2)
    print("cloned", flush=True)
    raise RuntimeError
operation = connection.start_live_snapshot(domain, {{"vda": {str(path)!r}}}, method="clone", clone="callback",
    clone_callback=clone)
inside.wait(60)
"""
    )
    assert ended.returncode == 0 and "cloned" in ended.stdout, ended.stdout
    assert connection.recover(bed.WITHOUT_AGENT.domain).failed == 0
    assert not path.exists()
    bed.WITHOUT_AGENT.check_clean()


def test_exit_without_a_word(connection: livedisk.Connection) -> None:
    path = bed.path("left")
    ended = python(STARTED + f"operation = begin({str(path)!r}, method='mirror')\nos._exit(3)")
    assert ended.returncode == 3, ended.stdout
    recovered(connection, path)


def in_child(work: object) -> int:
    """Forks; the status of the child, which is what `work` makes of it."""
    child = os.fork()
    if child == 0:
        status = 1
        # Nothing may hang here.
        signal.alarm(120)
        try:
            work()  # type: ignore[operator]
            status = 0
        except BaseException as error:
            print("in the child:", repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(start: Start, connection: livedisk.Connection) -> None:
    operation, path = start()
    mine = os.getpid()

    def work() -> None:
        for call in operation.poll, operation.finish, operation.cancel, operation.fileno, connection.recover:
            with pytest.raises(livedisk.InvalidArgumentError, match=f"made in process {mine}"):
                call()
        # Closing does nothing to the parent's, and says nothing.
        operation.close()
        connection.close()
        assert operation.closed and connection.closed
        with pytest.raises(livedisk.UnsupportedError, match="event_loop=False"):
            livedisk.open(bed.uri())
        # libvirt could wait for a lock that a thread of the parent's held.
        with pytest.raises(livedisk.UnsupportedError, match=f"forked from process {mine}"):
            livedisk.open(bed.uri(), event_loop=False)

    assert in_child(work) == 0
    assert operation.poll(0).phase in (livedisk.Phase.PREPARING, livedisk.Phase.COPYING)
    cancelled(operation, bed.WITHOUT_AGENT, path)
    bed.WITHOUT_AGENT.check_clean()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_anew(connection: livedisk.Connection) -> None:
    """Where no operation runs."""
    other = bed.path("child-third")

    def work() -> None:
        with livedisk.open(bed.uri(), event_loop=False) as own:
            with own.start_live_snapshot(bed.THIRD.domain, {"vda": other}, method="mirror") as whole:
                assert whole.finish(60).disk_count == 1

    assert in_child(work) == 0
    other.unlink()
    bed.THIRD.check_clean()


def test_an_orderly_end_of_a_forked_child(connection: livedisk.Connection) -> None:
    """The child's end leaves the parent's operation alone."""
    path = bed.path("left")
    ended = python(
        STARTED
        + f"""
operation = begin({str(path)!r}, method="mirror")
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
operation.poll(0)
operation.cancel()
operation.close()
connection.close()
print("cancelled")
"""
    )
    assert ended.returncode == 0 and "cancelled" in ended.stdout and "not closed" not in ended.stdout, ended.stdout
    bed.WITHOUT_AGENT.check_clean()


def test_open_from(connection: livedisk.Connection) -> None:
    """A virConnectPtr of the program's own, which runs libvirt's event loop, with a reference taken and given back."""
    path = bed.path("from")
    ended = python(
        f"""
import ctypes, livedisk, threading
libvirt = ctypes.CDLL("libvirt.so.0")
libvirt.virConnectOpen.restype = ctypes.c_void_p
assert libvirt.virEventRegisterDefaultImpl() == 0
def run():
    while libvirt.virEventRunDefaultImpl() == 0: pass
threading.Thread(target=run, daemon=True).start()
class Connection:
    pointer = libvirt.virConnectOpen({bed.uri()!r}.encode())
    def c_pointer(self):
        return self.pointer
caller = Connection()
with livedisk.open_from(caller) as connection:
    operation = connection.start_live_snapshot({bed.WITH_AGENT.domain!r}, {{"vda": {str(path)!r}}})
with operation:
    print(operation.finish(60).consistency)
assert libvirt.virConnectIsAlive(ctypes.c_void_p(caller.pointer)) == 1
print("left", libvirt.virConnectClose(ctypes.c_void_p(caller.pointer)))
"""
    )
    assert ended.returncode == 0 and ended.stdout.splitlines()[-2:] == ["filesystem", "left 0"], ended.stdout
    bed.check_image(path, "qcow2", True)
    path.unlink()
    bed.WITH_AGENT.check_clean()


def test_no_library() -> None:
    ended = python("import livedisk", LIVEDISK_LIBRARY="/no/such/liblivedisk.so.0")
    assert ended.returncode == 1
    assert re.search(r"ImportError: livedisk: the library /no/such/\S+ cannot be loaded: .*Install it", ended.stdout)


def test_another_library() -> None:
    ended = python("import livedisk", LIVEDISK_LIBRARY="libc.so.6")
    assert ended.returncode == 1 and "ImportError: livedisk: libc.so.6 is no liblivedisk" in ended.stdout


def library(directory: Path, version: str) -> str:
    """A library with the functions of the first release, whose operations succeed and do nothing."""
    source = f'const char *livedisk_version(void) {{ return "{version}"; }}\n'
    first = (ROOT / "packaging" / "livedisk.map").read_text().partition("local:")[0]
    for function in re.findall(r"^ +(livedisk_\w+);$", first, re.MULTILINE):
        if function != "livedisk_version" and not function.startswith("livedisk_error"):
            source += f"int {function}(void) {{ return 0; }}\n"
    (directory / "library.c").write_text(source)
    made = directory / "liblivedisk.so.0"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(directory / "library.c")], check=True)
    return str(made)


@pytest.mark.parametrize("version", ["0.0.9", "1.0.0"])
def test_a_library_of_another_release(version: str, tmp_path: Path) -> None:
    ended = python("import livedisk", LIVEDISK_LIBRARY=library(tmp_path, version))
    assert ended.returncode == 1
    assert f"is version {version}, and this package needs 0.1.0 or later, below 1.0.0" in ended.stdout


def test_the_first_release(tmp_path: Path) -> None:
    """What only the second has is refused by name, and never asked of it."""
    ended = python(
        """
        import livedisk
        connection = livedisk.open(event_loop=False)
        operation = connection.start_live_snapshot("guest", {"vda": "/nowhere"})
        disk = livedisk.SnapshotDisk("vda", "/nowhere", backing="/base")
        for what, call in {
            "operations": connection.operations,
            "checkpoints": lambda: connection.checkpoints("guest"),
            "delete_checkpoint": lambda: connection.delete_checkpoint("guest", "monday"),
            "freeze": lambda: connection.freeze("guest"),
            "thaw": lambda: connection.thaw("guest"),
            "recover(dry_run=True)": lambda: connection.recover(dry_run=True),
            "request_cancel": operation.request_cancel,
            "compress": lambda: connection.start_live_snapshot("guest", {"vda": "/nowhere"}, compress=True),
            "full_if_needed": lambda: connection.start_live_snapshot("guest", {"vda": "/nowhere"}, full_if_needed=True),
            "scratch": lambda: connection.start_live_snapshot("guest", {"vda": "/nowhere"}, scratch="/tmp"),
            "backing": lambda: connection.start_live_snapshot("guest", [disk]),
        }.items():
            try:
                call()
            except livedisk.UnsupportedError as error:
                assert str(error).startswith(
                    f"{what} needs liblivedisk 0.2.0 or later, and the one that is loaded is 0.1.0"), error
                print(what)
        operation.close()
        connection.close()
        """,
        LIVEDISK_LIBRARY=library(tmp_path, "0.1.0"),
    )
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) == 11, ended.stdout


def test_lines_on_the_callers_thread() -> None:
    """What a program of greenlets needs; in a process of its own, because it is for good."""
    path = bed.path("none.qcow2")
    done = python(
        f"""
        import livedisk, logging, threading
        names = []
        class Names(logging.Handler):
            def emit(self, record):
                names.append(threading.current_thread().name)
        logger = logging.getLogger("livedisk")
        logger.addHandler(Names())
        logger.setLevel(logging.INFO)
        livedisk.write_log()
        with livedisk.open({bed.uri()!r}) as connection:
            with connection.start_live_snapshot({bed.WITHOUT_AGENT.domain!r}, {{"vda": {str(path)!r}}}, dry_run=True) as operation:
                operation.finish()
            assert not names, names
            livedisk.write_log()
        print(len(names) > 3, set(names))
        """
    )
    assert done.stdout == "True {'MainThread'}\n", done.stdout
