import sys
from pydoc_data.topics import topics
from types import ModuleType

import pytest
import torch

from tests.twophase.files import load
from twophase import text
from twophase.errors import UserError


def fake(monkeypatch, **content):
    """The module that the text is read from, with other topics."""
    module = ModuleType("pydoc_data.topics")
    module.topics = content
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)


def characters():
    train, _ = text.split(topics)
    return ["\0", *sorted(set("".join(train)))]


def test_targets_are_the_next_characters_of_the_topics():
    x, y, x_test, y_test = text.windows(50)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    names = characters()
    train, test = text.split(topics)
    for found, last, part in ((x, y, train), (x_test, y_test, test)):
        whole = "\n\n".join(part)
        for k in range(0, len(found), 97):
            window = "".join(names[i] for i in found[k].tolist() + last[k, -1:].tolist())
            assert "\0" in window or window in whole


def test_no_text_of_the_test_is_trained_on():
    """Windows of the test, without white space, do not occur in the training part."""
    names = characters()
    train = "".join("".join(text.split(topics)[0]).split())
    tests = ["".join(names[i] for i in row) for row in text.windows(100)[2].tolist()]
    dense = ["".join(w.split()) for w in tests]
    found = [w for w in dense if len(w) >= 40 and len(set(w)) > 5 and w in train]
    assert len(tests) > 300
    assert found == []


def test_split_is_by_topics_and_a_tenth_is_tested():
    train, test = text.split(topics)
    assert test == [topics[name] for name in text.TEST_TOPICS]
    assert 0.05 < sum(map(len, test)) / sum(map(len, train + test)) < 0.2


def test_a_topic_that_repeats_a_tested_paragraph_is_left_out():
    long = "word " * 20
    train, test = text.split(
        {"calls": f"one\n\n{long}", "b": f"b\n \n{long.replace(' ', '  ')}\n\nmore", "a": "two"}
    )
    assert (train, test) == (["two"], [f"one\n\n{long}"])


def test_windows_neither_overlap_nor_cross_topics(monkeypatch):
    fake(monkeypatch, b="abcabcab", a="bcbcb", calls="axcab")
    x, y, x_test, y_test = text.windows(3)
    # a, b, c are 1, 2, 3; x is not in the training part
    assert x.tolist() == [[2, 3, 2], [1, 2, 3], [1, 2, 3]]
    assert y.tolist() == [[3, 2, 3], [2, 3, 1], [2, 3, 1]]
    assert (x_test.tolist(), y_test.tolist()) == ([[1, 0, 3]], [[0, 3, 1]])


def test_text_that_does_not_fit_is_one_line(monkeypatch):
    with pytest.raises(
        UserError, match=r"data.context=99999: no training topic is that long; at m"
    ):
        text.windows(99_999)
    with pytest.raises(UserError, match=r"data.context=30000: no test topic is that long; at most"):
        text.windows(30_000)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="this Python comes without pydoc_data"):
        text.windows(8)


def test_a_loaded_text_is_tokens_with_a_label_at_each_position():
    clean, noisy = load("text", context=32), load("text", context=32, label_noise=0.3)
    assert clean.classes == len(characters())
    assert clean.x_train.shape == clean.y_train.shape == (len(clean.x_train), 32)
    assert clean.x_train.dtype == clean.x_test.dtype == torch.int64
    assert torch.equal(noisy.x_train, clean.x_train)
    assert torch.equal(noisy.y_test, clean.y_test)
    changed = noisy.y_train != clean.y_train
    assert int(changed.sum()) == noisy.flipped
    # redrawn at each position by itself: as many in every column, up to 5 standard deviations
    p = 0.3 * (1 - 1 / clean.classes)
    columns = changed.double().mean(0)
    assert columns.sub(p).abs().max() < 5 * (p * (1 - p) / len(changed)) ** 0.5


def test_text_cannot_be_shifted():
    with pytest.raises(UserError, match=r"data.augment='shift' needs images .* shape \(64,\)"):
        load("text", augment="shift")
