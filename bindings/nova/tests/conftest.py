# SPDX-License-Identifier: LGPL-2.1-or-later

import compute  # The first import: Nova is patched, or not, before anything else.

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bed
import pytest


def pytest_sessionfinish(session, exitstatus):
    session.config.ended_with = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    # Threads of Nova's wait for libvirt's events for ever; nova-compute ends by a signal.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(getattr(config, "ended_with", 1))


@pytest.fixture(scope="session")
def driver():
    """The driver, as a nova-compute has it that has just come up."""
    directory = tempfile.mkdtemp(prefix="nova-", dir=bed.value("DIR"))
    os.chmod(directory, 0o755)
    made = compute.make(directory, bed.uri())
    made.init_host("host")
    return made


@pytest.fixture
def options(driver):
    """Sets options of nova.conf for one test: options(bandwidth=1), options("libvirt", snapshot_compression=True)."""
    changed = []

    def change(group="livedisk", **values):
        for name, value in values.items():
            compute.CONF.set_override(name, value, group=group)
            changed.append((name, group))

    yield change
    for name, group in changed:
        compute.CONF.clear_override(name, group=group)


@contextlib.contextmanager
def lifecycle():
    """What becomes of domains meanwhile, by libvirt's events."""
    command = ["virsh", "-c", bed.uri(), "event", "--event", "lifecycle", "--loop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        # It says nothing when it has begun.
        time.sleep(0.3)
        seen = []
        try:
            yield seen
        finally:
            watch.terminate()
            seen.append(watch.stdout.read())


class Server:
    """A guest of the bed as a server of Nova's."""

    def __init__(self, guest):
        self.guest = guest
        self.domain = guest.domain
        self.uuid = bed.virsh("domuuid", guest.domain).strip()

    def instance(self, **properties):
        return compute.instance(self.uuid, **properties)

    def definitions(self):
        """Live and stored; without the empty element that libvirt leaves where metadata were."""
        found = [bed.virsh("dumpxml", self.domain, *state) for state in ([], ["--inactive"])]
        return [xml.replace("  <metadata/>\n", "") for xml in found]


@pytest.fixture
def with_agent():
    return Server(bed.WITH_AGENT)


@pytest.fixture
def without_agent():
    return Server(bed.WITHOUT_AGENT)


@pytest.fixture
def movable():
    return Server(bed.THIRD)


@pytest.fixture
def untouched(driver, request):
    """Afterwards each guest is defined as before and writes, none was undefined meanwhile, and no file is left."""
    # This method alone does that, for a moment.
    undefines = hasattr(request.node, "callspec") and request.node.callspec.params.get("method") == "rebase"
    servers = [Server(guest) for guest in (bed.WITH_AGENT, bed.WITHOUT_AGENT)]
    before = [server.definitions() for server in servers]
    snapshots = Path(compute.CONF.libvirt.snapshots_directory)
    with lifecycle() as seen:
        yield
    assert ("Undefined" in seen[0]) == undefines, seen
    for server, definitions in zip(servers, before):
        assert server.definitions() == definitions
        server.guest.check_clean()
    assert list(snapshots.iterdir()) == []


@pytest.fixture
def process():
    """Starts a nova-compute in a process of its own: process("quiesce", server, hw_qemu_guest_agent="yes")."""
    started = []

    def start(what, server, environment=None, **properties):
        directory = tempfile.mkdtemp(prefix="nova-", dir=bed.value("DIR"))
        os.chmod(directory, 0o755)
        child = subprocess.Popen(
            [sys.executable, compute.__file__, directory, what, server.uuid]
            + [f"{name}={value}" for name, value in properties.items()],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        child.directory = Path(directory)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()
        shutil.rmtree(child.directory)
