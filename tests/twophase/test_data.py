import numpy as np
import pytest
import torch

from tests.twophase.files import arrays, load, write
from twophase import config, data
from twophase.errors import UserError


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


def test_a_part_is_a_fixed_random_choice(tmp_path):
    path = write(tmp_path / "sorted.npz", y_train=np.array([0, 0, 0, 1, 1, 1]))
    found, again = (load(path, train=4, test=2) for _ in range(2))
    assert (len(found.x_train), len(found.x_test)) == (4, 2)
    assert set(found.y_train.tolist()) == {0, 1}
    assert torch.equal(found.x_train, again.x_train)


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
