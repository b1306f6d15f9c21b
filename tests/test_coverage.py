"""docs/coverage.md: every test that it names exists, and its tables of paths are the code's."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import entk
from entk.rules import RULES
from entk.rules.unrolled import UNROLLED
from tests.cases import Fn, fn, of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coverage.md"
LINK = re.compile(r"\[`(\w+)(?:\[(\w+)\])?`\]\(\.\./(tests/[\w/]+\.py)\)")


def text() -> str:
    return PAGE.read_text()


def sections() -> dict[str, str]:
    """{title: what follows it}."""
    parts = re.split(r"^## (.+)\n", text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """Cells of the tables in a section, without their heads."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    return [c for i, c in enumerate(cells) if i not in heads and i + 1 not in heads]


def words(value: object) -> Iterator[str]:
    """Names of cases in a value of a parametrized test."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from words(part)
    elif isinstance(getattr(value, "name", None), str):
        yield value.name


def case_names(test: Callable) -> set[str]:
    marks = [m for m in getattr(test, "pytestmark", ()) if m.name == "parametrize"]
    return {word for mark in marks for value in mark.args[1] for word in words(value)}


@pytest.mark.parametrize("path", sorted({path for *_, path in LINK.findall(PAGE.read_text())}))
def test_every_test_that_is_named_exists(path):
    """Some of these modules skip themselves where a library is missing, so cases alone import."""
    tree = ast.parse((ROOT / path).read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    wanted = [(name, case) for name, case, where in LINK.findall(text()) if where == path]
    for name, _ in wanted:
        assert name.startswith("test_")
        assert name in defined
    for name, case in wanted:
        if case:
            module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
            assert case in case_names(getattr(module, name)), f"{name} has no case {case}"


def test_links_have_the_form_that_is_checked():
    assert len(LINK.findall(text())) == text().count("(../tests/") > 50


@pytest.mark.parametrize("title", ["Features", "Layers"])
def test_yes_names_a_test_and_no_names_none(title):
    found = rows(sections()[title])
    assert len(found) > 10
    assert len({len(row) for row in found}) == 1
    for what, ours, *others in found:
        answer = re.match(r"(yes|part|no)\b", ours)
        assert answer, f"{what}: {ours}"
        links = LINK.findall(ours)
        assert bool(links) == (answer[1] == "yes") or answer[1] == "part", what
        assert set(others) <= {"yes", "part", "–", "?", ""}, what


def flat(self: Fn, x: Tensor) -> Tensor:
    y = self.f(x)
    return (y[0] if isinstance(y, tuple) else y).flatten(1)


def itself(self: Fn, x: Tensor) -> Tensor:
    return self.f(x, x, x)[0].flatten(1)


def halves(self: Fn, x: Tensor) -> Tensor:
    return self.f(x[..., :2], x[..., 2:])


def log_prob(self: Fn, x: Tensor) -> Tensor:
    return self.f.log_prob(x)


def twice(self: Fn, x: Tensor) -> Tensor:
    return self.f(x, x).flatten(1)


# name in torch.nn, options: (arguments, shape of a sample, how it is called)
SEQUENCE, IMAGE, VOLUME = (2, 5), (2, 4, 4), (2, 3, 3, 3)
FIRST = {"batch_first": True}
LAYERS: dict[str, tuple[tuple, dict, tuple[int, ...], Callable]] = {
    "Linear": ((4, 3), {}, (4,), flat),
    "Bilinear": ((2, 2, 3), {}, (4,), halves),
    "Conv1d": ((2, 3, 2), {}, SEQUENCE, flat),
    "Conv2d": ((2, 3, 2), {}, IMAGE, flat),
    "Conv3d": ((2, 3, 2), {}, VOLUME, flat),
    "ConvTranspose1d": ((2, 3, 2), {}, SEQUENCE, flat),
    "ConvTranspose2d": ((2, 3, 2), {}, IMAGE, flat),
    "ConvTranspose3d": ((2, 3, 2), {}, VOLUME, flat),
    "BatchNorm1d": ((2,), {}, SEQUENCE, flat),
    "BatchNorm2d": ((2,), {}, IMAGE, flat),
    "BatchNorm3d": ((2,), {}, VOLUME, flat),
    "SyncBatchNorm": ((2,), {}, SEQUENCE, flat),
    "InstanceNorm1d": ((2,), {"affine": True}, SEQUENCE, flat),
    "InstanceNorm2d": ((2,), {"affine": True}, IMAGE, flat),
    "InstanceNorm3d": ((2,), {"affine": True}, VOLUME, flat),
    "LayerNorm": ((4,), {}, (4,), flat),
    "GroupNorm": ((1, 2), {}, SEQUENCE, flat),
    "RMSNorm": ((4,), {}, (4,), flat),
    "PReLU": ((2,), {}, SEQUENCE, flat),
    "Embedding": ((5, 3), {}, (4,), flat),
    "EmbeddingBag": ((5, 3), {}, (4,), flat),
    "RNN": ((4, 3), FIRST, (3, 4), flat),
    "LSTM": ((4, 3), FIRST, (3, 4), flat),
    "GRU": ((4, 3), FIRST, (3, 4), flat),
    "RNNCell": ((4, 3), {}, (4,), flat),
    "LSTMCell": ((4, 3), {}, (4,), flat),
    "GRUCell": ((4, 3), {}, (4,), flat),
    "MultiheadAttention": ((4, 2), FIRST, (3, 4), itself),
    "MultiheadAttention, add_bias_kv": ((4, 2), FIRST | {"add_bias_kv": True}, (3, 4), itself),
    "MultiheadAttention, add_zero_attn": ((4, 2), FIRST | {"add_zero_attn": True}, (3, 4), itself),
    "TransformerEncoderLayer": ((4, 2, 6), FIRST, (3, 4), flat),
    "TransformerDecoderLayer": ((4, 2, 6), FIRST, (3, 4), twice),
    "Transformer": ((4, 2, 1, 1, 6), FIRST, (3, 4), twice),
    "AdaptiveLogSoftmaxWithLoss": ((4, 6, [2]), {}, (4,), log_prob),
}
# bases, and a loss without outputs for each sample
NO_LAYER = {"RNNBase", "RNNCellBase", "LinearCrossEntropyLoss"}


def paths(model: nn.Module, x: Tensor) -> str:
    found = {c.rule for c in entk.plan_ntk(model.eval(), x, rates="nominal").layers}
    return ", ".join(sorted(re.sub(r" \(.*\)", "", rule) for rule in found))


def path_of_layer(name: str) -> str:
    args, options, shape, call = LAYERS[name]
    kind = getattr(nn, name.split(",")[0])
    tokens = name.startswith("Embedding")
    x = torch.randint(5, (3, *shape)) if tokens else torch.randn(3, *shape)
    return paths(fn(call, f=of(kind, *args, **options))(), x)


def table_of_layers() -> str:
    found: dict[str, list[str]] = {}
    for name in LAYERS:
        found.setdefault(path_of_layer(name), []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {path} |" for path, names in found.items()]
    return "\n".join(["| `torch.nn` | path |", "|---|---|", *lines])


def test_paths_of_layers():
    assert table_of_layers() in text(), table_of_layers()


def test_every_layer_with_parameters_is_there():
    """A layer of torch.nn that has parameters can be made on a device."""
    kinds = {name: kind for name, kind in vars(nn).items() if inspect.isclass(kind)}
    made = {
        name
        for name, kind in kinds.items()
        if issubclass(kind, nn.Module)
        and not name.startswith("Lazy")
        and (
            "device" in inspect.signature(kind.__init__).parameters or issubclass(kind, nn.RNNBase)
        )
    }
    assert made - NO_LAYER == {name.split(",")[0] for name in LAYERS}


# p [4] with x [N, 4], unless it says otherwise
USES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "x + p": (lambda x, p: torch.tanh(x + p), (4,)),
    "x * p": (lambda x, p: torch.tanh(x * p), (4,)),
    "x * p.exp()": (lambda x, p: torch.tanh(x * p.exp()), (4,)),
    "x @ p, a matrix": (lambda x, p: torch.tanh(x @ p), (4, 3)),
    "torch.cat([x, p.expand(N, -1)], 1)": (
        lambda x, p: torch.cat([x, p.expand(len(x), -1)], 1) ** 2,
        (1, 4),
    ),
    "x - p": (lambda x, p: torch.tanh(x - p), (4,)),
    "x / p": (lambda x, p: torch.tanh(x / p), (4,)),
    "x ** p": (lambda x, p: x.abs() ** p, (4,)),
    "x @ p, a vector": (lambda x, p: torch.tanh(x @ p), (4,)),
    "p @ x.T": (lambda x, p: torch.tanh(p @ x.T).T, (3, 4)),
    'torch.einsum("ni,ij->nj", x, p)': (
        lambda x, p: torch.tanh(torch.einsum("ni,ij->nj", x, p)),
        (4, 3),
    ),
    "torch.where(x > 0, p, x)": (lambda x, p: torch.where(x > 0, p, x) ** 2, (4,)),
    "p[tokens]": (lambda x, p: p[x[:, 0].abs().long().clamp(max=3)], (4, 2)),
}


def table_of_uses() -> str:
    lines = ["| use | path |", "|---|---|"]
    for use, (function, shape) in USES.items():
        model = fn(
            lambda s, x, f=function: f(x, s.p),
            p=lambda size=shape: nn.Parameter(torch.rand(size) + 0.5),
        )()
        lines.append(f"| `{use}` | {paths(model, torch.randn(3, 4))} |")
    return "\n".join(lines)


def test_paths_of_uses():
    assert table_of_uses() in text(), table_of_uses()


def spoken(function: Callable) -> str:
    """As one writes it: F.linear, torch.add, Tensor.add."""
    name = function.__name__
    spaces = {"F": F, "torch": torch, "Tensor": Tensor}
    return next(f"{k}.{name}" for k, space in spaces.items() if getattr(space, name, 0) is function)


def table_of_rules() -> str:
    named: dict[str, list[str]] = {}
    for function, rule in RULES.items():
        named.setdefault(rule.name, []).append(f"`{spoken(function)}`")
    named["*unrolled*"] = [f"`{spoken(function)}`" for function in UNROLLED]
    lines = [f"| {name} | {', '.join(functions)} |" for name, functions in named.items()]
    return "\n".join(["| rule | functions |", "|---|---|", *lines])


def test_functions_with_a_rule():
    assert table_of_rules() in text(), table_of_rules()
