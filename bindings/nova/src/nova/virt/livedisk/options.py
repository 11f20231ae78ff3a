# SPDX-License-Identifier: LGPL-2.1-or-later
"""The group [livedisk] of nova.conf. ``oslo-config-generator --namespace nova.virt.livedisk`` prints it."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "livedisk",
    title="Snapshots by livedisk",
    help="How LiveDiskDriver takes live snapshots of servers. ``[DEFAULT] compute_driver = livedisk.LiveDiskDriver`` enables it.",
)

OPTIONS = [
    cfg.StrOpt(
        "method",
        default="auto",
        choices=[
            ("auto", "the cheapest method that cannot hurt the server"),
            ("mirror", "one full copy, with the content of its end; works on any file system"),
            ("clone", "a clone of the unchanging image, with the content of its start; fast where the file system shares blocks"),
            (
                "backup",
                "libvirt's backup job, with the content of its start; scratch files beside the server's disk take what it "
                "overwrites; only where QEMU runs as nova-compute's user",
            ),
            (
                "rebase",
                "like mirror, by the libvirt call that Nova's own driver uses, for old hosts; the domain is undefined for a "
                "moment; not with write_blocking",
            ),
        ],
        help="How a live snapshot is taken.",
    ),
    cfg.FloatOpt(
        "freeze_limit",
        default=10.0,
        min=0.001,
        max=3600.0,
        help="Seconds that a server's file systems may be frozen for a live snapshot. When they have passed, the server is thawed "
        "and the snapshot fails.",
    ),
    cfg.FloatOpt(
        "quiesce_limit",
        default=60.0,
        min=0.001,
        max=3600.0,
        help="Seconds that a volume-backed server's file systems may be frozen while the volume service takes its snapshots. When "
        "they have passed, the server is thawed, and a later unquiesce fails, because the snapshots are not consistent. So an API "
        "that dies before the unquiesce leaves no server frozen for longer.",
    ),
    cfg.IntOpt(
        "bandwidth",
        default=0,
        min=0,
        max=1 << 30,
        help="The most that a snapshot or a volume swap may copy, in MiB per second. 0: no limit.",
    ),
    cfg.BoolOpt(
        "verify",
        default=False,
        help="Check each image when it is complete, and compare its content if the server wrote nothing meanwhile.",
    ),
    cfg.BoolOpt(
        "write_blocking",
        default=False,
        help="Let the server's writes wait for the copy, so that the copy catches up even with a server that writes faster than "
        "the destination. A destination that hangs then stalls the server.",
    ),
]


def register(conf):
    """Registers the group with ``conf``. Safe to repeat."""
    conf.register_group(GROUP)
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts():
    """For oslo.config's sample generator."""
    return [(GROUP, OPTIONS)]
