"""Plans: every parameter once, the cheaper strategy, a table to read, JSON to keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import entk
from entk import rates
from entk.inputs import parse_bytes
from entk.ops import native
from entk.plan import Plan
from tests.cases import CASES, fn, of, raw


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_parameter_has_a_line(case):
    model, x, _ = case.make()
    plan = entk.plan_ntk(model, x)
    expected = [n for n, p in model.named_parameters() if p.requires_grad]
    assert [c.name for c in plan.layers] == expected
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()  # bit for bit


def rules(name: str) -> dict[str, tuple[str, str]]:
    model, x, _ = next(c for c in CASES if c.name == name).make()
    return {c.name: (c.rule, c.strategy) for c in entk.plan_ntk(model, x).layers}


def test_fallback_and_unused_are_announced():
    assert rules("lstm")["rnn.weight_ih_l0"][0] == "linear"  # unrolled
    assert rules("bilinear")["f.weight"][0].startswith("torch.func")
    assert rules("raw_matmul")["w"] == ("matmul", "pairs")
    assert rules("rule_and_raw")["f.weight"] == ("matmul+linear", "rows")
    assert rules("rule_and_raw")["f.bias"][0] == "linear"
    assert rules("weight_norm")["0.parametrizations.weight.original0"] == ("linear", "rows")
    assert rules("unused")["b.weight"] == ("none", "none")
    assert rules("gpt_tied")["embedding.weight"] == ("embedding+linear", "rows")
    assert rules("conv_twice")["f.weight"][0] == "conv"


def test_vmap_is_not_trusted_where_it_is_wrong():
    """torch's batching rule of prelu's backward pass gives wrong numbers without an error."""
    shift = fn(lambda s, x: s.p(torch.einsum("ni,ij->nj", x, s.w)), w=raw(4, 5), p=of(nn.PReLU, 5))
    model = shift().eval()
    plan = entk.plan_ntk(model, torch.randn(5, 4))
    assert {c.name: c.rule for c in plan.layers} == {"w": "torch.func (loop)", "p.weight": "prelu"}


def test_the_planner_takes_the_cheaper_strategy():
    wide = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10)).eval()
    plan = entk.plan_ntk(wide, torch.randn(16, 256))
    assert {c.strategy for c in plan.layers if c.name.endswith("weight")} == {"pairs"}
    early = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 900, 10)).eval()
    plan = entk.plan_ntk(early, torch.randn(16, 3, 32, 32))
    assert plan.layers[0].strategy in ("rows", "fused")
    plan = entk.plan_ntk(early, torch.randn(16, 3, 32, 32), backend="torch")
    assert plan.layers[0].strategy == "rows"


def test_the_choice_is_the_faster_one_of_both_forced_plans():
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    x = torch.randn(16, 256)
    cost = {}
    for strategy in ("rows", "pairs", "fused"):
        layers = entk.plan_ntk(model, x, strategy=strategy).layers
        cost[strategy] = sum(c.seconds for c in layers)
    chosen = sum(c.seconds for c in entk.plan_ntk(model, x).layers)
    assert chosen <= min(cost.values())


@pytest.mark.skipif(native.instructions() is None, reason="only this backend fuses")
def test_other_rates_make_another_plan():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 196, 4)).eval()
    x = torch.randn(6, 8, 16, 16)
    for strategy in ("rows", "pairs", "fused"):
        slow = dict.fromkeys({"rows", "pairs", "fused"} - {strategy}, 1.0)
        plan = entk.plan_ntk(model, x, rates=entk.Rates(**slow))
        assert plan.layers[0].strategy == strategy
        assert plan.rates.memory == entk.Rates().memory


def test_rates_are_positive_and_blocks_whole():
    with pytest.raises(entk.InputError, match=r"Rates\(rows=-1\), expected a positive number"):
        entk.Rates(rows=-1)
    with pytest.raises(entk.InputError, match="block=True, expected a number of samples"):
        entk.plan_ntk(nn.Linear(2, 2).eval(), torch.randn(3, 2), block=True)


def test_rates_are_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rates.measure_rates.cache_clear()
    model, x = nn.Linear(4, 2).eval(), torch.randn(3, 4)
    first = entk.plan_ntk(model, x, outputs="trace").rates
    (kept,) = (tmp_path / "entk").iterdir()
    assert first.measured
    assert min(first.rows, first.pairs, first.fused, first.memory) > 1e6
    kept.write_text(kept.read_text().replace(f'"rows": {first.rows}', '"rows": 123.0'))
    rates.measure_rates.cache_clear()
    assert entk.plan_ntk(model, x, outputs="trace").rates.rows == 123.0
    kept.write_text("{torn")
    rates.measure_rates.cache_clear()
    assert entk.plan_ntk(model, x, outputs="trace").rates.rows > 1e6
    rates.measure_rates.cache_clear()


def test_nominal_rates_are_the_same_everywhere():
    plan = entk.plan_ntk(nn.Linear(4, 2).eval(), torch.randn(3, 4), rates="nominal")
    assert plan.rates == entk.Rates()
    with pytest.raises(entk.InputError, match=r"rates='fast', expected None \(measured\)"):
        entk.plan_ntk(nn.Linear(4, 2).eval(), torch.randn(3, 4), rates="fast")


def test_printed_table():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    text = str(entk.plan_ntk(model, torch.randn(5, 4), memory="1GB"))
    lines = text.splitlines()
    assert lines[0].startswith("eNTK [5, 2, 5, 2] float32 on cpu, outputs='all', lower triangle")
    assert "of 1.00 GB" in lines[0]
    assert lines[1].startswith("expected ")
    assert "rates: rows " in lines[1]
    assert lines[2].split() == [
        "parameter",
        "rule",
        "strategy",
        "operations",
        "bytes",
        "seconds",
        "backend",
        "note",
    ]
    names = [line.split()[0] for line in lines[3:]]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias", "forward", "total"]


def test_operations_are_those_of_the_formulas():
    """N = M = 4 without symmetry, K = 6, C = 5, O = 2, T = 1 and T = 3."""
    x, z = torch.randn(4, 6), torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(5, 2)).eval()
    rows = entk.plan_ntk(model, x, z, strategy="rows").layers[0].flops
    assert rows == 8 * 2 * 30 + 16 * 4 * 30
    pairs = entk.plan_ntk(model, x, z, strategy="pairs").layers[0].flops
    assert pairs == 16 * (6 + 5 * 4)
    tokens = nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(15, 2)).eval()
    x, z = torch.randn(4, 3, 6), torch.randn(4, 3, 6)
    pairs = entk.plan_ntk(tokens, x, z, strategy="pairs").layers[0].flops
    assert pairs == 16 * (9 * 6 + 9 * 5 * 2 + 3 * 5 * 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500MB", 5e8),
        ("2 GB", 2e9),
        ("1.5GiB", 1.5 * 2**30),
        ("64kib", 65536),
        ("100B", 100),
        (7, 7),
    ],
)
def test_memory_text(text, expected):
    assert parse_bytes(text) == expected


NOT_BYTES = ["", "GB", "-1GB", 0, -5, True, None, "1TBs", "0.5B", "inf", "1e400MB"]


@pytest.mark.parametrize("value", [*NOT_BYTES, float("nan"), float("inf")])
def test_memory_nonsense(value):
    with pytest.raises(entk.InputError, match="memory="):
        parse_bytes(value)


@pytest.mark.parametrize("options", [{"strategy": "fast"}, {"block": 0}, {"block": 1.5}])
def test_bad_options(options):
    with pytest.raises(entk.InputError, match=f"{next(iter(options))}="):
        entk.plan_ntk(nn.Linear(2, 2).eval(), torch.randn(3, 2), **options)


def test_a_plan_serves_its_own_request_only():
    model, x = nn.Linear(4, 2).eval(), torch.randn(5, 4)
    plan = entk.plan_ntk(model, x)
    for changed in ({"x": x[:4]}, {"z": x}, {"outputs": "trace"}, {"params": ["weight"]}):
        arguments = {"x": x, "plan": plan, **changed}
        with pytest.raises(entk.InputError, match="the plan was made for"):
            entk.ntk(model, **arguments)


@pytest.mark.parametrize(("planned", "asked"), [("trace", "sum"), ("sum", "trace")])
def test_a_plan_serves_its_own_mode_only(planned, asked):
    """Both kernels are [N, M], so that their shapes do not tell."""
    model, x = nn.Linear(4, 2).eval(), torch.randn(5, 4)
    plan = entk.plan_ntk(model, x, outputs=planned)
    with pytest.raises(entk.InputError, match=f"outputs='{planned}', this request has '{asked}'"):
        entk.ntk(model, x, outputs=asked, plan=plan)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"backend": "triton"}, r"made for backend='torch', this request has 'triton'"),
        ({"precision": "tf32"}, r"made for precision='ieee', this request has 'tf32'"),
        ({"memory": "2GB"}, r"made for memory=1000000000, this request has 2000000000"),
    ],
)
def test_a_plan_is_not_overruled_in_silence(named, said, tmp_path):
    model, x = nn.Linear(4, 2).eval(), torch.randn(5, 4)
    plan = entk.plan_ntk(model, x, memory="1GB", backend="torch")
    said += rf"; make a new one with plan_ntk, or leave {next(iter(named))}= out"
    with pytest.raises(entk.InputError, match=said):
        entk.ntk(model, x, plan=plan, **named)
    with pytest.raises(entk.InputError, match=said):
        entk.write_ntk(tmp_path / "k.h5", model, x, plan=plan, **named)
    same = {"backend": "torch", "precision": "ieee", "memory": 10**9}
    assert torch.equal(entk.ntk(model, x, plan=plan, **same), entk.ntk(model, x, plan=plan))


def test_by_layer_counts_a_kernel_and_a_tile_for_each_layer():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval(), torch.randn(5, 4)
    one, two = (entk.plan_ntk(model, x, by_layer=by_layer) for by_layer in (False, True))
    assert two.peak - one.peak == 2 * 4 * (5 * 2) ** 2
    assert two.same_bits(one)


def test_what_is_unused_has_no_backend():
    model, x, _ = next(c for c in CASES if c.name == "unused").make()
    text = str(entk.plan_ntk(model, x, backend="torch"))
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["b.weight"][6] == "-"
    assert lines["a.weight"][6] == "torch"
