"""docs/error-study.md: tables, findings and the figure, from results/error_study.csv alone."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.error_kernels import NEAR

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "error-study.md"
FIGURE = ROOT / "docs" / "error-study.svg"
MARKS = re.compile(r"(<!-- error-study:begin -->).*(<!-- error-study:end -->)", re.S)
TITLES = {"resnet20-cifar10": "ResNet-20", "vgg16-cifar10": "VGG-16"}
KERNEL = {
    "norm": "norm",
    "entry": "largest entry",
    "top": "λ largest",
    "bottom": "λ smallest",
    "eigenvalues": "λ within 10 %",
}


@dataclass(frozen=True)
class Network:
    """The rows of one network."""

    name: str
    rows: list[dict]

    def errors(self, quantity: str) -> dict[str, dict]:
        """{way: row} of a quantity of the last checkpoint's kernel."""
        return {row["way"]: row for row in self.rows if row["quantity"] == quantity}

    def distances(self) -> dict[str, dict[str, dict]]:
        """{way: {state: row}}, states in order of their exact distance."""
        found: dict[str, dict[str, dict]] = {}
        chosen = [row for row in self.rows if row["quantity"] == "distance"]
        for row in sorted(chosen, key=lambda row: float(row["exact"])):
            found.setdefault(row["way"], {})[row["state"]] = row
        first = list(self.errors("floor"))
        return {way: found[way] for way in first if way in found}

    def holds_from(self, way: str) -> float | None:
        """The smallest exact distance from which on all are right in this way; None: not one."""
        smallest = None
        for row in reversed(self.distances()[way].values()):
            if not float(row["error"]) < NEAR:
                break
            smallest = float(row["exact"])
        return smallest


def read(path: Path = RESULTS / "error_study.csv") -> list[Network]:
    found: dict[str, list[dict]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["network"], []).append(row)
    order = [*TITLES, *found]
    return [Network(name, found[name]) for name in sorted(found, key=order.index)]


def section(network: Network) -> str:
    """Everything about one network."""
    row = network.rows[0]
    commands = dict.fromkeys(row["command"] for row in network.rows)
    parts = [
        f"## {TITLES.get(network.name, network.name)}, N = {row['samples']}",
        f"Trained: {row['training']}. Measured on {row['hardware']}, threads: {row['threads']}, "
        f"torch {row['torch']}, entk {row['entk']}, commit {row['commit']}, {row['date']}:",
        "\n".join(f"    {command}" for command in commands),
        f"Float64 beside the loop of autograd, two samples: {_number(row['error'])}.",
    ]
    for outputs, shape in (("all", "[N·O, N·O]"), ("trace", "[N, N]")):
        parts += [f'### Kernel, `outputs="{outputs}"`, {shape}', _kernel_table(network, outputs)]
    if network.distances():
        parts += ["### Distances", _distance_table(network)]
    parts += ["### Found", findings(network)]
    return "\n\n".join(parts)


def _kernel_table(network: Network, outputs: str) -> str:
    columns = {q: network.errors(f"{outputs} {q}") for q in KERNEL}
    exact = [next(iter(columns[q].values()))["exact"] for q in ("norm", "entry", "top", "bottom")]
    count = next(iter(columns["eigenvalues"].values()))["exact"]
    lines = [["way", *KERNEL.values()], ["exact value", *map(_number, exact), count]]
    for way in columns["norm"]:
        errors = [_number(columns[q][way]["error"]) for q in ("norm", "entry", "top", "bottom")]
        lines.append([way, *errors, columns["eigenvalues"][way]["found"].replace("nan", "–")])
    return _table(lines)


def _distance_table(network: Network) -> str:
    ways = network.distances()
    states = next(iter(ways.values()))
    moved = {row["state"]: row["exact"] for row in network.rows if row["quantity"] == "moved"}
    floors = network.errors("floor")
    lines = [["way", *states, "floor", "right from"]]
    lines.append(["parameters moved", *(_number(moved[s]) for s in states), "", ""])
    lines.append(["exact distance", *(_number(row["exact"]) for row in states.values()), "", ""])
    for way, found in ways.items():
        errors = [_number(found[s]["error"]) for s in states]
        start = network.holds_from(way)
        lines.append([way, *errors, _number(floors[way]["found"]), _from(start)])
    return _table(lines)


def findings(network: Network) -> str:
    """In words, from the numbers."""
    norms, bottoms = network.errors("all norm"), network.errors("all bottom")
    top = float(next(iter(network.errors("all top").values()))["exact"])
    bottom = float(next(iter(bottoms.values()))["exact"])
    kept = network.errors("all eigenvalues")
    count = int(next(iter(kept.values()))["exact"])
    whole = [way for way, row in kept.items() if row["found"] == str(count)]
    some = [f"{w} ({r['found']})" for w, r in kept.items() if r["found"] not in (str(count), "nan")]
    float32 = [float(row["error"]) for way, row in norms.items() if way.startswith("float32 ")]
    lost = [w for w, row in bottoms.items() if not float(row["error"]) < NEAR]
    below = [way for way in lost if float(bottoms[way]["found"]) <= 0]
    lines = [
        f"The kernel in float32 is off by {_number(min(float32))} to {_number(max(float32))}, "
        "whatever the backend and strategy.",
        f"The full kernel's eigenvalues span λ₁/λ_min = {_number(top / bottom)}. All {count} are "
        f"within 10 % with {_list(whole, kept)}; fewer with {_list(some, kept)}.",
        f"The smallest one is lost (off by 10 % or more) with {_list(lost, kept)}"
        + (f"; zero or negative with {_list(below, kept)}." if below else "."),
    ]
    starts: dict[float | None, list[str]] = {}
    for way in network.distances():
        starts.setdefault(network.holds_from(way), []).append(way)
    for start in sorted(starts, key=lambda s: float("inf") if s is None else s):
        what = f"from {_number(start)} on" if start is not None else "at none of the states"
        ways = _list(starts[start], network.distances())
        lines.append(f"Distances are right within 10 % {what}: {ways}.")
    return "\n".join(f"- {line}" for line in lines)


def _list(names: list[str], every: Iterable[str]) -> str:
    """All ways in float32 are one name."""
    plain = [way for way in every if way.startswith("float32 ")]
    if {*plain} <= {*names}:
        names = ["float32", *(name for name in names if name not in plain)]
    return ", ".join(names) if names else "none"


def _from(start: float | None) -> str:
    return "–" if start is None else _number(start)


def _number(value: str | float) -> str:
    """Two digits."""
    value = float(value)
    if value != value:
        return "–"
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def _table(lines: list[list[str]]) -> str:
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


MARKERS = "os^Dv*Pp<>hX8d"


def plot(networks: list[Network], path: Path) -> None:
    """Relative error of every distance over the distance itself, a panel for each network."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "entk", "font.size": 9}
    networks = [network for network in networks if network.distances()]
    figure, axes = plt.subplots(
        1, len(networks), figsize=(10, 4.6), sharey=True, layout="constrained", squeeze=False
    )
    for panel, network in zip(axes[0], networks, strict=True):
        for i, (way, states) in enumerate(network.distances().items()):
            points = [(float(r["exact"]), float(r["error"])) for r in states.values()]
            points = [(x, max(y, 1e-7)) for x, y in points if y == y]
            style = {"marker": MARKERS[i % len(MARKERS)], "color": plt.cm.tab20(i % 20)}
            panel.plot(*zip(*points, strict=True), ms=4, lw=1, label=way, **style)
        panel.axhline(NEAR, color="0.4", lw=0.8, ls="--")
        panel.set(xscale="log", yscale="log", xlabel="exact kernel distance S")
        panel.set_title(TITLES.get(network.name, network.name))
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("relative error of S")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def render(text: str, networks: list[Network]) -> str:
    """The page `text` with what lies between its marks made anew."""
    body = "\n\n".join(section(network) for network in networks)
    return MARKS.sub(lambda m: f"{m[1]}\n\n{body}\n\n{m[2]}", text)


def write() -> None:
    networks = read()
    PAGE.write_text(render(PAGE.read_text(), networks))
    plot(networks, FIGURE)
