# SPDX-License-Identifier: LGPL-2.1-or-later
"""snapshot.py DOMAIN TARGET DESTINATION: a live snapshot of one disk, with its progress."""

import sys

import livedisk


def main(domain: str, target: str, destination: str) -> None:
    """Takes the snapshot; Ctrl-C rolls it back."""
    with livedisk.open() as connection:
        with connection.start_live_snapshot(domain, {target: destination}) as operation:
            for progress in operation:
                print(f"{progress.phase} {progress.bytes_done >> 20} of {progress.bytes_total >> 20} MiB")
            report = operation.finish()
    print(f"{report.method}, {report.consistency}-consistent, frozen for {report.freeze_ns / 1e6:.1f} ms")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except livedisk.Error as error:
        sys.exit(str(error))
