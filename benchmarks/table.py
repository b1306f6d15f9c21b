"""Results of whole kernels: as CSV, as tables in README and docs, as a plot.

python -m benchmarks.table      # README.md, docs/benchmarks.md and its plot from results/ntk.csv
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.cases import SHORT, Case

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = (
    *("case", "way", "median_s", "min_s", "rounds", "peak_gb", "entk_times_as_fast"),
    *("difference", "operations", "share_of_peak", "failed"),
    *("hardware", "threads", "torch", "sgemm_gmacs", "copy_gbs", "commit", "date"),
)


def peaks(device: str) -> dict[str, float]:
    """Measured rates: multiply-adds of a large float32 product, bytes moved by a copy."""
    a, b = (torch.randn(4096, 4096, device=device) for _ in range(2))
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.mm(a, b), device)
    copy = _seconds(lambda: target.copy_(source), device)
    return {"sgemm_gmacs": 4096**3 / product / 1e9, "copy_gbs": 2 * 4 * (1 << 26) / copy / 1e9}


def _seconds(call: Callable, device: str, rounds: int = 5) -> float:
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found[1:])


def kernel_rows(rows: list[dict], entries: list[dict], run: dict) -> list[dict]:
    """One row for each case and way; ratios within a case, shares of this run's own peak."""
    machine, commit = run["machine_info"], run["commit_info"]
    state = f"{commit['id'][:10]}{'+changes' if commit.get('dirty') else ''}"
    keys = ("hardware", "threads", "torch")
    where = {k: machine[k] for k in keys} | {"commit": state, "date": run["datetime"][:10]}
    where |= {k: f"{machine[k]:.0f}" for k in ("sgemm_gmacs", "copy_gbs")}
    stats = {(e["extra_info"]["case"], e["extra_info"]["way"]): e["stats"] for e in entries}
    found = []
    for row in rows:
        timed = stats.get((row["case"], row["way"]))
        out = dict.fromkeys(COLUMNS, "") | where | {k: row[k] for k in ("case", "way")}
        out |= {"operations": f"{row['operations']:.3g}", "failed": row.get("failed", "")}
        if timed:
            ours = stats.get((row["case"], "entk"))
            rate = row["operations"] / timed["median"] / 1e9 / machine["sgemm_gmacs"]
            out |= {
                "median_s": f"{timed['median']:.4g}",
                "min_s": f"{timed['min']:.4g}",
                "rounds": timed["rounds"],
                "peak_gb": f"{row['peak_gb']:.2f}",
                "difference": f"{row['difference']:.1e}",
                "entk_times_as_fast": f"{timed['median'] / ours['median']:.3g}" if ours else "",
                "share_of_peak": f"{rate:.2f}" if row["way"] == "entk" else "",
            }
        found.append(out)
    return found


def write(path: Path, rows: list[dict]) -> None:
    """Rows of cases that were not run this time stay as they are."""
    done = {(row["case"], row["way"]) for row in rows}
    old = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    kept = [row for row in old if (row["case"], row["way"]) not in done]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept + rows)


MARKS = re.compile(r"(<!-- benchmarks:begin -->).*(<!-- benchmarks:end -->)", re.S)
SLOW = re.compile(r"(<!-- slow-pages:begin -->).*(<!-- slow-pages:end -->)", re.S)


def read(name: str = "ntk") -> dict[str, dict[str, dict]]:
    """{case: {way: row}} of results/ntk.csv or another of its kind, in its order."""
    found: dict[str, dict[str, dict]] = {}
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["case"], {})[row["way"]] = row
    return found


def markdown(cases: dict[str, dict[str, dict]]) -> str:
    """A line for each case and way."""
    lines = [
        "| case | way | seconds | peak, GB | entk is as fast, times |",
        "|---|---|---|---|---|",
    ]
    for case, ways in cases.items():
        for way, row in ways.items():
            ratio = row["entk_times_as_fast"]
            if row["failed"]:
                cells = (case, way, f"– ({row['failed'].replace('|', '/')})", "", "")
            else:
                cells = (case, way, row["median_s"], row["peak_gb"], "" if way == "entk" else ratio)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def headline(cases: dict[str, dict[str, dict]]) -> str:
    """One line for each case: entk, the fastest peer, the ratio."""
    lines = [
        "| kernel, float32 | entk | fastest other | times as fast | memory, entk / other |",
        "|---|---|---|---|---|",
    ]
    for case, ways in cases.items():
        others = [r for w, r in ways.items() if w != "entk" and not r["failed"]]
        if "entk" not in ways or not others:
            continue
        ours, best = ways["entk"], min(others, key=lambda r: float(r["median_s"]))
        cells = (
            case,
            f"{float(ours['median_s']):.3g} s",
            f"{float(best['median_s']):.3g} s ({best['way']})",
            f"**{float(best['entk_times_as_fast']):.1f}**",
            f"{ours['peak_gb']} / {best['peak_gb']} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(cases: dict[str, dict[str, dict]], path: Path) -> None:
    """Seconds of every way, a row of points for each case."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "entk", "font.size": 9}
    ways = list(dict.fromkeys(way for case in cases.values() for way in case))
    figure, axes = plt.subplots(figsize=(8, 1 + 0.33 * len(cases)), layout="constrained")
    for i, way in enumerate(ways):
        points = [
            (float(rows[way]["median_s"]), -y)
            for y, rows in enumerate(cases.values())
            if way in rows and not rows[way]["failed"]
        ]
        if points:
            marker = {"marker": "D", "s": 46, "zorder": 3} if way == "entk" else {"s": 24}
            axes.scatter(*zip(*points, strict=True), label=way, color=f"C{i}", **marker)
    axes.set_xscale("log")
    axes.set_xlabel("seconds, median")
    axes.set_yticks([-y for y in range(len(cases))], list(cases))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


NAME = re.compile(r"(?P<network>.+) N=(?P<N>\d+) O=(?P<O>\d+) all")
# what is varied -> (network, the rest held)
SCALING = {
    "N": [("MLP 3x2048", {"O": 10}), ("ResNet-20", {"O": 10}), ("VGG-16", {"O": 10})],
    "O": [("MLP 3x2048", {"N": 64}), ("ResNet-20", {"N": 64})],
    "P": [("MLP", {"N": 64, "O": 10})],
}
LABELS = {"N": "samples N", "O": "outputs O", "P": "parameters P"}


def series(cases: dict[str, dict[str, dict]], axis: str, network: str, held: dict) -> dict:
    """{"entk" or "fastest other": [(value of the axis, row)]} of the full kernels of a network."""
    found: dict[str, list] = {"entk": [], "fastest other": []}
    for case, ways in cases.items():
        match = NAME.fullmatch(case)
        if match is None or any(int(match[key]) != value for key, value in held.items()):
            continue
        family = match["network"].split()[0] if axis == "P" else match["network"]
        if family != network:
            continue
        at = parameters(match["network"]) if axis == "P" else int(match[axis])
        done = {way: row for way, row in ways.items() if not row["failed"]}
        others = [row for way, row in done.items() if way != "entk"]
        if "entk" in done:
            found["entk"].append((at, done["entk"]))
        if others:
            found["fastest other"].append((at, min(others, key=lambda r: float(r["median_s"]))))
    return {way: sorted(points, key=lambda p: p[0]) for way, points in found.items()}


def parameters(network: str) -> int:
    model, *_ = Case(network, 1).make()
    return sum(p.numel() for p in model.parameters())


def plot_scaling(cases: dict[str, dict[str, dict]], path: Path) -> None:
    """Seconds and peak memory of full kernels over N, O and P; a fastest other that is missing
    ran out of time or memory."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    colours = {"MLP 3x2048": "C0", "MLP": "C0", "ResNet-20": "C1", "VGG-16": "C2"}
    lines = {"entk": {"marker": "D"}, "fastest other": {"marker": "o", "ls": "--", "mfc": "white"}}
    figure, axes = plt.subplots(
        2, 3, figsize=(10, 6.5), sharex="col", sharey="row", layout="constrained"
    )
    for column, (axis, networks) in zip(axes.T, SCALING.items(), strict=True):
        for network, held in networks:
            fixed = ", ".join(f"{key} = {value}" for key, value in held.items())
            for way, points in series(cases, axis, network, held).items():
                for panel, key in zip(column, ("median_s", "peak_gb"), strict=True):
                    values = [float(row[key]) for _, row in points]
                    label = f"{network}, {way}"
                    style = lines[way] | {"color": colours[network], "ms": 5, "label": label}
                    panel.plot([at for at, _ in points], values, **style)
        column[0].set_title(fixed)
        column[1].set_xlabel(LABELS[axis])
        for panel in column:
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
            panel.xaxis.set_minor_formatter(NullFormatter())
            ticks = sorted({x for line in panel.lines for x in line.get_xdata()})
            if len(ticks) <= 6:  # the sizes that were timed, rather than powers of ten
                labels = [f"{x:g}" if x < 1e6 else f"{x / 1e6:.3g} M" for x in ticks]
                panel.set_xticks(ticks, labels)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory, GB")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


UNITS = {"sgemm_gmacs": "a product of torch's at {} GMAC/s", "copy_gbs": "a copy at {} GB/s"}


def where(cases: dict[str, dict[str, dict]]) -> str:
    """On what the rows were measured; rates of several runs as a range."""
    rows = [row for ways in cases.values() for row in ways.values()]
    found = [f"{rows[0]['hardware']}, {rows[0]['threads']} cores, torch {rows[0]['torch']}"]
    for key, text in UNITS.items():
        values = sorted({float(row[key]) for row in rows})
        span = f"{values[0]:g} to {values[-1]:g}" if len(values) > 1 else f"{values[0]:g}"
        found.append(text.format(span))
    commits = dict.fromkeys(row["commit"].removesuffix("+changes") for row in rows)
    return "; ".join([*found, f"commit {', '.join(commits)}"])


def main() -> None:
    cases = read()
    plot(cases, ROOT / "docs" / "benchmarks.svg")
    plot_scaling(cases, ROOT / "docs" / "scaling.svg")
    page = ROOT / "docs" / "benchmarks.md"
    text = f"\n{where(cases)}\n\n{headline(cases)}\n\nEvery way:\n\n{markdown(cases)}\n"
    written = MARKS.sub(lambda m: f"{m[1]}\n{text}{m[2]}", page.read_text())
    slow = read("ntk-slow-pages")
    text_slow = f"\n{where(slow)}\n\n{headline(slow)}\n"
    page.write_text(SLOW.sub(lambda m: f"{m[1]}\n{text_slow}{m[2]}", written))
    readme = ROOT / "README.md"
    short = {str(case): cases[str(case)] for case in SHORT if str(case) in cases}
    text = f"\n{headline(short)}\n\n({where(short)}; `make bench`)\n"
    readme.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}{m[2]}", readme.read_text()))


if __name__ == "__main__":
    main()
