# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nova's own driver takes a live snapshot: `nova_snapshot.py URI DOMAIN UUID IMAGE OUT`. Only what nova-compute would give
the driver (configuration, instance, image properties) is made up here."""
import os
import sys
import types

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"

import nova.conf  # noqa: E402
import nova.privsep  # noqa: E402
from nova import objects  # noqa: E402
from nova.virt.libvirt import driver, utils  # noqa: E402,F401


def main():
    uri, domain, uuid, image, out = sys.argv[1:]
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    conf.set_override("connection_uri", uri, "libvirt")
    conf.set_override("virt_type", "qemu", "libvirt")
    objects.register_all()
    # As in a service that runs as root: no second process for chown.
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    libvirt_driver = driver.LibvirtDriver(None)
    libvirt_driver._host.initialize()
    libvirt_driver._may_keep_vtpm = True
    instance = types.SimpleNamespace(name=domain, uuid=uuid, id=1)
    properties = objects.ImageMetaProps(hw_qemu_guest_agent=True, os_require_quiesce=True)
    guest = libvirt_driver._host.get_guest(instance)
    libvirt_driver._live_snapshot(None, instance, guest, image, out, "qcow2", "qcow2", objects.ImageMeta(properties=properties))
    sys.stdout.flush()
    # Its event threads are no part of a snapshot.
    os._exit(0)


main()
