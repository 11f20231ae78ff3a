# SPDX-License-Identifier: LGPL-2.1-or-later
"""A nova-compute's driver on the test bed, with the real Nova, and whatever of OpenStack is not Nova left out: images go to
a directory. As a program it is a nova-compute that can be killed: compute.py DIRECTORY WHAT DOMAIN [NAME=VALUE...]"""

import os
import sys
from pathlib import Path

MODE = os.environ["LIVEDISK_NOVA_MODE"]

# Before anything else, as nova-compute does.
from nova import monkey_patch  # noqa: E402

if hasattr(monkey_patch, "patch"):
    monkey_patch.patch(backend=MODE)
else:
    assert MODE == "eventlet", "this Nova has nothing else"

import nova.conf  # noqa: E402
import nova.privsep  # noqa: E402
from nova import config, context, objects  # noqa: E402
from nova.virt import driver, virtapi  # noqa: E402

CONF = nova.conf.CONF
CONTEXT = context.RequestContext("user", "project", is_admin=True)
IMAGE_ID = "5e5e5e5e-0000-4000-8000-000000000001"


class Images:
    """What the driver asks of the image service. An upload is kept as the file `uploaded`."""

    def __init__(self, directory):
        self.uploaded = Path(directory, "uploaded")
        self.metadata = None

    def get(self, context, image_id):
        return {"id": image_id, "name": "snapshot"}

    def update(self, context, image_id, metadata, data=None, purge_props=False):
        self.metadata = metadata
        with open(self.uploaded, "wb") as file:
            while block := data.read(1 << 20):
                file.write(block)


def make(directory, uri):
    """The driver that nova.conf names, as nova-compute loads it; its directories are below `directory`."""
    configuration = Path(directory, "nova.conf")
    configuration.write_text(
        "[DEFAULT]\n"
        "compute_driver = livedisk.LiveDiskDriver\n"
        "my_ip = 127.0.0.1\n"
        f"state_path = {directory}\n"
        f"instances_path = {directory}/instances\n"
        "[libvirt]\n"
        "virt_type = qemu\n"
        f"connection_uri = {uri}\n"
        f"snapshots_directory = {directory}/snapshots\n"
        "[oslo_concurrency]\n"
        f"lock_path = {directory}/lock\n"
    )
    for name in "instances", "snapshots", "lock":
        Path(directory, name).mkdir(exist_ok=True)
    config.parse_args(["nova-compute"], [str(configuration)], configure_db=False, init_rpc=False)
    objects.register_all()
    # Root needs no helper.
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    made = driver.load_compute_driver(virtapi.VirtAPI())
    made._image_api = Images(directory)
    # 26 asks the database which instances there are, and there is no database.
    if hasattr(made, "_register_all_undefined_instance_details"):
        made._register_all_undefined_instance_details = lambda: None
    return made


def instance(uuid, **properties):
    """The server that is the domain, booted from an image with these properties."""
    return objects.Instance(
        CONTEXT,
        id=1,
        uuid=uuid,
        project_id="project",
        user_id="user",
        image_ref=IMAGE_ID,
        kernel_id="",
        ramdisk_id="",
        os_type=None,
        architecture=None,
        hostname="server",
        display_name="server",
        system_metadata={
            "image_disk_format": "qcow2",
            "image_container_format": "bare",
            **{f"image_{name}": value for name, value in properties.items()},
        },
    )


def snapshot(made, server):
    """As ComputeManager calls it; the task states that it went through."""
    states = []
    made.snapshot(CONTEXT, server, IMAGE_ID, lambda task_state, expected_state=None: states.append(task_state))
    return states


def main(directory, what, uuid, *properties):
    made = make(directory, os.environ["LIVEDISK_TEST_URI"])
    made.init_host("host")
    CONF.set_override("bandwidth", int(os.environ.get("BANDWIDTH", "0")), group="livedisk")
    server = instance(uuid, **dict(word.split("=") for word in properties))
    print("begins", flush=True)
    if what == "quiesce":
        made.quiesce(CONTEXT, server, server.image_meta)
    else:
        snapshot(made, server)
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
