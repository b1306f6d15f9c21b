import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

import entk
from twophase import geometry


def unit_vectors(n, d, spread=1.0, seed=0):
    """[n, d] around a common direction."""
    generator = np.random.default_rng(seed)
    u = spread * generator.standard_normal((n, d)) / np.sqrt(d)
    u[:, 0] += 1.0
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def distances(u):
    """S = |u_i - u_j|² / 2."""
    return cdist(u, u, "sqeuclidean") / 2


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5])
def test_mean_direction_is_that_of_explicit_kernels(spread):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(7, 6, 9, generator=generator, dtype=torch.float64) * spread
    features += torch.randn(6, 9, generator=generator, dtype=torch.float64)
    kernels = features @ features.mT * torch.arange(1, 8)[:, None, None]  # scales do not matter
    found = geometry.mean_direction(entk.kernel_distance_matrix(list(kernels)).numpy())
    unit = (kernels / kernels.flatten(1).norm(dim=1)[:, None, None]).flatten(1)
    m = unit.mean(0)
    assert found.resultant == pytest.approx(m.norm().item(), rel=1e-12)
    # the chord to m / |m| keeps the digits of small angles
    chords = (unit - m / m.norm()).norm(dim=1)
    expected = torch.rad2deg(2 * torch.asin(chords / 2))
    assert found.angles == pytest.approx(expected.tolist(), rel=1e-6)
    scatter = torch.linalg.svdvals(unit - m).square()
    assert found.dimension == pytest.approx((scatter.sum() ** 2 / (scatter**2).sum()).item())


def test_dimension_of_a_line_and_of_a_simplex():
    angles = np.linspace(0, 0.01, 6)
    line = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert geometry.mean_direction(distances(line)).dimension == pytest.approx(1.0, abs=1e-3)
    assert geometry.mean_direction(1 - np.eye(6)).dimension == pytest.approx(5.0)
    equal = geometry.mean_direction(np.zeros((4, 4)))
    assert (equal.resultant, equal.angles, equal.dimension) == (1.0, [0.0] * 4, 0.0)


def test_aperture_is_the_widest_angle_so_far():
    degrees = np.array([0.0, 20.0, -15.0, 10.0])
    u = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    assert geometry.apertures(distances(u)) == pytest.approx([0, 20, 35, 35])


@pytest.mark.parametrize("d", [1, 2, 3])
def test_scaling_recovers_planted_points(d):
    planted = np.random.default_rng(d).standard_normal((9, d))
    found = geometry.scaling(cdist(planted, planted, "sqeuclidean") / 2)
    points = np.array(found.points)
    assert pdist(points) == pytest.approx(pdist(planted))
    assert found.negative < 1e-12
    expected = np.linalg.svd(planted - planted.mean(0), compute_uv=False) ** 2
    assert found.explained[:d] == pytest.approx(expected / expected.sum())
    assert found.explained[d:] == pytest.approx([0] * (3 - d), abs=1e-12)


def test_scaling_is_a_principal_component_analysis_of_the_directions():
    u = unit_vectors(8, 20)
    left, values, _ = np.linalg.svd(u - u.mean(0))
    expected = (left[:, :8] * values)[:, :3]
    found = geometry.scaling(distances(u))
    assert np.abs(found.points) == pytest.approx(np.abs(expected))
    assert found.explained == pytest.approx((values**2 / (values**2).sum())[:3])


def test_scaling_ignores_rotations_and_follows_the_order():
    u = unit_vectors(8, 12)
    turned = u @ np.linalg.qr(np.random.default_rng(5).standard_normal((12, 12)))[0]
    once = np.array(geometry.scaling(distances(u)).points)
    assert np.array(geometry.scaling(distances(turned)).points) == pytest.approx(once)
    back = np.array(geometry.scaling(distances(u[::-1])).points)[::-1]
    assert np.abs(back) == pytest.approx(np.abs(once))
    assert (once[:4].sum(0) < 0).all()  # from the first half to the second


def test_distances_of_no_points_show_as_negative_eigenvalues():
    far = np.array([[0, 1, 9], [1, 0, 1], [9, 1, 0]], dtype=float)  # squared: 3 > 1 + 1
    assert geometry.scaling(far).negative > 0.05
    assert geometry.scaling(np.zeros((3, 3))).explained == [0, 0, 0]
