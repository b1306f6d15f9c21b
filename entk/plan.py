"""Plans: which strategy serves each parameter, in which tiles, at which cost; before paying."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from entk.errors import InputError
from entk.factors import OUTPUTS, kernel_shape
from entk.fields import from_json
from entk.rates import NOMINAL, Rates
from entk.sketch import GROUPS, Sketch, projection_work
from entk.survey import Served, Survey

STRATEGIES = ("rows", "pairs", "fused")
HEAD = ("parameter", "rule", "strategy", "operations", "bytes", "seconds", "backend", "note")


@dataclass(frozen=True)
class LayerCost:
    """One parameter's way into the kernel and what it costs."""

    name: str
    rule: str
    strategy: str  # "rows", "pairs", "fused" or "none"; of a sketch "sketch", "dense" or "none"
    flops: float  # multiply-adds for the whole kernel
    bytes: float  # memory traffic for the whole kernel
    note: str = ""
    seconds: float = 0.0  # expected, for the whole kernel

    def at(self, rates: Rates) -> LayerCost:
        """The same with the time that it takes at these rates."""
        rate = getattr(rates, self.strategy, rates.rows)
        return replace(self, seconds=self.flops / rate + self.bytes / rates.memory)


@dataclass(frozen=True)
class Plan:
    """How a kernel is computed. Two runs of one plan agree bit for bit; print it to see why.

    Each of `layers` is a parameter's `name`, `rule`, `strategy`, `flops` (multiply-adds), `bytes`
    (of memory traffic), `seconds` (expected) and `note`; all for the whole kernel.
    """

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
    rates: Rates = NOMINAL  # what the strategies were chosen by
    sketch: Sketch | None = None  # probes of an estimate; None: exact
    product: LayerCost | None = None  # of a sketch: one for all parameters
    parts: int = 1  # of the outputs, gone through one after another
    batch: int = 0  # samples that pass through the model at once; 0: those of a block
    capture_seconds: float = field(default=0.0, compare=False)  # of all passes through the model

    def __post_init__(self) -> None:
        n, m = self.samples
        o = {"all": self.shape[1:2], "diagonal": self.shape[:1]}.get(self.outputs, (1,))
        counts = (n, m, *o, self.block, self.chunk, self.parts)
        sizes = (self.keep, self.memory, self.peak, self.batch)
        whole = len(o) == 1 and self.shape == kernel_shape(n, m, *o, self.outputs)
        if self.outputs not in OUTPUTS or not whole or min(counts) < 1 or min(sizes) < 0:
            raise InputError(
                f"a plan cannot have shape={self.shape}, outputs={self.outputs!r}, samples="
                f"{self.samples}, block={self.block}, chunk={self.chunk}, parts={self.parts}"
            )

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Block indices (i, j) of the tiles that are computed."""
        for i in range(self.blocks[0]):
            for j in range(i + 1 if self.symmetric else self.blocks[1]):
                yield i, j

    def weight(self, i: int, j: int) -> int:
        """How often the entries of a tile stand in the kernel."""
        return 2 if self.symmetric and i != j else 1

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks along either side."""
        return tuple(math.ceil(n / self.block) for n in self.samples)

    def output_parts(self, outputs: int) -> Iterator[slice]:
        """The outputs of each part, of `outputs` in all."""
        size = math.ceil(outputs / self.parts)
        for start in range(0, outputs, size):
            yield slice(start, min(start + size, outputs))

    def span(self, index: int, axis: int = 0) -> slice:
        """The samples of a block."""
        return slice(index * self.block, min((index + 1) * self.block, self.samples[axis]))

    @property
    def bits(self) -> Plan:
        """What the kernel's bits depend on: the plan without memory to work in, rates and times."""
        free = {"keep": 0, "memory": 0, "peak": 0, "rates": NOMINAL, "product": None}
        layers = tuple(replace(c, seconds=0.0) for c in self.layers)
        return replace(self, **free, layers=layers)

    def same_bits(self, other: Plan) -> bool:
        """Whether both lead to the same bits."""
        return self.bits == other.bits

    @property
    def seconds(self) -> float:
        """Expected, for the whole kernel, passes through the model included."""
        return self.capture_seconds + sum(c.seconds for c in self.costs)

    @property
    def costs(self) -> tuple[LayerCost, ...]:
        """All that is more than a pass through the model."""
        return self.layers if self.product is None else (*self.layers, self.product)

    def to_json(self) -> str:
        """As a kernel file keeps it; without the seconds that were read off a clock."""
        fields = asdict(self)
        del fields["capture_seconds"]  # a stopwatch's reading: two files of one plan are one
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote. Raises InputError: it is none."""
        try:
            return from_json(cls, text)
        except (ValueError, TypeError) as error:
            raise InputError(f"this is not a plan: {error}") from error

    def __str__(self) -> str:
        rows = [HEAD]
        for c in self.costs:
            backend = "torch.func" if c.rule.startswith("torch.func") else self.backend
            backend = "-" if c.strategy == "none" else backend
            numbers = (f"{c.flops:.2e}", f"{c.bytes:.2e}", f"{c.seconds:.1e}")
            rows.append((c.name, c.rule, c.strategy, *numbers, backend, c.note))
        total = [f"{sum(getattr(c, k) for c in self.costs):.2e}" for k in ("flops", "bytes")]
        passes = ("forward and backward passes", "", "", "", "", f"{self.capture_seconds:.1e}")
        rows += [(*passes, "", ""), ("total", "", "", *total, f"{self.seconds:.1e}", "", "")]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([self._headline(), *lines])

    def _headline(self) -> str:
        half = ", lower triangle" if self.symmetric else ""
        kind, parts = "eNTK", f" in each of {self.parts} parts" if self.parts > 1 else ""
        batch = f" in passes of {self.batch}" if 0 < self.batch < self.block else ""
        if self.sketch is not None:
            kind = f"sketch={self.sketch.size}, seed={self.sketch.seed} of eNTK"
        return (
            f"{kind} {list(self.shape)} {self.dtype} on {self.device}, "
            f"outputs={self.outputs!r}{half}; tiles of {self.block} samples{batch}, "
            f"{self.keep} blocks in memory, {self.chunk} outputs at a time{parts}; "
            f"about {format_bytes(self.peak)} of {format_bytes(self.memory)}\n"
            f"expected {self.seconds:.2g} s; rates: {self.rates}"
        )


@dataclass(frozen=True)
class Job:
    """What is asked for, as far as costs depend on it."""

    samples: tuple[int, int]  # N, M
    outputs: str
    symmetric: bool
    itemsize: int
    backend: str
    blocks: tuple[int, int] = (1, 1)  # tiles along each side: J that is not kept is formed again
    rounds: int = 1  # of outputs: a sketch of inputs is made in each
    sketch: Sketch | None = None

    @property
    def captured(self) -> int:
        return self.samples[0] if self.symmetric else sum(self.samples)

    @property
    def formed(self) -> int:
        """Samples whose J is formed where none is kept."""
        n, m = self.samples
        return n * self.blocks[0] if self.symmetric else n * self.blocks[1] + m * self.blocks[0]

    @property
    def pairs(self) -> float:
        n, m = self.samples
        return n * (n + 1) / 2 if self.symmetric else n * m


def layer_costs(
    found: Survey, job: Job, strategy: str | None, rates: Rates
) -> tuple[LayerCost, ...]:
    """The cheaper strategy of each parameter, or the one that is forced where there is a choice."""
    if strategy is not None and strategy not in STRATEGIES:
        raise InputError(f"strategy={strategy!r}, expected one of {STRATEGIES} or None")
    if job.sketch is not None:
        if strategy is not None:
            raise InputError(
                f"strategy={strategy!r} has no say with sketch=; leave one of them out"
            )
        return tuple(_sketch_cost(s, found, job).at(rates) for s in found.served)
    costs = []
    for s in found.served:
        options = [cost.at(rates) for cost in _options(s, found.outputs, job)]
        forced = [c for c in options if c.strategy == strategy]
        costs.append(forced[0] if forced else min(options, key=lambda c: c.seconds))
    return tuple(costs)


def _options(s: Served, o: int, job: Job) -> list[LayerCost]:
    if s.kind == "unused":
        return [LayerCost(s.name, s.rule, "none", 0.0, 0.0, s.note)]
    everything = job.outputs == "all"
    crossed = o * o if everything else o  # output pairs that are formed
    product = job.pairs * crossed * s.size
    own = o * s.gradient + s.patch  # elements of a sample's factors
    rows = LayerCost(
        s.name,
        s.rule,
        "rows",
        job.captured * o * _position_work(s) + product,
        job.itemsize * job.captured * (own + 3 * o * s.size),  # J is written and read twice
        s.note,
    )
    if s.kind != "factors":
        return [rows]
    g, k, c, t = s.groups, s.k, s.c, s.t
    mixed = t * c * o * o if everything and t > 1 else 0
    apply = t * t * c * o if not everything or t > 1 else c * o * o
    scratch = o * c * t if everything and t > 1 else crossed * t * t
    flops = job.pairs * g * (t * t * k + apply + mixed)
    unfused = 0 if job.backend == "native" else job.pairs * g * (t * t + 2 * scratch)
    traffic = job.itemsize * (unfused + job.captured * own)
    options = [rows, replace(rows, strategy="pairs", flops=flops, bytes=traffic)]
    if job.backend == "native" and k:
        flops = job.formed * o * _position_work(s) + product
        traffic = job.itemsize * job.formed * own
        options.append(replace(rows, strategy="fused", flops=flops, bytes=traffic))
    return options


def _sketch_cost(s: Served, found: Survey, job: Job) -> LayerCost:
    """Of projecting one parameter's part of each sample, whichever samples it then meets."""
    strategy, flops, own, signs = projection_work(s, found, job.sketch.size, job.rounds)
    blocks = job.blocks[0] if job.symmetric else sum(job.blocks)
    traffic = job.itemsize * (job.captured * own + blocks * signs)
    return LayerCost(s.name, s.rule, strategy, job.captured * flops, traffic, s.note)


def product_cost(job: Job, o: int, copies: int, rates: Rates) -> LayerCost | None:
    """Of the products of sketches, `copies` of them by layer."""
    if job.sketch is None:
        return None
    flops = copies * job.pairs * (o * o if job.outputs == "all" else o) * job.sketch.size
    tile = math.prod(kernel_shape(*job.samples, o, job.outputs))
    traffic = 3 * job.itemsize * copies * GROUPS * tile
    return LayerCost("products of sketches", "", "rows", flops, traffic).at(rates)


def _position_work(s: Served) -> int:
    """Multiply-adds that form one output's row of J."""
    if s.kind == "generic":
        return 0
    return s.size * s.t if s.kind == "factors" and s.k else s.size


def feature_elements(s: Served, strategy: str, o: int) -> int:
    """Elements per sample that a strategy keeps between capture and product."""
    if strategy in ("none", "sketch", "dense"):  # what a sketch keeps is shared by all
        return 0
    if strategy in ("pairs", "fused"):
        return s.inputs + o * s.gradient
    return o * s.size


def format_bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


def tile_bytes(block: int, o: int, outputs: str, itemsize: int) -> int:
    return itemsize * math.prod(kernel_shape(block, block, o, outputs))
