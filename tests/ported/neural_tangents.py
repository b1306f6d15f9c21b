"""The weight-reuse formulas, odd shapes and grouped convolutions of Neural Tangents, written anew.

After tests/empirical_test.py of Neural Tangents (github.com/google/neural-tangents, Apache-2.0;
Novak et al. 2022, arXiv 2206.08720). A formula is of three parameters and one sample, and returns
tensors; the model applies it to one sample after the other. Parameters may be empty or scalars,
and outputs may depend on a parameter, a sample, both or neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import entk
from tests.cases import Fn, fn, of, raw, seq, settled
from tests.ported.case import Ported, Refused, size


class Formula(nn.Module):
    def __init__(self, formula: Callable, *shapes: tuple[int, ...]):
        super().__init__()
        self.p = nn.ParameterList([torch.randn(s) + 2 for s in shapes])  # mostly not near zero
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        p = list(self.p)
        rows = [[t.flatten() for t in self.formula(p, sample)] for sample in x]
        return torch.stack([torch.cat(row) for row in rows])


SQUARE = ((2, 2), (2, 2), (2, 2))
FORMULAS: dict[str, Callable] = {
    "power_and_product": lambda p, x: (p[0].abs() ** (p[1] + x), p[2] * x + p[0]),
    "power_and_quotient": lambda p, x: (p[0].abs() ** (p[1] + x), p[2] / x + p[0]),
    "product_and_chain": lambda p, x: (p[0] * p[1] * p[2] + (p[0] @ p[1].mT) @ (p[2].mT @ p[1]) @ x,),
    "quotient_and_chain": lambda p, x: (p[0] / (p[1] * p[2]) + (p[0] @ p[1].mT) @ (p[2].mT @ p[1]) @ x,),
    "sample_and_parameters": lambda p, x: (x, x, *p),
    "parameters": lambda p, x: (p[0],),
    "product": lambda p, x: (p[0] * p[1],),
    "sum_of_three": lambda p, x: (p[0] + p[1] + p[2],),
    "sum_with_a_transpose": lambda p, x: (p[0] + p[1].mT,),
    "sum_with_own_transpose": lambda p, x: (p[0] + p[0].mT,),
    "sum_with_itself": lambda p, x: (p[0] + p[0],),
    "times_and_over_the_sample": lambda p, x: (p[2] * x + p[2] / x,),
    "combination": lambda p, x: (-p[0] + 2 / p[1] - p[2] / 3,),
    "product_of_all_elements": lambda p, x: (p[2].prod(),),
    "sum_of_all": lambda p, x: (sum(q.sum() for q in p),),
    "product_of_all": lambda p, x: (math.prod(q.prod() for q in p),),
    "shifted": lambda p, x: (x + p[0], x - p[1], -p[0]),
    "squares": lambda p, x: (p[1] ** 2, p[1] * p[1], p[1] / p[1]),
    "quotients": lambda p, x: (p[1] / p[0], p[1] * p[0]),
    "by_a_row_of_another": lambda p, x: (p[1] * p[0][0][None], p[1] / p[0][0][None]),
    "by_constants": lambda p, x: (p[1] * torch.arange(1.0, 3).to(x), p[1] / torch.arange(1.0, 3).to(x)),
    "five_outputs": lambda p, x: (p[0], p[1], p[0] / p[1], 2 * p[0], -p[1] + p[0]),
    "sums_along_axes": lambda p, x: (p[0], p[0].sum(0, True), p[0].sum(1, True)),
    "views": lambda p, x: (p[0], p[0].mT, p[0].reshape(-1), 2 * p[0].reshape(-1, 1), -p[0].reshape(1, -1)),
    "matrix_square": lambda p, x: (p[0] @ p[0], p[0].mT @ p[0]),
    "matrix_chain": lambda p, x: (p[2] @ p[0] @ p[1],),
    "matrix_product_and_factors": lambda p, x: (p[0] @ p[1], p[0], p[1].mT),
    "sums_of_products": lambda p, x: ((p[0] @ p[0]).sum(), (p[2] * p[1]).sum(), (p[2] / p[1]).sum()),
    "long": lambda p, x: (p[0] @ (p[1] + p[0] @ (p[1] / p[0])), p[2], x[1], x[1:2] * (x - 1), x[1] * p[2][:1, 0], x.new_ones(1)),
    "reshapes": lambda p, x: (p[0].reshape(1, -1) @ p[1].reshape(-1, 1), p[2][:2, :2].reshape(4)),
    "reshape_times_product": lambda p, x: (p[0].permute(1, 0).reshape(1, -1) * p[0].prod(), p[0].reshape(-1, 1, 1) * p[0].sum()),
    "flips": lambda p, x: (p[0].flip(0), p[1].flip(1), p[2].flip(0, 1)),
    "flips_multiplied": lambda p, x: (p[0].flip(0) * p[1].flip(1) - p[2].flip(0, 1) ** 2,),
    "padded": lambda p, x: (F.pad(p[0], (1, 2), value=1.0), F.pad(p[1], (0, 0, 1, 0)), F.pad(p[0][None], (1, 1, 0, 0), mode="circular")),
    "padded_and_transposed": lambda p, x: (F.pad(p[0], (0, 1, 0, 0)) + F.pad(p[0], (0, 0, 0, 1)).mT,),
    "concatenated": lambda p, x: (torch.cat([p[0], p[1], p[0].mT], 0), torch.cat(p, 1)),
    "concatenated_with_the_sample": lambda p, x: ((torch.cat([p[0], x], 1) @ torch.cat([p[1], p[2]], 0)) ** 2,),
    "stacked_and_permuted": lambda p, x: (torch.stack(p).permute(2, 0, 1), torch.stack(p, 1).unsqueeze(1).permute(0, 2, 1, 3)),
    "window_sums": lambda p, x: (F.avg_pool2d(p[0][None, None], (1, 2), 1, divisor_override=1), F.avg_pool2d(p[0][None, None], 2, 1, 1, divisor_override=1)),
    "outer_product_with_the_sample": lambda p, x: (torch.einsum("ij,kl->ijkl", p[0], x),),
    "contraction_with_the_sample": lambda p, x: (torch.einsum("ij,kj->ik", p[0], x), torch.einsum("ij,ij->", x, p[0])),
    "batched_contraction": lambda p, x: (torch.einsum("ij,ik->ijk", p[0], x), torch.einsum("ij,ij->j", p[0], x)),
    "contraction_of_parameters": lambda p, x: (torch.einsum("ij,kl->il", p[0], p[1]), torch.einsum("ij,ji->i", p[0], p[1])),
    "by_one_element": lambda p, x: (p[1] * p[0][1, 0], p[1] / p[0][0, -1]),
    "mapped_in_a_loop": lambda p, x: (torch.stack([2 * row + 1 for row in p[0]]) * p[0].sum(), torch.stack([-row / 2 for row in p[0]]) * p[0]),
    "moduli": lambda p, x: (torch.complex(p[0], p[1]).abs() @ p[2], (torch.complex(x, p[1]) * torch.complex(p[0], p[2])).imag),
}  # fmt: skip

# [shapes of the parameters], shape of a sample: broadcast, of many axes, empty, scalar
SHAPES: dict[str, tuple[Callable, tuple, tuple]] = {
    "rectangular_chain": (lambda p, x: (p[0] @ p[1] @ p[2].mT, p[0] * x.sum()), ((2, 3), (3, 2), (1, 2)), (3,)),
    "many_axes": (lambda p, x: (p[0].sum((0, 1)) + x.sum(), p[1] * p[2], p[1].squeeze(1)), ((5, 1, 2), (2, 1, 3), (2, 3, 1)), (2, 3)),
    "broadcast": (lambda p, x: (p[0] * x, p[1] * p[2] + x), ((5,), (1, 5), (5, 1)), (5, 5)),
    "empty_parameters": (lambda p, x: (p[0], p[1].sum() + x.sum(), p[2].sum(0)), ((1, 1), (0, 0), (0, 1)), (2,)),
    "an_empty_product": (lambda p, x: (p[1] @ p[2], p[0] * x), ((1, 2), (2, 0), (0, 1)), (1, 2)),
    "all_parameters_empty": (lambda p, x: (x + p[0].sum() * p[1].sum() + p[2].prod(),), ((0,), (0,), (0,)), (3,)),
    "an_empty_sample": (lambda p, x: (p[0] * p[1], p[2].sum() + x.sum()), ((2,), (), (1,)), (0,)),
    "a_scalar_and_matrices": (lambda p, x: (p[0] * p[1] * x, p[0] * p[2]), ((), (2, 1), (3, 1)), (1,)),
    "scalars": (lambda p, x: (p[0] * x, p[1] / p[2] * x, p[0] * p[0]), ((), (), ()), ()),
    "ones": (lambda p, x: (p[0] * p[1] * p[2] * x,), ((1,), (1,), (1,)), (2,)),
    "scalar_of_a_vector": (lambda p, x: (x @ p[0] * p[1], p[2] ** 2), ((2,), (), (1,)), (2,)),
}  # fmt: skip

# linear, after one axis or a grid; pooled, flat or left as an image; logits 1, 2, 3
NETWORKS = [
    *(Ported(f"dense_to_{o}_logits", of(nn.Linear, 4, o), (4,), n=4, m=2) for o in (1, 2, 3)),
    *(Ported(f"pooled_conv_to_{o}_logits", seq(of(nn.Conv2d, 3, 2, 3, padding=1), of(nn.AdaptiveAvgPool2d, 1), nn.Flatten, of(nn.Linear, 2, o)), (3, 4, 4), n=4, m=2, modes=("all", "trace")) for o in (1, 3)),
    Ported("flat_conv_to_logits", seq(of(nn.Conv2d, 3, 2, 3, padding=1), nn.Flatten, of(nn.Linear, 32, 2)), (3, 4, 4), n=4, m=2, modes=("all", "trace")),
    Ported("image_of_logits", seq(of(nn.Conv2d, 3, 2, (1, 2)), nn.ReLU, of(nn.Conv2d, 2, 2, (3, 2))), (3, 4, 4), n=3, m=2, modes=("all", "diagonal")),
    Ported("as_for_products_with_vectors", seq(of(nn.Linear, 7, 8), nn.ReLU, of(nn.Linear, 8, 3)), (7,), n=4, m=6),
    Ported("mixer", settled(lambda: Mixer(), (1, 4, 4)), (1, 4, 4)),
    Ported("autoencoder", seq(nn.Flatten, of(nn.Linear, 6, 4), nn.ReLU, of(nn.Linear, 4, 2), of(nn.Linear, 2, 4), nn.ReLU, of(nn.Linear, 4, 6), nn.Sigmoid), (2, 3)),
    *(Ported(f"cnn_of_{a}_and_{b}_groups", seq(of(nn.Conv2d, 5, 5, 3, padding=1, groups=a), nn.ReLU, of(nn.AvgPool2d, 2), of(nn.Conv2d, 5, 5, 3, padding=1, groups=b), nn.ReLU, of(nn.AvgPool2d, 2), nn.Flatten, of(nn.Linear, 5, 4), nn.ReLU, of(nn.Linear, 4, 3), of(nn.LogSoftmax, 1)), (5, 4, 4), n=2, m=3, modes=("all", "trace")) for a in (1, 5) for b in (1, 5)),
    *(Ported(f"{g}_groups_of_{c}_channels", lambda g=g, c=c: nn.Sequential(nn.Conv2d(c * g, 16, (3, 2), padding="same", groups=g, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (c * g, 3, 2), n=n, m=n, modes=("all", "trace")) for g, c, n in ((1, 3, 1), (2, 1, 2), (4, 4, 3), (8, 2, 4), (16, 1, 2), (16, 3, 2))),
]  # fmt: skip


# the empty and scalar parameters of layers that have rules, where the formulas above have none
LAYERS = [
    Ported("a_layer_of_no_units", seq(of(nn.Linear, 4, 0), nn.ReLU, of(nn.Linear, 0, 3)), (4,)),
    Ported("a_layer_of_no_inputs", of(nn.Linear, 0, 3), (0,)),
    Ported("an_embedding_of_no_width", seq(of(nn.Embedding, 3, 0), nn.Flatten, of(nn.Linear, 0, 2)), (4,), tokens=3),
    Ported("a_layer_at_no_position", fn(lambda s, x: s.g(s.f(x[:, :0]).sum(1) + x[:, 0]), f=of(nn.Linear, 3, 3), g=of(nn.Linear, 3, 2)), (2, 3)),
    Ported("an_embedding_of_no_tokens", fn(lambda s, x: s.f(s.e(x[:, :0].long()).sum(1) + x[:, :3]), e=of(nn.Embedding, 4, 3), f=of(nn.Linear, 3, 2)), (5,)),
    Ported("a_scalar_added_to_a_matrix", fn(lambda s, x: (s.f(x) + s.p).tanh(), f=of(nn.Linear, 4, 3), p=lambda: nn.Parameter(torch.tensor(1.5))), (2, 4)),
    Ported("a_scalar_added_to_a_scalar", fn(lambda s, x: s.p + s.f(x)[:, 0], f=of(nn.Linear, 4, 2), p=lambda: nn.Parameter(torch.tensor(1.5))), (4,)),
    Ported("one_number_added_twice", fn(lambda s, x: (x + s.p).tanh() + s.p, p=raw(1)), (4,)),
    Ported("one_row_added", fn(lambda s, x: (s.f(x) + s.p).tanh(), f=of(nn.Linear, 4, 3), p=raw(1, 1)), (2, 4)),
]  # fmt: skip


class Mixer(nn.Module):
    """One block that mixes over tokens, then over channels; T = 4, width 4."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 2, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))
        self.tokens, self.channels = (
            nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4)) for _ in range(2)
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        x = x + self.tokens(self.norms[0](x).mT).mT
        x = x + self.channels(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


def parallel(self, t):
    """Two branches of a tree, one of them a tree again."""
    (a, b), c = t
    return (self.a(a), self.b(b)), self.c(c)


def dense(inputs: int, outputs: int) -> Callable:
    return seq(of(nn.Linear, inputs, 6), nn.ReLU, of(nn.Linear, 6, outputs))


def three() -> nn.Module:
    return Fn(parallel, a=dense(4, 1)(), b=dense(5, 2)(), c=dense(3, 3)())


ROWS = {"strategies": ("rows",)}
CASES = [
    *(Ported(f"formula_{k}", of(Formula, f, *SQUARE), (2, 2), n=2, m=2, **ROWS) for k, f in FORMULAS.items()),
    *(Ported(f"shapes_{k}", of(Formula, f, *p), x, n=2, m=2, **ROWS) for k, (f, p, x) in SHAPES.items()),
    *NETWORKS,
    *LAYERS,
]  # fmt: skip

PYTREES = [
    Ported("parallel_branches", lambda: Fn(lambda s, t: (s.a(t[0]), s.b(t[1])), a=dense(4, 1)(), b=dense(5, 2)()), (size(4), size(5)), pytree=True),
    Ported("nested_branches", three, ([size(4), size(5)], size(3)), pytree=True),
    Ported("nested_branches_in_dicts", lambda: Fn(lambda s, t: {"outs": [{"first": s.f(((t["x1_x2"]), t["x3"]))}]}["outs"][0]["first"], f=three()), {"x1_x2": (size(4), size(5)), "x3": size(3)}, pytree=True),
]  # fmt: skip

REFUSED = [
    Refused("complex_outputs", lambda: Formula(lambda p, x: (torch.complex(p[0], x),), *SQUARE), (2, 2), entk.InputError, "expected floating-point"),
]  # fmt: skip
