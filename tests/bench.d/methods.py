# SPDX-License-Identifier: LGPL-2.1-or-later
"""How each tool copies a running guest's disk into an image of its own, frozen at the point in time."""
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from guest import Failure, run

HERE = Path(__file__).resolve().parent


class Tool:
    """Runs a tool's commands; what they and their children took is added up."""

    def __init__(self, guest, out, livedisk):
        self.guest, self.out, self.livedisk = guest, Path(out), livedisk
        self.cpu, self.written = 0.0, 0

    def run(self, *words):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        # virsh keeps a history and a cache, else in the caller's home.
        run(words, timeout=60 + self.guest.size / (10 << 20), env={**os.environ, "XDG_CACHE_HOME": str(self.guest.bed.dir), "LIBVIRT_DEFAULT_URI": self.guest.bed.uri})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.written += 512 * (after.ru_oublock - before.ru_oublock)

    def virsh(self, *commands):
        """One process and one connection for all of them, as whoever cares would."""
        self.run("virsh", "-q", "; ".join(commands))

    def snapshot(self, method, *more):
        disk = f"vda={self.out}"
        self.run(self.livedisk, "snapshot", self.guest.name, "--disk", disk, "--format", "qcow2", "--method", method,
                 "--quiesce", "require", "--quiet", *more)


def blockcopy(tool):
    name = tool.guest.name
    tool.virsh(f"blockcopy {name} vda --dest {tool.out} --format qcow2 --transient-job --wait")
    tool.virsh(f"domfsfreeze {name}", f"blockjob {name} vda --abort", f"domfsthaw {name}")


def external_snapshot(tool):
    name, overlay = tool.guest.name, tool.guest.bed.dir / "overlay"
    take = f"snapshot-create-as {name} --disk-only --atomic --no-metadata --diskspec vda,file={overlay}"
    tool.virsh(f"domfsfreeze {name}", take, f"domfsthaw {name}")
    # -U: QEMU holds the image's lock, for reading only since the snapshot.
    tool.run("qemu-img", "convert", "-U", "-f", tool.guest.format, "-O", "qcow2", tool.guest.image, tool.out)
    # Into the image alone: without --shallow it would go on into the backing file.
    tool.virsh(f"blockcommit {name} vda --active --shallow --wait --pivot")
    overlay.unlink()


def backup_begin(tool):
    name, job = tool.guest.name, tool.guest.bed.dir / "backup.xml"
    job.write_text(f"<domainbackup><disks><disk name='vda' type='file'><driver type='qcow2'/><target file='{tool.out}'/></disk>"
                   "</disks></domainbackup>")
    tool.virsh(f"domfsfreeze {name}", f"backup-begin {name} {job}", f"domfsthaw {name}")
    deadline = time.monotonic() + 900
    while "None" not in tool.guest.bed.virsh("domjobinfo", name):
        if time.monotonic() > deadline:
            raise Failure("the backup does not end")
        time.sleep(0.05)


def local(uri):
    """It wants a user and a password for any qemu+..., also where libvirt asks for none."""
    return uri.replace("qemu+unix:", "qemu:")


def virtnbdbackup(tool):
    tool.run("virtnbdbackup", "-U", local(tool.guest.bed.uri), "-d", tool.guest.name, "-l", "copy", "-i", "vda", "-n", "-o", f"{tool.out}.d")


def await_let_go(image):
    """Until its qemu-nbd, which it does not wait for, has closed the image."""
    deadline = time.monotonic() + 30
    while subprocess.run(["qemu-img", "info", "-f", "qcow2", image], capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            raise Failure(f"{image} is not let go")
        time.sleep(0.1)


def restore_virtnbdbackup(tool):
    """Its own format, made an image."""
    made = Path(f"{tool.out}.r")
    run(["virtnbdrestore", "-U", local(tool.guest.bed.direct), "-n", "-L", f"{tool.out}.log", "-i", f"{tool.out}.d", "-o", made])
    image = made / tool.guest.image.name
    image.rename(tool.out)
    await_let_go(tool.out)


def of_week(tool, level):
    tool.run("virtnbdbackup", "-U", local(tool.guest.bed.uri), "-d", tool.guest.name, "-l", level, "-i", "vda", "-n", "-o", f"{tool.out}.d")


def full_by_livedisk(tool):
    tool.run(tool.livedisk, "snapshot", tool.guest.name, "--disk", f"vda={tool.out}.full", "--format", "qcow2", "--checkpoint", "full",
             "--quiesce", "require", "--quiet")


def nova(tool):
    guest = tool.guest
    tool.run(sys.executable, "-W", "ignore", HERE / "nova_snapshot.py", guest.bed.uri, guest.name, guest.uuid, guest.image, tool.out)


def noise(tool):
    """Somebody else's copy beside the guest: what any copy costs it."""
    unrelated = tool.guest.bed.dir / "unrelated"
    tool.run("qemu-img", "convert", "-t", "none", "-T", "none", "-f", "qcow2", "-O", "qcow2", unrelated, tool.out)


def mirror(tool):
    tool.snapshot("mirror")


def limited(tool):
    tool.snapshot("mirror", "--bandwidth", "100M")


def clone(tool):
    tool.snapshot("clone")


def backup(tool):
    tool.snapshot("backup")


def offline(tool):
    tool.run("qemu-img", "convert", "-f", tool.guest.format, "-O", "qcow2", tool.guest.image, tool.out)


def have_nova():
    probe = "import nova.conf; from nova.virt.libvirt import driver"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True,
                          env={**os.environ, "OS_NOVA_DISABLE_EVENTLET_PATCHING": "1"})
    return None if done.returncode == 0 else f"Nova cannot be loaded: {done.stderr.strip().splitlines()[-1]}"


def have_virtnbdbackup():
    return None if shutil.which("virtnbdbackup") else "virtnbdbackup is not installed and no package of this distribution's has it"


# Name in the results: (words for people, how, why it cannot be run, what makes an image of its result).
SNAPSHOTS = {
    "nova": ("Nova 34", nova, have_nova, None),
    "blockcopy": ("virsh blockcopy", blockcopy, None, None),
    "external": ("virsh snapshot, convert, commit", external_snapshot, None, None),
    "backup-begin": ("virsh backup-begin", backup_begin, None, None),
    "virtnbdbackup": ("virtnbdbackup", virtnbdbackup, have_virtnbdbackup, restore_virtnbdbackup),
    "mirror": ("livedisk mirror", mirror, None, None),
    "clone": ("livedisk clone", clone, None, None),
    "backup": ("livedisk backup", backup, None, None),
    "limited": ("livedisk mirror, 100 MiB/s", limited, None, None),
    "noise": ("somebody else's copy (noise)", noise, None, None),
}


# A full copy with a checkpoint, then what changed since, with the next; and what makes an image of it.
INCREMENTS = {
    "virtnbdbackup": (lambda tool: of_week(tool, "full"), lambda tool: of_week(tool, "inc"), have_virtnbdbackup, restore_virtnbdbackup),
    "increment": (full_by_livedisk,
                  lambda tool: tool.snapshot("backup", "--since", "full", "--checkpoint", "next", "--backing", f"vda={tool.out}.full"),
                  None, None),
}


def by_hand(tool):
    """The five steps of docs/moving-disks.md, typed."""
    name, source, clone = tool.guest.name, tool.guest.image, tool.out
    first, second = Path(f"{source}.1"), Path(f"{clone}.2")
    tool.virsh(f"snapshot-create-as {name} --disk-only --atomic --no-metadata --diskspec vda,file={first}")
    tool.run("cp", "--reflink=auto", "--sparse=always", source, clone)
    tool.run("sync", clone)
    tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", clone, second)
    tool.virsh(f"blockcopy {name} vda --dest {second} --format qcow2 --shallow --reuse-external --transient-job --wait --pivot",
               f"blockcommit {name} vda --active --wait --pivot")
    for left in (source, first, second):
        left.unlink()


def migrate(tool):
    tool.run(tool.livedisk, "migrate", tool.guest.name, "vda", tool.out, "--method", "clone", "--delete-source", "--quiet")


MIGRATIONS = {"by hand": ("five steps with virsh", by_hand), "migrate": ("livedisk migrate", migrate)}
__all__ = ["Failure", "INCREMENTS", "MIGRATIONS", "SNAPSHOTS", "Tool", "offline"]
