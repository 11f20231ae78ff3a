# SPDX-License-Identifier: LGPL-2.1-or-later
"""A nova-compute is killed, and another one comes up."""

import os
import re

import bed
import compute
import pytest

from test_snapshot import QUIESCED
from test_volumes import AGENT, writes

pytestmark = pytest.mark.usefixtures("untouched")


def kill(child):
    child.kill()
    assert child.wait(20) == -9


def comes_up(driver, child, server):
    """The next nova-compute, which has the directories of the one that died."""
    compute.CONF.set_override("snapshots_directory", str(child.directory / "snapshots"), group="libvirt")
    try:
        driver.init_host("host")
    finally:
        compute.CONF.clear_override("snapshots_directory", group="libvirt")
    assert os.listdir(child.directory / "snapshots") == []
    server.guest.check_clean()


def test_killed_while_a_server_is_quiesced(driver, process, with_agent):
    child = process("quiesce", with_agent, **AGENT)
    assert [child.stdout.readline() for _ in range(2)] == ["begins\n", "done\n"], child.stderr.read()
    kill(child)
    # The limit is a minute: it is the guard that thaws.
    assert writes(with_agent.guest, 20)
    comes_up(driver, child, with_agent)


def test_killed_while_a_snapshot_copies(driver, process, with_agent):
    child = process("snapshot", with_agent, {"BANDWIDTH": "1"}, **QUIESCED)
    assert child.stdout.readline() == "begins\n", child.stderr.read()
    while "Block Copy" not in bed.virsh("blockjob", with_agent.domain, "vda"):
        assert child.poll() is None, child.stderr.read()
    kill(child)
    [directory] = (child.directory / "snapshots").iterdir()
    assert list(directory.iterdir()), "there is no half-finished image"
    comes_up(driver, child, with_agent)


def test_killed_in_the_window(driver, process, with_agent):
    """Held by a build of the library that stops there, the server frozen."""
    library = os.environ["LIVEDISK_TEST_HELD_LIBRARY"]
    environment = {"LIVEDISK_LIBRARY": library, "LIVEDISK_STOP_AT": "fixed in FixPoint"}
    child = process("snapshot", with_agent, environment, **QUIESCED)
    while not re.search("livedisk: at fixed", line := child.stderr.readline()):
        assert line, "the process has ended"
    kill(child)
    assert writes(with_agent.guest, 20)
    comes_up(driver, child, with_agent)
