"""Plans: which strategy serves each parameter, in which tiles, at which cost; before paying."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from entk.errors import InputError
from entk.factors import kernel_shape
from entk.survey import Served, Survey

STRATEGIES = ("rows", "pairs")


@dataclass(frozen=True)
class Rates:
    """What the machine does per second; nominal values, of which only the ratios matter here."""

    product: float = 1e11  # multiply-adds in one large product
    batched: float = 4e10  # multiply-adds in many small products
    memory: float = 1e10  # bytes


@dataclass(frozen=True)
class LayerCost:
    """One parameter's way into the kernel and what it costs."""

    name: str
    rule: str
    strategy: str  # "rows", "pairs" or "none" (contributes zero)
    flops: float  # multiply-adds for the whole kernel
    bytes: float  # memory traffic for the whole kernel
    note: str = ""

    def seconds(self, rates: Rates) -> float:
        rate = rates.batched if self.strategy == "pairs" else rates.product
        return self.flops / rate + self.bytes / rates.memory


@dataclass(frozen=True)
class Plan:
    """How a kernel is computed. Two runs of one plan agree bit for bit; print it to see why."""

    layers: tuple[LayerCost, ...]
    shape: tuple[int, ...]
    outputs: str
    dtype: str
    device: str
    backend: str
    samples: tuple[int, int]  # N, M
    symmetric: bool  # z is x: only tiles of the lower triangle
    block: int  # samples on a side of a tile
    chunk: int  # outputs per backward pass round
    keep: int  # blocks whose features are in memory at once
    memory: int  # bytes allowed
    peak: int  # bytes expected
    precision: str = "ieee"  # of float32 products; sums are of the model's dtype

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Block indices (i, j) of the tiles that are computed."""
        for i in range(self.blocks[0]):
            for j in range(i + 1 if self.symmetric else self.blocks[1]):
                yield i, j

    @property
    def blocks(self) -> tuple[int, int]:
        return tuple(math.ceil(n / self.block) for n in self.samples)

    def span(self, index: int, axis: int = 0) -> slice:
        """The samples of a block."""
        return slice(index * self.block, min((index + 1) * self.block, self.samples[axis]))

    def same_bits(self, other: Plan) -> bool:
        """Whether both lead to the same bits: all is equal but the memory to work in."""
        free = {"keep": 0, "memory": 0, "peak": 0}
        return replace(self, **free) == replace(other, **free)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        fields["layers"] = tuple(LayerCost(**layer) for layer in fields["layers"])
        for key in ("shape", "samples"):
            fields[key] = tuple(fields[key])
        return cls(**fields)

    def __str__(self) -> str:
        rows = [("parameter", "rule", "strategy", "operations", "bytes", "backend", "note")]
        for c in self.layers:
            backend = "torch.func" if c.rule.startswith("torch.func") else self.backend
            backend = "-" if c.strategy == "none" else backend
            numbers = (f"{c.flops:.2e}", f"{c.bytes:.2e}")
            rows.append((c.name, c.rule, c.strategy, *numbers, backend, c.note))
        total = (f"{sum(c.flops for c in self.layers):.2e}",)
        total += (f"{sum(c.bytes for c in self.layers):.2e}",)
        rows.append(("total", "", "", *total, "", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([self._headline(), *lines])

    def _headline(self) -> str:
        half = ", lower triangle" if self.symmetric else ""
        return (
            f"eNTK {list(self.shape)} {self.dtype} on {self.device}, "
            f"outputs={self.outputs!r}{half}; tiles of {self.block} samples, {self.keep} blocks in "
            f"memory, {self.chunk} outputs at "
            f"a time; about {format_bytes(self.peak)} of {format_bytes(self.memory)}"
        )


def layer_costs(
    found: Survey,
    samples: tuple[int, int],
    outputs: str,
    symmetric: bool,
    itemsize: int,
    strategy: str | None,
    rates: Rates,
) -> tuple[LayerCost, ...]:
    """The cheaper strategy of each parameter, or the one that is forced."""
    if strategy is not None and strategy not in STRATEGIES:
        raise InputError(f"strategy={strategy!r}, expected one of {STRATEGIES} or None")
    costs = []
    for s in found.served:
        options = _options(s, found.outputs, samples, outputs, symmetric, itemsize)
        forced = [c for c in options if c.strategy == strategy]
        costs.append(forced[0] if forced else min(options, key=lambda c: c.seconds(rates)))
    return tuple(costs)


def _options(
    s: Served, o: int, samples: tuple[int, int], outputs: str, symmetric: bool, itemsize: int
) -> list[LayerCost]:
    if s.kind == "unused":
        return [LayerCost(s.name, s.rule, "none", 0.0, 0.0, s.note)]
    n, m = samples
    made = n if symmetric else n + m
    pairs = n * (n + 1) / 2 if symmetric else n * m
    crossed = o * o if outputs == "all" else o  # output pairs that are formed
    rows = LayerCost(
        s.name,
        s.rule,
        "rows",
        made * o * _position_work(s) + pairs * crossed * s.size,
        itemsize * made * o * (2 * s.size + s.groups * s.c * s.t),
        s.note,
    )
    if s.kind != "factors":
        return [rows]
    g, k, c, t = s.groups, s.k, s.c, s.t
    mixed = t * c * o * o if outputs == "all" and t > 1 else 0
    apply = t * t * c * o if outputs != "all" or t > 1 else c * o * o
    scratch = o * c * t if outputs == "all" and t > 1 else crossed * t * t
    flops = pairs * g * (t * t * k + apply + mixed)
    traffic = itemsize * (pairs * g * (t * t + 2 * scratch) + made * g * t * (k + o * c))
    return [rows, replace(rows, strategy="pairs", flops=flops, bytes=traffic)]


def _position_work(s: Served) -> int:
    """Multiply-adds that form one output's row of J."""
    if s.kind == "generic":
        return 0
    return s.size * s.t if s.kind == "factors" and s.k else s.size


def feature_elements(s: Served, strategy: str, o: int) -> int:
    """Elements per sample that a strategy keeps between capture and product."""
    if strategy == "none":
        return 0
    if strategy == "pairs":
        return s.patch + o * s.groups * s.c * s.t
    return o * s.size


def parse_bytes(value: int | float | str) -> int:
    """Bytes from a number or from text such as "500MB", "2 GB" or "1.5GiB"."""
    if isinstance(value, str):
        text = value.strip().upper()
        units = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 1e3, "MB": 1e6, "GB": 1e9, "B": 1}
        unit = next((u for u in units if text.endswith(u)), "")
        try:
            value = float(text.removesuffix(unit)) * units.get(unit, 1)
        except ValueError:
            raise InputError(
                f'memory={value!r}, expected bytes or text such as "500MB" or "2GB"'
            ) from None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 1 <= value < math.inf:
        raise InputError(f'memory={value!r}, expected a positive number of bytes or "2GB"')
    return int(value)


def format_bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


def tile_bytes(block: int, o: int, outputs: str, itemsize: int) -> int:
    return itemsize * math.prod(kernel_shape(block, block, o, outputs))
