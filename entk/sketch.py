"""Random projections: k numbers for each sample and output that stand for its Jacobian.

    phi_i[n,o] = <J[n,o], r_i> / sqrt(k), i < k       E sum_i phi_i[n,o] phi'_i[m,q] = ntk[n,o,m,q]

The probes r_i have entries of +1 and -1, independent between parameters. Where J has factors,
r_i[G,c,k'] = u_i[G,c] v_i[G,k'] is a product and J is never formed:

    <J[n,o], r_i> = sum_{G,t} (sum_c u_i[G,c] g[n,o,G,c,t]) (sum_k' v_i[G,k'] a[n,G,k',t])

Elsewhere all entries of r_i are independent. The variance of both is in docs/science.md.

Signs are a hash of (seed, parameter, side, entry, i): the same on every device, for every dtype
and in whichever blocks and order they are asked for.

Sources: Park et al. 2023 (TRAK, arXiv 2303.14186); Rakhshan and Rabusseau 2020 (arXiv 2003.05101);
the hash is the finaliser of SplitMix64, Steele, Lea and Flood 2014.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from entk.errors import InputError
from entk.factors import Factors
from entk.ops.pairs_gram import SCRATCH
from entk.survey import Served, Survey

GROUPS = 8  # of probes, between which the error is measured
WORD = 64  # signs from one hash
PROBES = 256  # that are worked on at once, at most
SLAB = 1 << 12  # entries of a parameter whose signs are formed at once
ERROR = ".error"  # in a tile, beside its groups: what `relative_error` sums
GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True)
class Sketch:
    """How many probes, and which."""

    size: int  # k
    seed: int = 0


def check_sketch(sketch: int | None, seed: int) -> Sketch | None:
    """The sketch that is asked for; None asks for the exact kernel."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed={seed!r}, expected a whole number")
    if sketch is None:
        if seed != 0:
            raise InputError(
                f"seed={seed} without sketch=: an exact kernel has no random part; pass sketch=k "
                "or leave seed= out"
            )
        return None
    whole = isinstance(sketch, int) and not isinstance(sketch, bool)
    if not whole or sketch < GROUPS or sketch % GROUPS:
        raise InputError(
            f"sketch={sketch!r}, expected a multiple of {GROUPS} (numbers kept for each sample and "
            f"output; the error is measured between {GROUPS} groups of them), or None: exact"
        )
    return Sketch(sketch, seed)


def signs(key: int, index: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Entries `index` [...] of the probes from start to stop, [..., stop - start], all +1 or -1."""
    device, first = index.device, start // WORD
    words = torch.arange(first, math.ceil(stop / WORD), device=device)
    row = mix(index * GAMMA + key)[..., None]
    bytes_ = mix(row + (words + 1) * GAMMA)[..., None] >> torch.arange(0, WORD, 8, device=device)
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    found = (1 - 2 * bits).to(dtype)[bytes_ & 255].flatten(-3)
    return found[..., start - first * WORD : stop - first * WORD]


def mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64, whose products wrap around as unsigned ones do."""
    z = (z ^ _shifted(z, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    z = (z ^ _shifted(z, 27)) * (0x94D049BB133111EB - (1 << 64))
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """The logical shift: >> repeats the sign bit."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def product_probes(s: Served, k: int) -> bool:
    """Whether J is never formed, for an output and a row of J at T k multiply-adds and its share
    of K T k; else at K (T + k).

    The latter is taken up to twice the former, for its variance is smaller. O has no say, so that
    the sums of outputs meet the probes of the outputs.
    """
    if s.kind == "factors":
        return s.k == 0 or s.k * (s.t + k) > 2 * s.t * k
    tied = set(s.rule.split("+")) == {"embedding", "linear"} and not s.sources
    return tied and {role for _, role in s.calls} == {"weight"}


def probe_kinds(found: Survey, sketch: Sketch) -> dict[str, tuple[int, bool]]:
    """What two models must have in common for their probes to be the same."""
    return {s.name: (s.size, product_probes(s, sketch.size)) for s in found.served}


def projection_work(
    s: Served, found: Survey, k: int, rounds: int
) -> tuple[str, float, float, float]:
    """(strategy, multiply-adds and numbers moved for a sample, numbers moved for a block)."""
    o = found.outputs
    if s.kind == "unused":
        return "none", 0.0, 0.0, 0.0
    if not product_probes(s, k):
        forming = {"factors": s.t, "rows": 1, "generic": 0}[s.kind]
        own = o * s.gradient + s.patch if s.kind == "factors" else 0
        return "dense", o * s.size * (forming + k), own + 3 * o * s.size, 4 * rounds * k * s.size
    if s.kind == "factors":
        own = o * s.gradient + (rounds * s.patch if s.k else 0)
        formed = s.groups * (rounds * s.t + 2 * o * min(s.c, s.t))
        signs = 4 * rounds * k * s.groups * (s.c + s.k)
    else:  # tied: its factors differ from call to call
        own, formed, signs = o * sum(found.call_outputs[i] for i, _ in s.calls), o, 0
    return "sketch", k * (own + formed), own * math.ceil(k / WORD) + k * formed, signs


@dataclass(frozen=True)
class Projector:
    """Projects what parameters contribute, unscaled: [N, O, k] without the factor 1 / sqrt(k)."""

    sketch: Sketch

    def _key(self, name: str, side: str) -> int:
        digest = hashlib.sha256(f"{self.sketch.seed} {side} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "little", signed=True)

    def rows(self, name: str, j: Tensor) -> Tensor:
        """sum_p j[n,o,p] r[p,i], from j [N, O, P]; all entries of r independent."""
        k, key = self.sketch.size, self._key(name, "entry")
        out = j.new_zeros(*j.shape[:2], k)
        step = _step(min(SLAB, j.shape[2]), k)
        for p in range(0, j.shape[2], SLAB):
            part = j[:, :, p : p + SLAB]
            index = torch.arange(p, p + part.shape[2], device=j.device)
            for i in range(0, k, step):
                r = signs(key, index, i, min(i + step, k), j.dtype)
                out[:, :, i : i + step] += part @ r
        return out

    def factors(self, name: str, f: Factors, transposed: bool = False) -> Tensor:
        """The same of J with factors, r[G,c,k] = u[G,c] v[G,k]; `u` lies along the parameter's
        first axis, so that a weight tied between an embedding and a layer has one probe; that of a
        `transposed` one is K."""
        n, o, groups, c, t = f.g.shape
        k, dtype, device = self.sketch.size, f.g.dtype, f.g.device
        first, rest = self._key(name, "first axis"), self._key(name, "other axes")
        width = groups * (t + o * min(c, t))  # numbers formed for a sample and probe
        step = _step(width, min(k, PROBES))
        count = max(1, SCRATCH // (width * step))
        out = f.g.new_empty(n, o, k)
        channels = torch.arange(groups * c, device=device)
        patch = torch.arange(0 if f.is_tokens else groups * f.a.shape[2], device=device)
        for i in range(0, k, step):
            span = (i, min(i + step, k))
            u = signs(rest if f.is_tokens or transposed else first, channels, *span, dtype)
            v = signs(first if transposed else rest, patch, *span, dtype)
            for s in range(0, n, count):
                a, g = f.a[s : s + count], f.g[s : s + count]
                if f.is_tokens:
                    va = (signs(first, a, *span, dtype) * (a >= 0)[..., None])[:, None]
                else:
                    va = _times(a.mT, v.unflatten(0, (groups, -1)))  # [N, G, T, k]
                out[s : s + count, :, i : i + step] = _meet(g, u.unflatten(0, (groups, c)), va)
        return out


def _meet(g: Tensor, u: Tensor, va: Tensor) -> Tensor:
    """sum_{G,c,t} g[n,o,G,c,t] u[G,c,i] va[n,G,t,i], by the smaller of two intermediates."""
    o, c, t = g.shape[1], *g.shape[3:]
    g = g.transpose(1, 2)  # [N, G, O, C, T]
    if c <= t:
        found = (g.flatten(2, 3) @ va).unflatten(2, (o, c)).mul_(u[:, None])
    else:
        found = _times(g.mT.flatten(2, 3), u).unflatten(2, (o, t)).mul_(va[:, :, None])
    return found.sum((1, 3))


def _step(width: int, k: int) -> int:
    """Probes at once, where each takes `width` numbers: whole words if there is room for one."""
    step = max(1, min(k, SCRATCH // width))
    return step - step % WORD if step > WORD else step


def _times(x: Tensor, w: Tensor) -> Tensor:
    """x [N, G, R, C] times w [G, C, k]; one group is one product of matrices."""
    return (x[:, 0] @ w[0])[:, None] if len(w) == 1 else x @ w


def split(phi: Tensor) -> list[Tensor]:
    """phi [N, O, k] as GROUPS parts, scaled by 1 / sqrt(k)."""
    parts = phi.unflatten(2, (GROUPS, -1)).permute(2, 0, 1, 3).contiguous()
    return list(parts.mul_(phi.shape[2] ** -0.5))


def square(t: Tensor) -> Tensor:
    """|t|^2, summed in float64."""
    return torch.linalg.vector_norm(t, dtype=torch.float64).square()


def estimate(whole: Tensor, shares: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """(kernel, its expected squared error), from what each group of probes adds to zeros, `whole`.

    A share P_b times GROUPS is an estimate of the kernel by itself, and their mean is the kernel;
    the variance of that mean is the variance between them, divided by GROUPS.
    """
    squares = square(whole)
    for part in shares:
        whole += part
        squares += square(part)
    return whole, (GROUPS * squares - square(whole)) / (GROUPS - 1)


def relative_error(squares: Tensor) -> float:
    """From the sums over all tiles [expected squared error, squared norm of the estimate].

    The estimate's own squared norm is too large by the squared error, on average.
    """
    error, norm = squares.tolist()
    if error <= 0:  # a kernel that is zero, or of one entry that all probes agree on
        return 0.0
    return math.sqrt(error / (norm - error)) if norm > error else math.inf
