"""Characters from Python's own help: the reference of the language, split by topics."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from twophase.errors import UserError

# a tenth of the text, on several subjects, none repeated in another topic
TEST_TOPICS = ("calls", "dict", "import", "raise", "string-methods", "subscriptions")
PARAGRAPH = 80  # characters from which a paragraph in two topics is no coincidence
UNKNOWN = 0  # the token of characters that the training part does not have


def windows(context: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens x and their successors y, int64 [N, context], of training and test topics.

    Windows do not overlap within a topic and do not cross topics; what is left at its end is not
    used. Token k > 0 is the k-th character of the training part, in order of code points.
    """
    train, test = split(_topics())
    token = {c: i for i, c in enumerate(sorted(set("".join(train))), 1)}
    found = []
    for part, topics in (("training", train), ("test", test)):
        codes = [torch.tensor([token.get(c, UNKNOWN) for c in topic]) for topic in topics]
        pairs = [
            (code[i : i + context], code[i + 1 : i + context + 1])
            for code in codes
            for i in range(0, len(code) - context, context)
        ]
        if not pairs:
            longest = max(map(len, topics)) - 1
            raise UserError(
                f"data.context={context}: no {part} topic is that long; at most {longest}"
            )
        found += [torch.stack(side) for side in zip(*pairs, strict=True)]
    return tuple(found)


def split(topics: dict[str, str]) -> tuple[list[str], list[str]]:
    """(training, test) texts in the order of their names.

    The test has `TEST_TOPICS`; of the others those that repeat a paragraph of it are left out.
    """
    test = {name: topics[name] for name in TEST_TOPICS if name in topics}
    known = set().union(*map(_paragraphs, test.values()))
    rest = {n: t for n, t in topics.items() if n not in test and not known & _paragraphs(t)}
    return [rest[n] for n in sorted(rest)], [test[n] for n in sorted(test)]


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "data.source='text': this Python comes without pydoc_data, which has the text; install "
            "its standard library whole, or use another source"
        ) from None
    return topics


def _paragraphs(text: str) -> set[str]:
    """The long ones, with single spaces for all white space."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return {part for part in parts if len(part) >= PARAGRAPH}
