"""All cases of all projects."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ported import backpack, curvlinops, neural_tangents, nngeometry, opacus, torchjd, vision
from tests.ported.case import Ported

PROJECTS = {
    "TorchJD": (torchjd, vision),
    "BackPACK": (backpack,),
    "Opacus": (opacus,),
    "Neural Tangents": (neural_tangents,),
    "curvlinops": (curvlinops,),
    "NNGeometry": (nngeometry,),
}

MODULES = [module for modules in PROJECTS.values() for module in modules]
PYTREES = [case for module in MODULES for case in getattr(module, "PYTREES", ())]
# a tree runs with its leaves in one row; by itself once trees are served
CASES = [case for module in MODULES for case in module.CASES] + [c.packed() for c in PYTREES]
REFUSED = [case for module in MODULES for case in getattr(module, "REFUSED", ())]


def combinations(position: int, case: Ported) -> Iterator[tuple[Ported, str, str]]:
    """ "all" by every strategy, each other mode by one of them in turn: all occur, none for long."""
    for turn, outputs in enumerate(case.modes):
        chosen = case.strategies[(position + turn) % len(case.strategies)]
        for strategy in case.strategies if outputs == "all" else (chosen,):
            yield case, outputs, strategy


COMBINATIONS = [found for i, case in enumerate(CASES) for found in combinations(i, case)]
