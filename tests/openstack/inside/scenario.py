# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user and an operator do to this OpenStack, and what becomes of it. scenario.py [PART...]: all, or those."""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import traceback
from datetime import datetime
from pathlib import Path

import openstack

import cloud

LOG = Path("/var/log/os/nova-compute.log")
SNAPSHOTS = Path("/var/lib/nova/instances/snapshots")
RESULT = Path("/var/lib/nova/result.md")
LIVEDISK, STOCK = "livedisk.LiveDiskDriver", "libvirt.LibvirtDriver"
SERVERS = int(os.environ.get("SERVERS", "10"))

c = cloud.connect()


def say(text):
    print(f"openstack: {text}", flush=True)


def run(*command, check=True):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}")
    return done.stdout


def until(what, seconds, condition, pause=0.2):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return found


# nova-compute.


def compute_process():
    return int(Path("/run/os-nova-compute.pid").read_text())


def stop_compute(kind=signal.SIGTERM):
    pid = compute_process()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, kind)
    until("nova-compute ends", 180, lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())


def start_compute(driver, **environment):
    configuration = Path("/etc/nova/nova.conf")
    configuration.write_text(re.sub("(?m)^compute_driver = .*", f"compute_driver = {driver}", configuration.read_text()))
    begin = LOG.stat().st_size if LOG.exists() else 0
    subprocess.run(["/opt/os/services", "nova-compute"], env={**os.environ, **environment}, check=True)
    # By then it has looked for what was left.
    until("nova-compute comes up", 240, lambda: "Looking for unclaimed instances" in said(begin))
    until("the service is up", 240, lambda: [s for s in c.compute.services(binary="nova-compute") if s.state == "up"])


def said(since):
    with LOG.open("rb") as file:
        file.seek(since)
        return file.read().decode("utf-8", "replace")


# Servers and images.


def image(name, file, disk_format, container="bare", **properties):
    made = c.image.create_image(
        name=name, filename=f"/opt/os/images/{file}", disk_format=disk_format, container_format=container, validate_checksum=False, **properties
    )
    return c.image.get_image(made.id)


def prepare():
    global flavor, base
    c.compute.create_flavor(name="tiny", ram=128, vcpus=1, disk=1)
    flavor = c.compute.find_flavor("tiny")
    c.set_compute_quotas("admin", instances=-1, cores=-1, ram=-1)
    kernel, ramdisk = image("kernel", "vmlinuz", "aki", "aki"), image("ramdisk", "initrd", "ari", "ari")
    base = image(
        "guest",
        "root.qcow2",
        "qcow2",
        kernel_id=kernel.id,
        ramdisk_id=ramdisk.id,
        hw_qemu_guest_agent="yes",
        os_require_quiesce="yes",
        os_command_line="console=ttyS0 quiet panic=1",
    )


class Server:
    def __init__(self, name, source):
        self.id = c.compute.create_server(name=name, image_id=source.id, flavor_id=flavor.id, networks="none").id

    def wait(self):
        """Until it writes and its agent answers."""
        until("the server is active", 600, lambda: self.now().status in ("ACTIVE", "ERROR"), 0.5)
        server = self.now()
        if server.status != "ACTIVE":
            raise RuntimeError(f"server: {server.fault}")
        self.domain = server.instance_name
        until("the server writes", 300, lambda: self.records(), 0.5)
        until("its agent answers", 300, lambda: "return" in self.agent("guest-ping"), 0.5)
        return self

    def now(self):
        return c.compute.get_server(self.id)

    def agent(self, command, **arguments):
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        return run("virsh", "qemu-agent-command", "--timeout", "5", self.domain, json.dumps(request), check=False)

    def fill(self, mebibytes):
        """Writes so much data of its own, which its image had not."""
        script = f"dd if=/dev/urandom of=/mnt/own bs=1M count={mebibytes} && sync"
        pid = json.loads(self.agent("guest-exec", path="/bin/sh", arg=["-c", script]))["return"]["pid"]
        done = until(
            "the server's own data", 300, lambda: (now := json.loads(self.agent("guest-exec-status", pid=pid))["return"])["exited"] and now
        )
        assert done["exitcode"] == 0, done

    def records(self):
        """What the writer has acknowledged: sequence, time and latency of each."""
        console = Path(f"/var/lib/nova/instances/{self.id}/console.log")
        if not console.exists():
            return []
        found = re.findall(r"(?m)^(\d+) vda (\d+) (\d+)\r?$", console.read_text("utf-8", "replace"))
        return [tuple(map(int, words)) for words in found]

    def writes(self, seconds=60):
        last = self.records()[-1]
        until("the server writes on", seconds, lambda: self.records()[-1] != last)

    def definition(self):
        return run("virsh", "dumpxml", "--inactive", "--security-info", self.domain)

    def process(self):
        return int(Path(f"/run/libvirt/qemu/{self.domain}.pid").read_text())

    def create_image(self, name):
        return Image(self, name)

    def delete(self):
        c.compute.delete_server(self.id)


class Image:
    """`openstack server image create`."""

    def __init__(self, server, name):
        self.server, self.began, self.acknowledged = server, time.time(), server.records()[-1][0]
        made = c.compute.create_server_image(server.id, name)
        self.id = made.id if hasattr(made, "id") else made

    def outcome(self, seconds=300):
        """When the server has no task any more: the image's status, or "gone"."""

        def over():
            try:
                status = c.image.get_image(self.id).status
            except openstack.exceptions.NotFoundException:
                status = "gone"
            busy = self.server.now().task_state is not None
            return None if busy or status in ("queued", "saving") else status

        status = until("the image", seconds, over)
        self.took = time.time() - self.began
        return status

    def prove(self):
        """Whole, in order, clean without a replay, and with all that was acknowledged before it was asked for."""
        path = Path(f"/var/lib/nova/{self.id}")
        with path.open("wb") as file:
            c.image.download_image(c.image.get_image(self.id), output=file)
        found = json.loads(run("records", str(path), "--format", "qcow2", "--json"))
        path.unlink()
        assert found["last"] >= self.acknowledged, (found, self.acknowledged)
        assert found["fs_clean"], found
        return found


def written(server):
    """Bytes that the server's QEMU, and nova-compute with what it has run, have sent to disks."""
    pids = server.process(), compute_process()
    return sum(int(re.search(r"(?m)^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text())[1]) for pid in pids)


def windows(since):
    """Of each freeze, in milliseconds by libvirt's log of the agent: from its request to the answer of its thaw; and from its
    answer to the request of the thaw, which is the driver's part of it."""
    found, times = [], []
    with open("/var/log/os/libvirtd.log", "rb") as file:
        file.seek(since)
        for line in file.read().decode("utf-8", "replace").splitlines():
            if not (stamp := re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\+0000", line)):
                continue
            at = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S.%f").timestamp() * 1000
            if "Send command" in line and "guest-fsfreeze-freeze" in line:
                times = [at]
            elif "Send command" in line and "guest-fsfreeze-thaw" in line and len(times) == 2:
                times.append(at)
            elif "Receive command reply" in line and len(times) in (1, 3):
                times.append(at)
                if len(times) == 4:
                    found.append((times[3] - times[0], times[2] - times[1]))
                    times = []
    return found


@contextlib.contextmanager
def undefined(server):
    """How often the domain loses its definition meanwhile."""
    with subprocess.Popen(
        ["virsh", "event", "--domain", server.domain, "--event", "lifecycle", "--loop"], stdout=subprocess.PIPE, text=True
    ) as watch:
        time.sleep(0.5)
        seen = []
        try:
            yield seen
        finally:
            watch.terminate()
            seen.append(watch.stdout.read().count("Undefined"))


def measure(server, name):
    log = Path("/var/log/os/libvirtd.log").stat().st_size
    before = written(server)
    with undefined(server) as times:
        taken = server.create_image(name)
        status = taken.outcome()
        assert status == "active", status
    bytes_written = written(server) - before
    taken.prove()
    stall = max(latency for _, at, latency in server.records() if at / 1e9 >= taken.began - 1) / 1000
    frozen = windows(log)
    assert len(frozen) == 1, frozen
    c.image.delete_image(taken.id)
    window, between = frozen[0]
    row = {"window": window, "between": between, "stall": stall, "took": taken.took, "written": bytes_written / 2**20, "undefined": times[0]}
    say(f"  {name}: " + ", ".join(f"{key} {value:.1f}" for key, value in row.items()))
    return row


# Parts.


def compare():
    """Image creates with livedisk and with Nova's own driver, in turns."""
    server.fill(64)
    first, later = {LIVEDISK: [], STOCK: []}, {LIVEDISK: [], STOCK: []}
    for turn in range(2):
        for driver in first:
            stop_compute()
            start_compute(driver)
            first[driver].append(measure(server, f"{driver}-{turn}-0"))
            later[driver] += [measure(server, f"{driver}-{turn}-{number}") for number in (1, 2)]
    stop_compute()
    start_compute(LIVEDISK)
    lines = ["| median (lowest to highest) | livedisk | Nova's own driver |", "|---|---|---|"]

    def line(what, key, *groups):
        cells = []
        for driver in first:
            values = sorted(row[key] for group in groups for row in group[driver])
            cells.append(f"{statistics.median(values):.0f} ({values[0]:.0f} to {values[-1]:.0f})")
        lines.append(f"| {what} | {cells[0]} | {cells[1]} |")

    for key, what in (
        ("window", "freeze window, ms: request of the freeze to answer of the thaw, by libvirt's log"),
        ("between", "of it, from the freeze's answer to the request of the thaw, ms: the driver's part"),
        ("stall", "the server's longest write meanwhile, ms"),
    ):
        line(f"{what}; two images, each the first of a nova-compute", key, first)
        line(f"{what}; four later images", key, later)
    for key, what in (
        ("took", "from the request to the active image, s"),
        ("written", "written by QEMU, nova-compute and qemu-img, MiB"),
        ("undefined", "times that the domain lost its definition"),
    ):
        line(f"{what}; all six", key, first, later)
    return "\n".join(lines) + "\n"


def boot():
    """A server that boots from the image of another goes on with its records."""
    taken = server.create_image("to-boot")
    assert taken.outcome() == "active"
    last = taken.prove()["last"]
    other = Server("second", c.image.get_image(taken.id)).wait()
    first = other.records()[0][0]
    assert first == last + 1, (first, last)
    other.delete()
    return f"A server that was booted from such an image went on with record {first}, after {last}, the image's last.\n"


def unharmed(definition):
    assert server.now().status == "ACTIVE" and server.now().task_state is None
    assert server.definition() == definition, "the definition is another one"
    assert "<mirror" not in run("virsh", "dumpxml", server.domain)
    server.writes()


def failures():
    """An agent that hangs, and a full disk: no image, and the server as before."""
    definition = server.definition()
    # It hangs for a while, because nobody could wake it from outside.
    script = "a=$(pidof qemu-ga); kill -STOP $a; sleep 40; kill -CONT $a"
    server.agent("guest-exec", path="/bin/sh", arg=["-c", script])
    time.sleep(1)
    status = server.create_image("agent-hangs").outcome()
    assert status == "gone", status
    unharmed(definition)
    until("the agent answers again", 120, lambda: "return" in server.agent("guest-ping"), 1)

    SNAPSHOTS.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=8M,mode=755,uid=nova,gid=nova", "tmpfs", str(SNAPSHOTS))
    try:
        status = server.create_image("no-space").outcome()
        assert status == "gone", status
        assert not list(SNAPSHOTS.iterdir()), "a file is left"
    finally:
        run("umount", str(SNAPSHOTS))
    unharmed(definition)
    return "With an agent that hangs, and with a full disk: no image was left, and the server was as before.\n"


def killed():
    """nova-compute is killed while the server is frozen."""
    definition = server.definition()
    stop_compute()
    start_compute(LIVEDISK, LIVEDISK_LIBRARY="/usr/local/lib/held/liblivedisk.so", LIVEDISK_STOP_AT="fixed in FixPoint")
    begin = LOG.stat().st_size
    server.create_image("killed")
    until("nova-compute is held", 120, lambda: "livedisk: at fixed in FixPoint" in said(begin))
    frozen = time.monotonic()
    stop_compute(signal.SIGKILL)
    server.writes()
    thawed = time.monotonic() - frozen
    begin = LOG.stat().st_size
    start_compute(LIVEDISK)
    assert "livedisk found something on 1 servers" in said(begin), "nothing was found"
    until("the task is cleared", 60, lambda: server.now().task_state is None)
    unharmed(definition)
    assert not [path for path in SNAPSHOTS.glob("*/*")], "an image is left"
    status = server.create_image("after").outcome()
    assert status == "active", status
    return (
        f"nova-compute killed in the freeze window: the server wrote again after {thawed:.1f} s, by the guard. The next"
        " nova-compute rolled the snapshot back, and the next image was active.\n"
    )


def many():
    """Image creates of many servers at the same time."""
    servers = [Server(f"many-{number}", base) for number in range(SERVERS)]
    for one in servers:
        one.wait()
    taken = [one.create_image(f"many-{number}") for number, one in enumerate(servers)]
    statuses = [each.outcome(900) for each in taken]
    assert statuses == ["active"] * SERVERS, statuses
    for each in taken:
        each.prove()
    longest = max(each.took for each in taken)
    for one in servers:
        one.delete()
    return f"{SERVERS} servers' images at the same time: all active and consistent, the last after {longest:.0f} s.\n"


PARTS = [compare, boot, failures, killed, many]

wanted = [part for part in PARTS if not sys.argv[1:] or part.__name__ in sys.argv[1:]]
assert len(wanted) == len(sys.argv[1:] or PARTS), f"the parts are {[part.__name__ for part in PARTS]}"
until("the compute service is known", 240, lambda: [s for s in c.compute.services(binary="nova-compute") if s.state == "up"])
run("nova-manage", "cell_v2", "discover_hosts")
prepare()
say("a server boots")
server = Server("first", base).wait()
told, failed = [], []
for part in wanted:
    say(f"{part.__name__}: {part.__doc__.splitlines()[0]}")
    began = time.monotonic()
    try:
        told.append(part())
    except Exception:
        # The others are worth knowing too.
        traceback.print_exc()
        failed.append(part.__name__)
    outcome = "FAILED" if part.__name__ in failed else "passed"
    say(f"{part.__name__}: {outcome} in {time.monotonic() - began:.0f} s")
nova, libvirt = (run(*command).strip().splitlines()[-1] for command in (["nova-manage", "--version"], ["virsh", "--version"]))
text = "\n".join(told)
print(text)
RESULT.write_text(
    f"\nNova {nova}, libvirt {libvirt}, a server that has written 64 MiB of its own beside its image's 8 MiB, software emulation, {os.cpu_count()} processors.\n\n{text}"
)
sys.exit(f"openstack: failed: {failed}" if failed else 0)
