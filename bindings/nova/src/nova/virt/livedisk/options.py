# SPDX-License-Identifier: LGPL-2.1-or-later
"""The group [livedisk] of nova.conf. ``oslo-config-generator --namespace nova.virt.livedisk`` prints it."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "livedisk",
    title="Snapshots by livedisk",
    help="How LiveDiskDriver takes live snapshots of servers. It is asked for by ``[DEFAULT] compute_driver = livedisk.LiveDiskDriver``.",
)

OPTIONS = [
    cfg.StrOpt(
        "method",
        default="auto",
        choices=[
            ("auto", "the cheapest method that cannot hurt the server"),
            ("mirror", "one full copy, as of its end; needs nothing of the file system"),
            ("clone", "a clone of the quiet image, as of its start; quick where the file system clones"),
            ("backup", "libvirt's backup job, as of its start; what the server overwrites is saved beside its disk"),
        ],
        help="How a live snapshot is taken.",
    ),
    cfg.FloatOpt(
        "freeze_limit",
        default=10.0,
        min=0.001,
        max=3600.0,
        help="Seconds that a server's file systems may be frozen for a live snapshot. Past it the server is thawed, and the "
        "snapshot fails.",
    ),
    cfg.FloatOpt(
        "quiesce_limit",
        default=60.0,
        min=0.001,
        max=3600.0,
        help="Seconds that a volume-backed server's file systems may be frozen while the volume service takes its snapshots. Past "
        "it the server is thawed, and to unquiesce it is an error that says so: what was taken later is not consistent. An API "
        "that dies before it unquiesces a server leaves it frozen no longer than that.",
    ),
    cfg.IntOpt(
        "bandwidth",
        default=0,
        min=0,
        max=1 << 30,
        help="MiB per second that a snapshot or a swap of volumes may copy at most. 0: no limit.",
    ),
    cfg.BoolOpt(
        "verify",
        default=False,
        help="Check each image when it is complete, and its content where the server wrote nothing meanwhile.",
    ),
    cfg.BoolOpt(
        "write_blocking",
        default=False,
        help="The server's writes may wait for the copy, so that the copy always catches up with a server that writes faster "
        "than the destination. A destination that hangs then stalls the server.",
    ),
]


def register(conf):
    """Makes the group known to ``conf``; again is fine."""
    conf.register_group(GROUP)
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts():
    """What oslo.config's sample generator asks for."""
    return [(GROUP, OPTIONS)]
