"""Results of whole kernels: as CSV, as the table in README and docs, as a plot.

python -m benchmarks.table      # README.md, docs/benchmarks.md and its plot from results/ntk.csv
"""

from __future__ import annotations

import csv
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
