# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's own floor: the same calls as livedisk's methods make, from threads with a connection each, and nothing else.
`floor.py URI METHOD DIRECTORY THREADS DOMAIN...` prints how many seconds it took."""
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

import libvirt

POLL_S = 0.01
DEADLINE_S = 600


def await_that(what, done):
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(POLL_S)


def at_one_point(domain, fix):
    """Frozen, where there is an agent."""
    frozen = "org.qemu.guest_agent.0" in domain.XMLDesc()
    if frozen:
        domain.fsFreeze()
    try:
        fix()
    finally:
        if frozen:
            domain.fsThaw()


def is_ready(domain):
    info = domain.blockJobInfo("vda")
    return info and info["end"] > 0 and info["cur"] == info["end"] and "ready='yes'" in domain.XMLDesc()


def mirror(domain, out):
    domain.blockCopy("vda", f"<disk type='file'><driver type='qcow2'/><source file='{out}'/></disk>", {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    await_that("a mirror", lambda: is_ready(domain))
    at_one_point(domain, lambda: domain.blockJobAbort("vda"))


def backup(domain, out):
    job = f"<domainbackup><disks><disk name='vda' type='file'><driver type='qcow2'/><target file='{out}'/></disk></disks></domainbackup>"
    at_one_point(domain, lambda: domain.backupBegin(job, None))
    await_that("a backup", lambda: domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE)


def clone(domain, out):
    overlay = f"{out}.overlay"
    image = domain.XMLDesc().split("<source file='")[1].split("'")[0]
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    taken = f"<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='{overlay}'/></disk></disks></domainsnapshot>"
    at_one_point(domain, lambda: domain.snapshotCreateXML(taken, flags))
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", image, out], check=True)
    domain.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW)
    await_that("a commit", lambda: is_ready(domain))
    domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    Path(overlay).unlink()


def main():
    uri, method, directory, threads, *names = sys.argv[1:]
    how, left, failures = {"mirror": mirror, "clone": clone, "backup": backup}[method], Queue(), []
    for name in names:
        left.put(name)

    def work():
        connection = libvirt.open(uri)
        try:
            while True:
                name = left.get_nowait()
                how(connection.lookupByName(name), f"{directory}/{name}.copy")
        except Empty:
            pass
        except Exception as failure:  # noqa: BLE001
            failures.append(failure)

    began = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    print(json.dumps({"wall_s": round(time.monotonic() - began, 3)}))


main()
