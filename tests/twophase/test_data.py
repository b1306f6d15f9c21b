import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from twophase import config, data
from twophase.errors import UserError


def load(source, *sets, **values):
    small = {"training": {"batch": 2, **values.pop("training", {})}, "kernels": {"probe": 2}}
    return data.load(config.build({"data": {"source": str(source), **values}, **small}, sets))


def arrays(n=6, shape=(4, 4), dtype=np.uint8):
    x = (np.arange(n * np.prod(shape)).reshape(n, *shape) % 251).astype(dtype)
    return {"x_train": x, "y_train": np.arange(n) % 3, "x_test": x[:3], "y_test": np.arange(3)}


def write(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return path


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


def test_samples_are_normalised_by_the_training_set():
    found = load("digits")
    assert found.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.x_train.std().item() == pytest.approx(1, abs=1e-5)
    assert found.x_train.dtype == torch.float32


def test_label_noise_hits_the_training_labels_only_and_is_the_seeds():
    clean, noisy = load("digits"), load("digits", label_noise=0.2)
    again, other = load("digits", label_noise=0.2), load("digits", "seed=1", label_noise=0.2)
    assert clean.flipped == 0
    # 20 % redrawn over 10 classes: 18 % change; 4 standard deviations of a binomial
    n, p = 1347, 0.18
    assert abs(noisy.flipped - n * p) < 4 * (n * p * (1 - p)) ** 0.5
    assert int((noisy.y_train != clean.y_train).sum()) == noisy.flipped
    assert torch.equal(noisy.y_test, clean.y_test)
    assert torch.equal(noisy.y_train, again.y_train)
    assert not torch.equal(noisy.y_train, other.y_train)


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


def test_a_part_is_a_fixed_random_choice(tmp_path):
    path = write(tmp_path / "sorted.npz", y_train=np.array([0, 0, 0, 1, 1, 1]))
    found, again = (load(path, train=4, test=2) for _ in range(2))
    assert (len(found.x_train), len(found.x_test)) == (4, 2)
    assert set(found.y_train.tolist()) == {0, 1}
    assert torch.equal(found.x_train, again.x_train)


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
    with pytest.raises(UserError, match="expected digits, cifar10, cifar100, mnist, an existing"):
        load("digitz")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["kernels.probe=7"], "kernels.probe=7: there are only 6 training samples"),
        (["training.batch=7"], "training.batch=7: there are only 6 training samples"),
    ],
)
def test_more_than_there_is(tmp_path, sets, said):
    with pytest.raises(UserError, match=said):
        load(write(tmp_path / "few.npz"), *sets)


def test_vectors_cannot_be_shifted(tmp_path):
    path = write(tmp_path / "vectors.npz", **arrays(shape=(7,), dtype=np.float32))
    with pytest.raises(UserError, match=r"data.augment='shift' needs images .* shape \(7,\)"):
        load(path, augment="shift")


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
    def fail(name, *rest):
        if name.startswith("torchvision"):
            raise {error}
        return real(name, *rest)
    builtins.__import__ = fail
    from twophase.data import import_torchvision
    import_torchvision()
"""


def test_torchvision_loads_beside_a_torch_of_another_build():
    """In a fresh process, where nothing has imported it before; here it may fit or not."""
    code = (
        "from twophase.data import import_torchvision; print(import_torchvision().MNIST.__name__)"
    )
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


def augmented(x, step=0, **options):
    built = config.build({"data": {"augment": "shift", "pad": 1, **options}})
    return data.augment(x, built.data, built.seed, step)


def test_shift_moves_each_image_by_its_own_draw():
    x = torch.zeros(200, 1, 5, 5)
    x[:, 0, 2, 2] = 1
    found = augmented(x)
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
    assert found.sum() == 200


def test_shift_fills_with_zeros_and_keeps_channels_apart():
    x = torch.arange(1.0, 25).reshape(1, 2, 3, 4).repeat(50, 1, 1, 1)
    for before, after in zip(x, augmented(x), strict=True):
        padded = torch.nn.functional.pad(before, [1] * 4)
        crops = [padded[:, i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
        assert any(torch.equal(after, crop) for crop in crops)


def test_crop_flip_mirrors_half_of_the_images():
    x = torch.zeros(400, 1, 3, 3)
    x[..., 0] = 1
    found = augmented(x, augment="crop-flip", pad=1)
    left, right = ((found[:, 0, :, c].sum(1) > 0) for c in (0, 2))
    assert 20 < (right & ~left).sum() < 200


def test_augmentation_belongs_to_the_step():
    x = torch.randn(8, 1, 5, 5)
    assert torch.equal(augmented(x, 3), augmented(x, 3))
    assert not torch.equal(augmented(x, 3), augmented(x, 4))
    assert augmented(x, augment="none") is x


def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own():
    epochs = [
        torch.cat([data.batch_indices(10, 4, 0, 3 * epoch + i) for i in range(3)])
        for epoch in range(3)
    ]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(10))
    assert len({tuple(order.tolist()) for order in epochs}) == 3
    assert [len(data.batch_indices(10, 4, 0, i)) for i in range(3)] == [4, 4, 2]
    assert torch.equal(data.batch_indices(10, 4, 0, 1), epochs[0][4:8])
