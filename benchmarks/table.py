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


def read() -> dict[str, dict[str, dict]]:
    """{case: {way: row}} of results/ntk.csv, in its order."""
    found: dict[str, dict[str, dict]] = {}
    with (RESULTS / "ntk.csv").open(newline="") as file:
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
        "| full kernel, float32 | entk | fastest other | times as fast | memory, entk / other |",
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


def where(cases: dict[str, dict[str, dict]]) -> str:
    rows = [row for ways in cases.values() for row in ways.values()]
    found = []
    for key in ("hardware", "threads", "torch", "sgemm_gmacs", "copy_gbs", "commit"):
        values = list(dict.fromkeys(row[key] for row in rows))
        found.append(f"{key} {', '.join(values)}")
    return "; ".join(found)


def main() -> None:
    cases = read()
    drawing = ROOT / "docs" / "benchmarks.svg"
    plot(cases, drawing)
    page = ROOT / "docs" / "benchmarks.md"
    text = f"\n{where(cases)}\n\n{markdown(cases)}\n"
    page.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}{m[2]}", page.read_text()))
    readme = ROOT / "README.md"
    text = f"\n{headline(cases)}\n\n({where(cases)}; `make bench`)\n"
    readme.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}{m[2]}", readme.read_text()))


if __name__ == "__main__":
    main()
