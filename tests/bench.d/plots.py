# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plots of the benchmark's results, as SVG: `plots.py RESULTS` writes docs/bench-*.svg and docs/freeze-window.svg."""
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from statistics import median  # noqa: E402

from figures import GIB, NAMES, ROOT, Results, order, shown_of  # noqa: E402

# The same results give the same file.
matplotlib.rcParams.update({"svg.hashsalt": "livedisk", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False, "font.family": "sans-serif"})
OURS = {"mirror": "#1f7a4d", "clone": "#4ea37a", "backup": "#93c9ac", "migrate": "#1f7a4d"}
OTHERS = ["#c4622d", "#8c959f", "#b08d57", "#6e5494", "#b5495b", "#3b6ea8"]


def colours(rows):
    others = iter(OTHERS)
    return {row: OURS.get(row) or next(others) for row in rows}


def label(results, row):
    return results.name(row).replace("**", "")


def save(figure, name, description):
    figure.savefig(ROOT / "docs" / f"{name}.svg", metadata={"Date": None, "Creator": "livedisk, make bench", "Description": description},
                   bbox_inches="tight")
    plt.close(figure)


def bars(results, part, figure, rows, title, unit, name, **wanted):
    """Of one size: a bar for each row, with the spread."""
    found = [(row, results.values(part, figure, row=row, **wanted)) for row in reversed(rows)]
    found = [(row, values) for row, values in found if values]
    chart, axes = plt.subplots(figsize=(7, 0.5 + 0.32 * len(found)))
    paint = colours(rows)
    for at, (row, values) in enumerate(found):
        middle = median(values)
        axes.barh(at, middle, xerr=[[middle - min(values)], [max(values) - middle]], color=paint[row], ecolor="#59636e", capsize=2)
        axes.annotate(f"{middle:.{0 if middle >= 20 else 1}f}", (max(values), at), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(found)), [label(results, row) for row, _ in found])
    axes.set_xlabel(unit)
    axes.set_title(f"{title}, {results.sizes(part, **wanted)[0] / GIB:g} GiB", loc="left", fontweight="bold")
    save(chart, name, title)


def lines(results, part, figure, rows, title, unit, name, log=True, **wanted):
    """A line for each row, by size, with the spread."""
    if not results.sizes(part, **wanted):
        return None
    if len(results.sizes(part, **wanted)) < 2:
        return bars(results, part, figure, rows, title, unit, name, **wanted)
    chart, axes = plt.subplots(figsize=(7, 3.6))
    paint = colours(rows)
    for row in rows:
        points = []
        for size in results.sizes(part, **wanted):
            values = results.values(part, figure, row=row, size=size, **wanted)
            if values:
                points.append((size / GIB, median(values), min(values), max(values)))
        if points:
            xs, ys, low, high = zip(*points)
            spread = [[y - l for y, l in zip(ys, low)], [h - y for y, h in zip(ys, high)]]
            axes.errorbar(xs, ys, spread, marker="o", markersize=4, capsize=2, color=paint[row], label=label(results, row),
                          linewidth=2 if row in OURS else 1)
    axes.set_xscale("log", base=4)
    axes.set_xticks([size / GIB for size in results.sizes(part, **wanted)], [f"{size / GIB:g} GiB" for size in results.sizes(part, **wanted)])
    axes.minorticks_off()
    if log:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0)
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False)
    save(chart, name, title)


def courses(results):
    """The guest's longest write in each stretch of time, a strip for each method."""
    of = {"fs": "ext4", "cache": "none"}
    sizes = [size for size in results.sizes("snapshots", **of) if any("course" in row for row in results.rows("snapshots", **of, size=size))]
    size = max((size for size in sizes if size <= GIB), default=None)
    rows = {row["row"]: row for row in results.rows("snapshots", **of, size=size) if "course" in row} if size else {}
    if not rows:
        return
    ordered = [row for row in NAMES if row in rows]
    chart, strips = plt.subplots(len(ordered), 1, figsize=(8, 1.05 * len(ordered)), sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(strips[:, 0], ordered):
        row = rows[name]
        xs, ys = zip(*row["course"])
        axes.vlines([x / 1000 for x in xs], 0.5, [max(y, 0.5) for y in ys], color=OURS.get(name, "#8c959f"), linewidth=1)
        axes.axvspan(0, row["total_s"], color="#f3f4f6", zorder=-2)
        if row.get("course_window_ms"):
            axes.axvspan(*(at / 1000 for at in row["course_window_ms"]), color="#c4622d", alpha=0.35, zorder=-1)
        axes.set_yscale("log")
        axes.set_ylim(0.5, 2000)
        axes.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        axes.minorticks_off()
        axes.set_title(label(results, name), loc="left", fontsize=8, pad=2)
    strips[-1, 0].set_xlabel("seconds since the tool was started; grey: while it ran, orange: frozen")
    strips[len(ordered) // 2, 0].set_ylabel("the guest's longest write, ms")
    chart.tight_layout(h_pad=0.4)
    save(chart, "bench-latency", f"What the guest feels, {size / GIB:g} GiB on ext4")


def main():
    results = Results(sys.argv[1])
    of = {"fs": "ext4", "cache": "none"}
    rows = [row for row in order(results, **of) if row not in ("noise", "limited")]
    lines(results, "snapshots", lambda r: r["window_ms"], rows, "How long the guest is frozen", "ms", "bench-window", False, **of)
    lines(results, "snapshots", lambda r: r["total_s"], rows, "Start to end, by what is copied", "s", "bench-total", **of)
    lines(results, "migrations", lambda r: r["total_s"], ["migrate", "by hand"], "Moving a full raw disk on XFS", "s", "bench-migration", False)
    courses(results)
    shown = shown_of(results)
    if shown:
        bars(results, "snapshots", lambda r: r["window_ms"], rows, "How long the guest is frozen, ext4", "ms", "freeze-window", **shown)


main()
