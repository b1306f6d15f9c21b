"""How many combinations the tables make: `python -m tests.ported.count`."""

from __future__ import annotations

from tests.ported.tables import COMBINATIONS, MODULES, PROJECTS, PYTREES, REFUSED


def lines() -> list[str]:
    """One for each project: models, trees among them, refused ones; then the combinations."""
    found = []
    for project, modules in PROJECTS.items():
        trees, refused = (
            [case for module in modules for case in getattr(module, kind, ())]
            for kind in ("PYTREES", "REFUSED")
        )
        models = sum(len(module.CASES) for module in modules) + len(trees)
        found.append(f"{project}: {models} models ({len(trees)} trees), {len(refused)} refused")
    total = sum(len(module.CASES) for module in MODULES) + len(PYTREES)
    found.append(f"together: {total} models, {len(REFUSED)} refused")
    found.append(f"model x output mode x strategy: {len(COMBINATIONS)} combinations")
    return found


if __name__ == "__main__":
    print("\n".join(lines()))
