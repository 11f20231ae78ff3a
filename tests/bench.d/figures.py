# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of the benchmark's results. `figures.py RESULTS [--print]` prints them, and writes them into the pages between
`<!-- figures: NAME -->` and `<!-- end of figures -->`; `figures.py RESULTS --check` fails where a page says something else."""
import json
import re
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", "docs/snapshots.md", "docs/moving-disks.md", "docs/scale.md", "docs/benchmark.md"]
GIB = 1 << 30
NAMES = {
    "nova": "Nova {nova}",
    "blockcopy": "virsh blockcopy",
    "external": "virsh snapshot, convert, commit",
    "backup-begin": "virsh backup-begin",
    "virtnbdbackup": "virtnbdbackup {virtnbdbackup}",
    "mirror": "**livedisk mirror**",
    "clone": "**livedisk clone**",
    "backup": "**livedisk backup**",
    "limited": "livedisk mirror, 100 MiB/s",
    "noise": "somebody else's copy beside the guest",
    "by hand": "five steps with virsh",
    "migrate": "**livedisk migrate**",
    "increment": "**livedisk backup**",
}
MARK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


class Results:
    def __init__(self, path):
        self.all = json.loads(Path(path).read_text())
        self.machine = self.all["machine"]

    def rows(self, part, **wanted):
        """Without warm-ups."""
        return [row for row in self.all.get(part, []) if not row.get("warm_up") and all(row.get(key) == value for key, value in wanted.items())]

    def values(self, part, figure, **wanted):
        found = [figure(row) for row in self.rows(part, **wanted)]
        return [value for value in found if value is not None]

    def sizes(self, part, **wanted):
        return sorted({row["size"] for row in self.rows(part, **wanted)})

    def name(self, row):
        versions = {key: (value or "?").split()[-1] for key, value in self.machine["versions"].items()}
        return NAMES[row].format(**versions)


def middle(values, digits=0):
    """Median, and what the values spread over."""
    if not values:
        return "-"
    shown = f"{median(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def gib(size):
    return f"{size / GIB:g} GiB"


def window(row):
    return row.get("window_ms")


def ratio(row):
    return row["window_ms"] / row["bare"]["window_ms"] if row.get("window_ms") and row["bare"]["window_ms"] else None


def parts(results, **wanted):
    """Medians of the window's parts."""
    found = results.values("snapshots", lambda r: r.get("window_parts_ms"), **wanted)
    return " / ".join(f"{median(part):.0f}" for part in zip(*found)) or "-"


def order(results, **wanted):
    found = {row["row"] for row in results.rows("snapshots", **wanted)}
    return [name for name in NAMES if name in found]


def whole(results, fs, cache):
    """All columns, the biggest size for what the guest feels."""
    sizes = results.sizes("snapshots", fs=fs, cache=cache)
    if not sizes:
        return "Not measured in this run.\n"
    biggest = max((size for size in sizes if len(order(results, fs=fs, cache=cache, size=size)) > 5), default=sizes[0])
    head = ["", "window, ms", "of it freeze / between / thaw", "times the bare pair", f"stall at the freeze, ms, {gib(biggest)}", "worst other", "99.9th percentile",
            "writes/s", f"total, s: {', '.join(gib(size) for size in sizes)}", f"written, MiB, {gib(biggest)}", "client CPU, s"]
    body = []
    for row in order(results, fs=fs, cache=cache):
        of = {"fs": fs, "cache": cache, "row": row}
        at = {**of, "size": biggest}
        totals = [middle(results.values("snapshots", lambda r: r["total_s"], **of, size=size), 1).split(" ")[0] for size in sizes]
        one = lambda figure, digits=0: middle(results.values("snapshots", figure, **at), digits)  # noqa: E731
        body.append([
            results.name(row), middle(results.values("snapshots", window, **of)), parts(results, **of), middle(results.values("snapshots", ratio, **of), 2),
            one(lambda r: r["stall_ms"] if r["window_ms"] else None), one(lambda r: r["worst_other_ms"]), one(lambda r: r["p999_ms"]),
            one(lambda r: r["writes_per_s"]), " / ".join(totals), one(lambda r: r["written"] / (1 << 20)).split(" ")[0],
            one(lambda r: r["client_cpu_s"], 1).split(" ")[0],
        ])
    off = [middle(results.values("offline", lambda r: r["total_s"], fs=fs, size=size), 1) for size in sizes]
    body.append(["qemu-img convert, guest off", "-", "-", "-", "-", "-", "-", "-", " / ".join(off), "-", "-"])
    alone = {"fs": fs, "cache": cache}
    pairs = lambda figure: middle(results.values("snapshots", lambda r: r["bare"][figure], **alone))  # noqa: E731
    calm = lambda figure: middle(results.values("snapshots", lambda r: r["quiet"][figure], **alone))  # noqa: E731
    body.append(["bare freeze and thaw", pairs("window_ms"), "-", "1", pairs("stall_ms"), "-", "-", "-", "-", "-", "-"])
    body.append(["the guest left alone", "-", "-", "-", "-", calm("worst_other_ms"), calm("p999_ms"), calm("writes_per_s"), "-", "-", "-"])
    missing = sorted({(row["row"], f", {gib(row['size'])}" if row["size"] else "", row["reason"].split("\n")[0][:160]) for row in results.all["not_run"]
                      if row["fs"] == fs and row.get("cache", cache) in (cache, "all")})
    notes = "".join(f"\nNot run: {NAMES.get(row, row).format(**{'nova': '', 'virtnbdbackup': ''}).strip()}{size}: {reason}.\n"
                    for row, size, reason in missing)
    return table(head, body) + notes


def shown_of(results):
    """What one table or picture is of: ext4, cache none, the biggest size that all tools did."""
    of = {"fs": "ext4", "cache": "none"}
    sizes = results.sizes("snapshots", **of)
    return {**of, "size": max((size for size in sizes if len(order(results, **of, size=size)) > 5), default=sizes[0])} if sizes else None


def headline(results):
    """For the README: windows and stalls at the size that all tools did."""
    of = shown_of(results)
    if not of:
        return "Not measured in this run.\n"
    body = []
    for row in order(results, **of):
        if row in ("limited", "noise"):
            continue
        one = lambda figure, digits=0: middle(results.values("snapshots", figure, **of, row=row), digits).split(" ")[0]  # noqa: E731
        body.append([results.name(row), one(window), one(ratio, 2), one(lambda r: max(r["stall_ms"], r["worst_other_ms"])),
                     one(lambda r: r["total_s"], 1), one(lambda r: r["written"] / (1 << 20))])
    head = [f"{gib(of['size'])} on ext4", "frozen, ms", "times a bare freeze and thaw", "guest's longest write, ms", "total, s", "written, MiB"]
    return table(head, body)


def increments(results):
    """What changed since a full copy."""
    body = []
    mib = lambda key: lambda r: r[key] / (1 << 20)  # noqa: E731
    for size in results.sizes("increments"):
        for row in ("virtnbdbackup", "increment"):
            one = lambda figure, digits=0: middle(results.values("increments", figure, size=size, row=row), digits)  # noqa: E731
            if results.rows("increments", size=size, row=row):
                body.append([results.name(row), gib(size), one(mib("changed"), 1), one(window), one(ratio, 2), one(lambda r: max(r["stall_ms"], r["worst_other_ms"])),
                             one(lambda r: r["total_s"], 1), one(mib("written"), 1), one(mib("image_bytes"), 1), one(lambda r: r["client_cpu_s"], 1)])
    head = ["", "disk, beside its file system", "changed, MiB", "window, ms", "times the bare pair", "guest's longest write, ms", "total, s", "written, MiB", "image, MiB", "client CPU, s"]
    missing = [f"\nNot run: {row['row']}: {row['reason'].splitlines()[0][:160]}.\n" for row in results.all["not_run"] if row["fs"] == "increment"]
    return (table(head, body) if body else "Not measured in this run.\n") + "".join(missing)


def migration(results):
    body = []
    for size in results.sizes("migrations"):
        one = lambda row, figure, digits=2: middle(results.values("migrations", figure, size=size, row=row), digits)  # noqa: E731
        total = lambda row: results.values("migrations", lambda r: r["total_s"], size=size, row=row)  # noqa: E731
        times = f"{median(total('migrate')) / median(total('by hand')):.2f}" if total("migrate") and total("by hand") else "-"
        body.append([gib(size), one("migrate", lambda r: r["total_s"]), one("by hand", lambda r: r["total_s"]), times,
                     one("migrate", lambda r: r["worst_other_ms"], 0), one("by hand", lambda r: r["worst_other_ms"], 0)])
    head = ["raw disk, full", "livedisk migrate, s", "five steps with virsh, s", "ratio", "longest guest write, ms", "by hand"]
    return table(head, body)


def cost(results):
    found = results.all.get("cost")
    if not found:
        return "Not measured in this run.\n"
    trips = []
    for row in ("mirror", "clone", "backup"):
        counts = results.values("snapshots", lambda r: r["round_trips"], row=row, fs="ext4")
        inside = next((r["inside"] for r in results.rows("snapshots", row=row, fs="ext4") if r["inside"]), [])
        trips.append([f"libvirt calls of a `{row}`, guard included", f"{middle(counts)}; in the window: {', '.join(inside) or '-'}"])
    counts = results.values("migrations", lambda r: r["round_trips"], row="migrate")
    idle, busy, after = found["idle"], found["one_operation"], found["after"]
    change = lambda key: f"{idle[key]} / {busy[key]} / {after[key]}"  # noqa: E731
    body = [
        ["a poll, without a libvirt call", f"{found['poll_ns']} ns"],
        ["a start, until it returns", f"{found['start_ms']:.0f} ms"],
        *trips,
        ["libvirt calls of a migration", middle(counts)],
        ["threads: connected / one operation / after it", change("threads")],
        ["descriptors", change("descriptors")],
        ["memory, KiB", change("memory_kib")],
        ["`livedisk status`, start to end", f"{found['start_up_ms']} ms (`virsh list`: {found['virsh_start_up_ms']} ms)"],
        ["stripped: command, library, guard", ", ".join(f"{found[key] / 1024:.0f} KiB" for key in
                                                         ("command_bytes", "library_bytes", "guard_bytes") if found.get(key))],
    ]
    return table(["what", "how much"], body)


def conditions(results):
    machine, versions = results.machine, results.machine["versions"]
    rounds = max((sum(1 for _ in results.rows("snapshots", fs="ext4", cache="none", size=size, row="mirror"))
                  for size in results.sizes("snapshots", fs="ext4", cache="none")), default=0)
    kind = "`make bench QUICK=1`" if machine["quick"] else f"`make bench MINUTES={machine['minutes']:g}`"
    load = ", ".join(f"{value:.1f}" for value in (machine["load_before"][0], results.all["load_after"][0]))
    warm = "without a warm-up" if machine["quick"] else "after a warm-up"
    return (f"Measured by {kind} on {machine['date']}: {machine['processors']} x {machine['processor']}, {machine['memory_mib']} MiB, "
            f"{machine['emulation']}, Linux {machine['kernel']}, {versions['libvirt']}, {versions['qemu']}. Load average before and "
            f"after: {load}. Medians of up to {rounds} rounds {warm}, with the spread in parentheses; tools in turn, before each "
            "a bare freeze and thaw. Each image was checked.\n")


def scale(results):
    """Many guests at once, and libvirt's own calls beside them."""
    body = []
    for number in sorted({row["guests"] for row in results.rows("scale")}):
        for row in ("mirror", "clone", "backup"):
            found = results.rows("scale", guests=number, row=row)
            if not found:
                continue
            every = lambda key: [value for one in found for value in one[key]]  # noqa: E731
            wall, floor = median(one["wall_s"] for one in found), median(one["floor_s"] for one in found)
            elapsed = every("elapsed_s")
            # Only one of them runs in the runs with a single guest.
            fair = f"{max(elapsed) / median(elapsed):.2f}" if number > 1 else "-"
            most = [max(one["most"][key] for one in found) for key in ("threads", "descriptors", "memory_kib")]
            body.append([f"{number}, {row}", f"{wall:.1f}", f"{floor:.1f}", f"{wall / floor:.2f}", middle(every("start_ms")),
                         middle(every("window_ms")), fair, f"{most[0]} / {most[1]} / {most[2] / 1024:.0f}"])
    head = ["guests at once", "wall, s", "libvirt's floor, s", "ratio", "a start, ms", "window of those with an agent, ms",
            "slowest to median", "threads / descriptors / MiB"]
    found, shown = results.all.get("domains"), table(head, body) if body else "Not measured in this run.\n"
    if found:
        shown += (f"\n`recover` of {found['recover_killed']} mirrors whose process was killed in mid-copy: {found['recover_killed_s']:.1f} s. "
                  f"With {found['domains']} domains: `status` {found['status_s']:.2f} s, `recover` {found['recover_s']:.2f} s, "
                  f"`virsh list --all` {found['list_s']:.2f} s.\n")
    missing = [f"\nNot run: {row['row']}: {row['reason']}.\n" for row in results.all["not_run"] if row.get("cache") == "scale"]
    return shown + "".join(missing)


# What `auto` takes (src/operation/snapshot/plan.rs): blocks can be shared only on XFS here.
STORAGE = [("ext4", "ext4, overlay on a backing file", "mirror"), ("xfs", "XFS with shared blocks", "clone")]


def choice(results):
    """Which of our methods is best at what."""
    wishes = [("shortest freeze", window, "ms"), ("least felt", lambda r: max(r["stall_ms"], r["worst_other_ms"]), "ms"),
              ("shortest", lambda r: r["total_s"], "s"), ("least written", lambda r: r["written"] / (1 << 20), "MiB")]
    body = []
    for fs, storage, auto in STORAGE:
        for size in results.sizes("snapshots", fs=fs, cache="none"):
            line = [storage, gib(size), f"`{auto}`"]
            for _, figure, unit in wishes:
                found = {row: results.values("snapshots", figure, fs=fs, cache="none", size=size, row=row) for row in ("mirror", "clone", "backup")}
                ranked = sorted((median(values), row) for row, values in found.items() if values)
                shown = lambda value: f"{value:.1f}" if unit == "s" else f"{value:.0f}"  # noqa: E731
                line.append(", ".join(f"`{row}` {shown(value)}" for value, row in ranked) or "-")
            body.append(line)
    head = ["storage", "written since the backing file", "`auto` takes", *(f"{wish}, {unit}" for wish, _, unit in wishes)]
    return table(head, body) if body else "Not measured in this run.\n"


def picture(results):
    """For the README."""
    of = shown_of(results)
    if not of:
        return "Not measured in this run.\n"
    shown = "; ".join(f"{middle(results.values('snapshots', window, **of, row=row)).split(' ')[0]} ms with {results.name(row).replace('*', '')}"
                      for row in order(results, **of) if results.values("snapshots", window, **of, row=row) and row != "limited")
    pair = middle(results.values("snapshots", lambda r: r["bare"]["window_ms"], **of)).split(" ")[0]
    return f"![The guest is frozen for {pair} ms by freeze and thaw alone; {shown}](docs/freeze-window.svg)\n"


def plot(name, part, title, **wanted):
    return lambda results: f"![{title}](bench-{name}.svg)\n" if results.sizes(part, **wanted) else "Not measured in this run.\n"


SECTIONS = {
    "conditions": conditions,
    "picture": picture,
    "headline": headline,
    "choice": choice,
    "ext-none": lambda results: whole(results, "ext4", "none"),
    "ext-writeback": lambda results: whole(results, "ext4", "writeback"),
    "xfs-none": lambda results: whole(results, "xfs", "none"),
    "xfs-writeback": lambda results: whole(results, "xfs", "writeback"),
    "increments": increments,
    "migration": migration,
    "scale": scale,
    "cost": cost,
    "plot-window": plot("window", "snapshots", "How long the guest is frozen, by size", fs="ext4", cache="none"),
    "plot-latency": plot("latency", "snapshots", "What the guest feels while each tool runs", fs="ext4", cache="none"),
    "plot-total": plot("total", "snapshots", "Start to end, by size", fs="ext4", cache="none"),
    "plot-migration": plot("migration", "migrations", "Moving a full raw disk on XFS, by size"),
}


def filled_in(text, path):
    if not Path(path).exists():
        return MARK.sub(lambda found: f"{found[1]}No results are committed yet; `make bench` writes them.\n{found[3]}", text)
    results = Results(path)
    return MARK.sub(lambda found: f"{found[1]}{SECTIONS[found[2]](results)}{found[3]}", text)


def main():
    path, words = sys.argv[1], sys.argv[2:]
    stale = []
    for page in (ROOT / name for name in PAGES):
        text = page.read_text()
        filled = filled_in(text, path)
        if filled == text:
            continue
        if "--check" in words:
            stale.append(str(page.relative_to(ROOT)))
        else:
            page.write_text(filled)
    if stale:
        sys.exit(f"{', '.join(stale)}: the figures are not those of {sys.argv[1]}; write them: python3 tests/bench.d/figures.py {sys.argv[1]}")
    if "--check" not in words and Path(path).exists():
        results = Results(path)
        for section in ("conditions", "ext-none", "xfs-none", "migration", "scale", "cost"):
            print(SECTIONS[section](results))


if __name__ == "__main__":
    main()
