import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import datasets

from tests.twophase.files import arrays, load, write
from twophase.errors import UserError


def test_digits_split_is_fixed_stratified_and_disjoint():
    one = load("digits")
    other = load("digits", "seed=5")
    assert (len(one.x_train), len(one.x_test), one.classes) == (1347, 450, 10)
    assert torch.equal(one.x_test, other.x_test)
    share = torch.bincount(one.y_test) / torch.bincount(torch.cat([one.y_train, one.y_test]))
    assert share.sub(450 / 1797).abs().max() < 0.01
    rows = {tuple(x.flatten().tolist()) for x in one.x_train}
    repeated = sum(tuple(x.flatten().tolist()) in rows for x in one.x_test)
    assert repeated <= 3  # scikit-learn's digits hold a few equal images


def test_npz_images_get_a_channel_axis(tmp_path):
    grey = load(write(tmp_path / "grey.npz"))
    assert grey.x_train.shape == (6, 1, 4, 4)
    assert grey.classes == 3
    colour = arrays(shape=(4, 5, 3))
    found = load(write(tmp_path / "colour.npz", **colour))
    assert found.x_train.shape == (6, 3, 4, 5)
    raw = torch.from_numpy(colour["x_train"]).movedim(3, 1).float()
    assert (
        torch.corrcoef(torch.stack([raw[:, 1].flatten(), found.x_train[:, 1].flatten()]))[0, 1]
        > 0.99
    )


def test_npz_floats_keep_their_shape(tmp_path):
    values = arrays(shape=(7,), dtype=np.float64)
    assert load(write(tmp_path / "vectors.npz", **values)).x_train.shape == (6, 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y_test": None}, "it has no array 'y_test'"),
        ({"y_train": np.arange(5)}, "y_train has 5 labels for 6 samples"),
        ({"y_train": np.arange(6) - 1}, "y_train has label -1, expected classes from 0 up"),
        ({"y_train": np.ones((6, 3), int)}, r"y_train is int64 \(6, 3\), expected integers \[N\]"),
        ({"y_train": np.ones(6)}, r"y_train is float64 \(6,\), expected integers \[N\]"),
        ({"x_train": np.ones((6, 4, 4), int)}, r"x_train is int64 \(6, 4, 4\), expected uint8"),
        ({"x_train": np.zeros(6, np.uint8)}, r"x_train is uint8 \(6,\), expected uint8 \[N,H,W\]"),
        ({"x_train": np.full((6, 1, 4, 4), np.nan)}, "x_train has NaN or infinity in it"),
        (
            {"x_test": np.zeros((3, 5, 5), np.uint8)},
            r"differ in shape, \(1, 4, 4\) and \(1, 5, 5\)",
        ),
        ({"y_train": np.array([{}] * 6)}, "not readable as .npz .*pickle"),
    ],
)
def test_npz_that_does_not_fit_is_one_line(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as error:
        load(write(tmp_path / "bad.npz", **changes))
    assert "\n" not in str(error.value)


def test_npz_that_is_none_or_not_there(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("text.npz", "none.npz"):
        with pytest.raises(UserError, match=rf"{name}': not readable as .npz"):
            load(tmp_path / name)


def test_unknown_source_lists_the_known():
    with pytest.raises(
        UserError, match="expected digits, breast_cancer, wine, text, cifar10, cifar100, "
    ):
        load("digitz")


def images(root, classes, sides=(6, 6)):
    for part in ("train", "test"):
        for label, name in enumerate(classes[part]):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("L", sides, 100 * label + 10 * i).save(folder / f"{i}.png")


def test_image_folder(tmp_path):
    images(tmp_path, {"train": ["cat", "dog"], "test": ["cat", "dog"]}, sides=(6, 5))
    found = load(tmp_path)
    assert found.x_train.shape == (4, 3, 5, 6)
    assert found.y_train.tolist() == [0, 0, 1, 1]
    assert found.x_train[2].mean() > found.x_train[0].mean()


def test_image_folder_faults(tmp_path):
    images(tmp_path / "a", {"train": ["cat", "dog"], "test": ["dog"]})
    with pytest.raises(
        UserError, match=r"train/ has classes \['cat', 'dog'\], test/ has \['dog'\]"
    ):
        load(tmp_path / "a")
    images(tmp_path / "b", {"train": ["cat"], "test": ["cat"]})
    Image.new("L", (9, 9)).save(tmp_path / "b" / "train" / "cat" / "9.png")
    with pytest.raises(UserError, match="the images of train/ differ in size"):
        load(tmp_path / "b")
    (tmp_path / "c" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="Couldn't find any class folder"):
        load(tmp_path / "c")


BROKEN = """
    import builtins, sys
    real = builtins.__import__
    def fail(name, *rest, **more):
        if name.startswith("torchvision"):
            raise {error}
        return real(name, *rest, **more)
    builtins.__import__ = fail
    from twophase.sources import import_torchvision
    import_torchvision()
"""


def test_torchvision_loads_beside_a_torch_of_another_build():
    """In a fresh process, where nothing has imported it before; here it may fit or not."""
    code = "from twophase.sources import import_torchvision as f\nprint(f().MNIST.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "MNIST\n", done.stderr


@pytest.mark.parametrize(
    "error", ["RuntimeError('another fault')", "ImportError('no torchvision')"]
)
def test_another_fault_of_torchvision_is_not_hidden(error):
    code = textwrap.dedent(BROKEN.format(error=error))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == error.replace("('", ": ").replace("')", "")


def test_download_that_fails_says_what_to_do(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        UserError, match=r"'mnist' could not be read from or downloaded to .*use a .npz"
    ):
        load("mnist", root=str(blocked))


@pytest.mark.parametrize(
    ("name", "features", "classes"), [("breast_cancer", 30, 2), ("wine", 13, 3)]
)
def test_tabular_sets_are_split_once_and_in_proportion(name, features, classes):
    found, other = load(name), load(name, "seed=5")
    whole = getattr(datasets, f"load_{name}")()
    assert found.classes == classes
    assert found.x_train.shape[1:] == (features,)
    assert len(found.x_train) + len(found.x_test) == len(whole.data)
    assert len(found.x_test) == -(-len(whole.data) // 4)
    counts = torch.bincount(found.y_test) / torch.from_numpy(np.bincount(whole.target))
    assert counts.sub(0.25).abs().max() < 0.02
    assert torch.equal(found.x_test, other.x_test)
    # normalised feature by feature; rows are those of the set, each once
    assert found.x_train.mean(0).abs().max() < 1e-5
    assert found.x_train.std(0).sub(1).abs().max() < 1e-5
    x = torch.cat([found.x_train, found.x_test])
    raw = torch.from_numpy(whole.data)
    scale = (raw.std(0) / x.double().std(0)).float()
    back = x * scale
    expected = (raw - raw.mean(0)).float()
    back = back - back.mean(0)
    assert torch.allclose(back.sort(0).values, expected.sort(0).values, atol=1e-3, rtol=1e-3)
