"""What a machine does per second, measured once and kept; it decides between strategies."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path

import torch

from entk.errors import InputError
from entk.factors import Factors, kernel_shape
from entk.fields import from_json
from entk.ops import products
from entk.ops.native import instructions

SAMPLES, OUTPUTS, CHANNELS, PATCH, POSITIONS = 64, 10, 32, 288, 32  # a layer of a small CNN
VERSION = 3  # of what is measured; kept values of another one are measured again


@dataclass(frozen=True)
class Rates:
    """Multiply-adds per second in each strategy's products, and bytes per second of memory.

    The defaults are nominal: they make the same plan on every machine. `measured` says that they
    were taken here.
    """

    rows: float = 5e10
    pairs: float = 3e10
    fused: float = 4.5e10
    memory: float = 1e10
    measured: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "pairs", "fused", "memory"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise InputError(f"Rates({name}={value!r}), expected a positive number per second")

    def __str__(self) -> str:
        names = [f"{f.name} {getattr(self, f.name) / 1e9:.0f}" for f in fields(self)[:3]]
        kind = "measured" if self.measured else "nominal"
        return f"{', '.join(names)} GMAC/s, memory {self.memory / 1e9:.0f} GB/s ({kind})"


@dataclass(frozen=True)
class Timing:
    """Seconds of the survey's own passes."""

    one: float = 0.0  # forward, one sample
    several: float = 0.0  # forward
    backward: float = 0.0  # of several, one output
    count: int = 2  # of several
    survey: float = 0.0  # all of it

    def passes(self, n: int, outputs: float) -> float:
        """Expected for n samples: forward, and a backward pass for each output."""
        each = max(self.several - self.one, 0.0) / max(self.count - 1, 1)
        scale = (self.one + each * (n - 1)) / self.several if self.several else 0.0
        return scale * (self.several + outputs * self.backward)


NOMINAL = Rates()


def choose_rates(
    rates: Rates | str | None, backend: str, device: torch.device, dtype: torch.dtype, outputs: str
) -> Rates:
    """None: measured on this machine, once; "nominal"; or values of one's own."""
    interpreted = backend == "triton" and device.type == "cpu"  # minutes, and no rate of any use
    if rates is None and not interpreted:
        return measure_rates(backend, device, dtype, outputs, torch.get_num_threads())
    if rates in (None, "nominal"):
        return NOMINAL
    if not isinstance(rates, Rates):
        raise InputError(f"rates={rates!r}, expected None (measured), 'nominal' or entk.Rates(...)")
    return rates


@lru_cache
def measure_rates(
    backend: str, device: torch.device, dtype: torch.dtype, outputs: str, threads: int
) -> Rates:
    """Some 0.3 s, then kept in the user's cache folder for this machine and these versions."""
    path = _cache(backend, device, dtype, outputs, threads)
    try:
        return from_json(Rates, path.read_text())
    except (
        OSError,
        ValueError,
        TypeError,
        RecursionError,
    ):  # not measured yet, or kept by another version
        pass
    with torch.no_grad():
        found = Rates(**_measured(backend, device, dtype, outputs), measured=True)
    _keep(path, json.dumps(asdict(found)))
    return found


def _measured(
    backend: str, device: torch.device, dtype: torch.dtype, outputs: str
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(device, dtype)

    p = products(backend, "ieee")
    n, c, k, t = SAMPLES, CHANNELS, PATCH, POSITIONS
    o = 1 if outputs == "sum" else OUTPUTS
    f = Factors(normal(n, 1, k, t), normal(n, o, 1, c, t))
    out = normal(*kernel_shape(n, n, o, outputs))
    half = n * (n + 1) / 2
    product = half * (o * o if outputs == "all" else o) * c * k
    mixed = t * c * o * o if outputs == "all" else 0

    def rows(x: Factors, z: Factors, *options, lower: bool) -> None:
        j = p.rows(x)
        p.gram(j, j, *options, lower=lower)

    formed = product + n * o * c * k * t
    work = {
        "rows": (formed, rows),
        "pairs": (half * (t * t * (k + c * o) + mixed), p.pairs_gram),
        "fused": (formed, p.fused_gram),
    }
    found = {
        name: amount / _seconds(partial(call, f, f, out, outputs, lower=True), device)
        for name, (amount, call) in work.items()
    }
    source = torch.zeros(1 << 25, device=device)  # larger than caches
    target = torch.zeros_like(source)
    found["memory"] = 2 * 4 * len(source) / _seconds(partial(target.copy_, source), device)
    return {name: _rounded(rate) for name, rate in found.items()}


def _seconds(call: Callable, device: torch.device) -> float:
    """The least of four, after a first one that does not count."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _rounded(rate: float) -> float:
    """Two digits: more would be noise."""
    return float(f"{rate:.1e}")


def _cache(
    backend: str, device: torch.device, dtype: torch.dtype, outputs: str, threads: int
) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    about = (VERSION, backend, card, str(dtype), outputs, threads, torch.__version__)
    name = hashlib.sha256(repr((*about, instructions())).encode()).hexdigest()[:16]
    return Path(root) / "entk" / f"rates-{name}.json"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError:  # no home to write to: measured again by the next process
        pass
