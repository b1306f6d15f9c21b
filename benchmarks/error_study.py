"""The relative error of every precision on trained networks, and which distances survive it.

python -m benchmarks.error_study --data cifar10.npz                            # ResNet-20
python -m benchmarks.error_study --data cifar10.npz --model vgg16-cifar10 --samples 16
python -m benchmarks.error_study --page       # docs/error-study.md and its figure from the CSV

Trains with twophase (or goes on with what --out holds), measures, and replaces the network's rows
of results/error_study.csv. `--device cuda` takes the products of the Triton backend in place of the
emulated ones and writes results/gpu-error_study.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import error_kernels as kernels
from benchmarks import error_page as page
from benchmarks import error_states
from benchmarks.error_states import State
from entk.errors import EntkError
from twophase import environment
from twophase.errors import UserError
from twophase.rundir import RunDir

MEASURED = ("way", "quantity", "state", "exact", "found", "error")
COLUMNS = (
    *("network", "samples", *MEASURED, "training"),
    *("hardware", "threads", "torch", "entk", "commit", "command", "date"),
)
TWINS = "1e-7,1e-6,1e-5,1e-4,1e-3,1e-2"


def study(found: list[State], x: Tensor) -> Iterator[list[dict]]:
    """Rows of `MEASURED`: of the first state's kernel; then of the distance of each other to it.

    Quantities of a kernel are those of `kernel_errors`, for outputs "all" and "trace". "floor": the
    distance of the kernel in one way to the one in float64. "distance": of a state to the first,
    both in one way, error relative to the exact one. "moved": how far apart the parameters are.
    """
    first = found[0]
    error = kernels.check_truth(first.model, x)
    rows = [_row("float64", "oracle", first.name, 0.0, error, error)]
    made = kernels.computed(first.model, x, ("all", "trace"), slow=True)
    truths = {outputs: kernels.truth(first.model, x, outputs) for outputs in made}
    for outputs, ways in made.items():
        for way, kernel in ways.items():
            for quantity, values in kernels.kernel_errors(kernel, truths[outputs]).items():
                rows.append(_row(way, f"{outputs} {quantity}", first.name, *values))
    own, exact = made["all"], truths["all"]
    for way, kernel in own.items():
        floor = kernels.distance(exact, kernel)
        rows.append(_row(way, "floor", first.name, 0.0, floor, floor))
    yield rows
    for state in found[1:]:
        right = kernels.distance(exact, kernels.truth(state.model, x, "all"))
        rows = [_row("parameters", "moved", state.name, state.moved, state.moved, 0.0)]
        ways = kernels.computed(state.model, x, ("all",), slow=False)["all"]
        for way, kernel in ways.items():
            measured = kernels.distance(own[way], kernel)
            off = abs(measured / right - 1) if right > 0 else float("nan")
            rows.append(_row(way, "distance", state.name, right, measured, off))
        yield rows


def _row(way: str, quantity: str, state: str, exact: float, found: float, error: float) -> dict:
    numbers = {"exact": f"{exact:.6g}", "found": f"{found:.6g}", "error": f"{error:.3g}"}
    return {"way": way, "quantity": quantity, "state": state, **numbers}


def describe(run: RunDir) -> str:
    """What was trained, and how well, in one line."""
    c, last = run.config, run.load_table("train")[-1]
    train, test = (f"{100 * (1 - float(last[f'{k}_error'])):.1f} %" for k in ("train", "test"))
    return (
        f"{c.training.steps} steps of {c.training.batch} at rate {c.training.rate:g}, "
        f"{c.data.train or 'all'} training images; accuracy {train} on them, {test} on "
        f"{c.data.test or 'all'} test images"
    )


def where(device: str, script: str = "error_study") -> dict[str, str | int]:
    about = environment.describe()
    cuda = device == "cuda"
    return {
        "hardware": torch.cuda.get_device_name() if cuda else about["machine"]["processor"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "entk": version("entk"),
        "commit": about["commit"] or "unknown",
        "command": f"python -m benchmarks.{script} {' '.join(sys.argv[1:])}".rstrip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write(path: Path, rows: list[dict], columns: tuple[str, ...] = COLUMNS) -> None:
    """Rows of networks that were not studied this time stay as they are."""
    studied = {row["network"] for row in rows}
    old = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    kept = [row for row in old if row["network"] not in studied]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        "python -m benchmarks.error_study",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, help="an .npz of CIFAR-10 with x_train, y_train, x_test, y_test")
    add("--model", default="resnet20-cifar10", help="a preset of twophase")
    add("--steps", type=int, default=240, help="of training")
    add("--samples", type=int, default=32, help="of the kernel, N")
    add("--twins", default=TWINS, help="sizes of perturbations, relative to the parameters")
    add("--lags", default="1,10,50", help="steps between neighbours, of these three")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the training")
    add("--out", type=Path, default=Path("runs/error-study"), help="where trained networks are")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--page", action="store_true", help="only write the page and its figure")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.page:
        page.write()
        return 0
    try:
        if options.data is None:
            raise UserError("no data file: name the .npz of CIFAR-10 with --data FILE")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device cuda: torch {torch.__version__} sees no CUDA device")
        config = error_states.configure(options.model, options.data, options.set, options.steps)
        run, data = error_states.trained(options.out / options.model, config)
        sizes = [float(size) for size in options.twins.split(",")]
        x = error_states.samples(config, data, options.samples).to(options.device)
        lags = [int(lag) for lag in options.lags.split(",")]
        found = error_states.states(run, data, sizes, lags)
        for state in found:
            state.model.to(options.device)
        about = {"network": options.model, "samples": len(x), "training": describe(run)}
        about |= where(options.device)
        prefix = "gpu-" if options.device == "cuda" else ""
        rows: list[dict] = []
        for state, measured in zip(found, study(found, x), strict=True):
            rows += [{**about, **row} for row in measured]
            write(page.RESULTS / f"{prefix}error_study.csv", rows)
            print(state.name, time.strftime("%H:%M:%S"), flush=True)
    except (UserError, EntkError) as error:
        print(f"error_study: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
