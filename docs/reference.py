"""The pages of docs/api: signatures and docstrings of every public name of entk, as Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator

import entk

NOTE = (
    "<!-- Written by docs/generate.py from signatures and docstrings; change those and run it. -->"
)
# page: title, what it is about, names in order
TOPICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "kernels": ("Kernels in memory", "Kernels and Jacobians as tensors.", ("ntk", "jacobian")),
    "files": (
        "Kernels in files",
        "Kernels streamed to HDF5, with resuming.",
        ("write_ntk", "open_kernel", "KernelFile", "exclusive"),
    ),
    "distances": (
        "Distances",
        "How far apart two kernels are, or many.",
        ("kernel_distance", "kernel_distance_matrix", "trajectory_distances"),
    ),
    "operator-and-spectrum": (
        "Operator and spectrum",
        "Products with a kernel that is not formed; eigenvalues of any kernel.",
        (
            *("ntk_operator", "NTKOperator", "spectrum", "effective_rank"),
            *("spectral_density", "SpectralDensity"),
        ),
    ),
    "similarity-and-regression": (
        "Similarity and regression",
        "Kernels against labels and one another; what a kernel predicts.",
        (
            *("alignment", "cka", "kernel_regression", "KernelRegression"),
            *("linearised_predictions", "LinearisedPredictions"),
        ),
    ),
    "sketches": (
        "Sketches",
        "`sketch=k` of `ntk`, `write_ntk`, `plan_ntk` and distances estimates a kernel; its error:",
        ("sketch_error",),
    ),
    "linearisation": (
        "Linearisation",
        "The model to first order.",
        ("linearize", "LinearizedModel"),
    ),
    "plans-and-rates": (
        "Plans and rates",
        "What a kernel will cost, why, and who serves it.",
        ("plan_ntk", "Plan", "Rates", "backends"),
    ),
    "errors": (
        "Errors",
        "One type for each next step of the user.",
        (
            *("EntkError", "InputError", "ModelStateError", "UnsupportedModelError"),
            *("BackendUnavailableError", "KernelFileError", "ResumeError"),
            *("LockedError", "UndefinedDistanceError", "DistributedError"),
        ),
    ),
}
TYPES = """\
| in signatures | |
|---|---|
| `Input` | a tensor [N, ...]; a tuple, list or mapping of such: positional, keyword arguments |
| `Params` | names of parameters, or `None`; for a function f(params, x) the dict of its tensors |
| `Select` | a function of the model's output, a name in it, a slice or list of positions |
| `Kernel` | a tensor, an array, a `KernelFile`, or a path to one |
| `NTK` | a tensor [N, O, M, O], [O, N, M] or [N, M], by `outputs` |
| `Float[Tensor, "N *O"]` | a floating-point tensor [N] or [N, O], as jaxtyping writes it |"""
SPECIAL = ("__getitem__", "__matmul__")  # operators that are documented
INHERITED = ("extra_repr",)  # described by torch.nn.Module


def escaped(text: str) -> str:
    """Prose that means itself in Markdown; code spans stay, papers become links."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for i in range(0, len(parts), 2):
        plain = re.sub(r"[*<]|(?<!\w)_|_(?!\w)", r"\\\g<0>", parts[i]).replace("](", "]\\(")
        parts[i] = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", plain)
    return "".join(parts)


def blocks(doc: str) -> Iterator[list[str]]:
    """Runs of lines between blanks, and apart where indentation begins or ends, but for lists."""
    run: list[str] = []
    for line in [*doc.splitlines(), ""]:
        listed = run and run[0] in ("Args:", "Raises:")
        turns = run and line.startswith(" ") != run[-1].startswith(" ") and not listed
        if run and (not line or (turns and not run[0].startswith(">>>"))):
            yield run
            run = []
        if line:
            run.append(line)


def bullets(lines: list[str]) -> str:
    """`name: text` at the first indentation, going on at deeper ones."""
    items: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if line.startswith(" "):
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    listed = []
    for item in items:
        name, colon, text = item.partition(": ")
        named = colon and re.fullmatch(r"\w+(, \w+)*", name)
        listed.append(f"- `{name}`: {escaped(text)}" if named else f"- {escaped(item)}")
    return "\n".join(listed)


def markdown(doc: str) -> str:
    parts = []
    for run in blocks(inspect.cleandoc(doc)):
        if run[0] in ("Args:", "Raises:"):
            parts.append(f"**{run[0][:-1]}**\n\n{bullets(run[1:])}")
        elif run[0].startswith(">>>"):
            parts.append("\n".join(["```pycon", *run, "```"]))
        elif run[0].startswith(" "):
            parts.append(f"```text\n{textwrap.dedent(chr(10).join(run))}\n```")
        else:
            parts.append(escaped("\n".join(run)))
    # formulas that only a blank line parts
    return "\n\n".join(parts).replace("\n```\n\n```text\n", "\n\n")


def shown(annotation) -> str:
    return re.sub(r"' ?([^']*)'", r'"\1"', str(annotation))


def signature(name: str, function, method: bool = False) -> str:
    found = inspect.signature(function)
    gives = shown(found.return_annotation) if found.return_annotation is not found.empty else ""
    arrow = f" -> {gives}" if gives else ""
    lines, star = [], False
    for p in (p for p in found.parameters.values() if p.name != "self"):
        if p.kind is p.KEYWORD_ONLY and not star:
            lines, star = [*lines, "*"], True
        mark = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "")
        kind = "" if p.annotation is p.empty else f": {shown(p.annotation)}"
        equals = " = " if kind else "="
        default = "" if p.default is p.empty else f"{equals}{p.default!r}"
        lines.append(f"{mark}{p.name}{kind}{default}")
    short = f"{name}({', '.join(lines)}){arrow}"
    if method or len(short) <= 100:
        return short
    inside = "".join(f"    {line},\n" for line in lines)
    return f"{name}(\n{inside}){arrow}"


def fields(kind: type) -> str:
    """Those of a dataclass, with the comments behind them in the source."""
    source = inspect.getsource(kind)
    rows = ["| field | type | |", "|---|---|---|"]
    for f in dataclasses.fields(kind):
        comment = re.search(rf"^    {f.name}: [^#\n]*# (.+)$", source, re.M)
        about = escaped(comment[1]).replace("|", "\\|") if comment else ""
        rows.append(
            f"| `{f.name}` | `{shown(f.type)}` | {about} |".replace(" | None`", " \\| None`")
        )
    return "\n".join(rows)


def members(kind: type) -> dict[str, object]:
    """What a user calls or reads of a class, in the order of the source."""
    own = (property, classmethod, type(members))
    return {
        name: value
        for name, value in vars(kind).items()
        if isinstance(value, own)
        and (not name.startswith("_") or name in SPECIAL)
        and name not in INHERITED
    }


def of_class(name: str, kind: type) -> list[str]:
    if issubclass(kind, Exception):
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        return [markdown(kind.__doc__), f"Derives from {bases}."]
    parts = [markdown(kind.__doc__)]
    if dataclasses.is_dataclass(kind) and name != "NTKOperator":  # whose fields are its own affair
        parts.append(fields(kind))
    for own, value in members(kind).items():
        doc = markdown(inspect.getdoc(value))
        if isinstance(value, property):
            title = f"{own}: {shown(inspect.signature(value.fget).return_annotation)}"
        else:
            title = signature(own, getattr(kind, own), method=True)
        parts.append(f"- `{title}`\n\n{textwrap.indent(doc, '  ')}")
    return parts


def api_page(topic: str) -> str:
    title, about, names = TOPICS[topic]
    parts = [f"# {title}", NOTE, f"{about} [All pages](README.md)."]
    for name in names:
        thing = getattr(entk, name)
        parts.append(f"## {name}")
        if inspect.isclass(thing):
            parts += of_class(name, thing)
        else:
            head = signature(f"entk.{name}", thing)
            parts += [f"```python\n{head}\n```", markdown(thing.__doc__)]
    return "\n\n".join(parts) + "\n"


def index_page() -> str:
    """Each public name once, with the first line of its docstring."""
    parts = ["# Public names of entk", NOTE, entk.__doc__, TYPES]
    for topic, (title, _, names) in TOPICS.items():
        rows = [
            f"- [`{name}`]({topic}.md#{name.lower()}): "
            + escaped(inspect.getdoc(getattr(entk, name)).split("\n\n")[0])
            for name in names
        ]
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"
