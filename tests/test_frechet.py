"""The Fréchet distance against closed forms, scipy and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tests.oracles import seeded
from vaenb.metrics.frechet import features_of, frechet_distance, leading
from vaenb.models.classifier import cnn_classifier


def pair(n=200, m=150, f=6):
    g = seeded()
    a, b = torch.randn(n, f, generator=g).double(), torch.randn(m, f, generator=g).double()
    return a @ torch.randn(f, f, generator=g).double(), b @ torch.randn(f, f, generator=g).double() + 0.5


def whitened(n, f):
    """Rows with mean 0 and covariance I exactly."""
    x = torch.randn(n, f, generator=seeded()).double()
    return torch.linalg.qr(x - x.mean(0)).Q * (n - 1) ** 0.5


def test_it_is_scipys():
    a, b = (x.numpy() for x in pair())
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(*pair()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (40, 5), (2, 3)])
def test_it_is_torchmetrics_also_where_covariances_are_singular(n, m):
    a, b = pair(n, m)
    reference = FrechetInceptionDistance(nn.Identity(), normalize=True, input_img_size=(6,))
    reference.inception.num_features = 6
    reference.update(a, real=True)
    reference.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(reference.compute().item(), rel=1e-5)


def test_of_axis_aligned_gaussians_it_is_the_distance_of_means_and_standard_deviations():
    x, scale, shift = whitened(50, 4), torch.tensor([0.5, 1, 2, 3]), torch.tensor([1.0, -1, 0, 2])
    expected = (shift**2).sum() + ((scale - 1) ** 2).sum()
    assert frechet_distance(x, x * scale + shift) == pytest.approx(expected.item(), rel=1e-10)


def test_the_leading_directions_are_those_of_the_largest_variances():
    rows = 7 + whitened(50, 4) * torch.tensor([0.5, 3, 1, 2])
    axes = leading(rows, 2)
    torch.testing.assert_close(axes.abs(), torch.eye(4).double()[:, [1, 3]], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="count: a whole number from 1 to 4 expected, got 5"):
        leading(rows, 5)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_equal_sets_are_at_zero_also_with_fewer_rows_than_features(n):
    a = 100 + torch.randn(n, 64, generator=seeded())
    assert 0 <= frechet_distance(a, a) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(a, a.flip(0) + 1) == pytest.approx(64, rel=1e-6)


def test_it_is_symmetric_and_does_not_see_a_rotation():
    a, b = pair()
    q = torch.linalg.qr(torch.randn(6, 6, generator=seeded()).double()).Q
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a @ q, b @ q) == pytest.approx(frechet_distance(a, b), rel=1e-10)


@pytest.mark.parametrize(("f", "n", "m"), [(8, 1000, 1000), (20, 2000, 1000)])
def test_its_bias_is_as_documented(f, n, m):
    g = seeded()
    values = [frechet_distance(torch.randn(n, f, generator=g), torch.randn(m, f, generator=g)) for _ in range(40)]
    assert np.mean(values) == pytest.approx(f * (f + 5) / 4 * (1 / n + 1 / m), rel=0.06)


@pytest.mark.parametrize(
    ("a", "b", "error", "says"),
    [
        (torch.rand(1, 3), torch.rand(5, 3), ValueError, "a: at least 2 rows expected"),
        (torch.rand(5, 3), torch.rand(1, 3), ValueError, "b: at least 2 rows expected"),
        (torch.rand(5, 3), torch.rand(5, 4), ValueError, "a, b: features of one network expected, got \\[3, 4\\]"),
        (torch.rand(5, 3, 1), torch.rand(5, 3), ValueError, r"a: features \(N, F\) expected"),
        (torch.rand(5, 3), torch.full((5, 3), torch.nan), ValueError, "b: NaN"),
        (np.zeros((5, 3)), torch.rand(5, 3), TypeError, "a: a torch tensor"),
    ],
)
def test_bad_features_are_refused(a, b, error, says):
    with pytest.raises(error, match=says):
        frechet_distance(a, b)


def images(n=6, c=1, side=8):
    return torch.rand(n, c, side, side, generator=seeded(n))


def test_features_are_a_networks_block_by_block():
    net = cnn_classifier(image_shape=(1, 8, 8), classes=3).eval()
    x, found = images(300), features_of(net.features, images(300))
    torch.testing.assert_close(found, net.features(x).detach())
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("features", "error", "says"),
    [
        ("resnet", TypeError, "callable expected, got 'resnet'"),
        (lambda x: x, ValueError, r"has to map 4 images to \(4, F\), got \(4, 1, 8, 8\); flatten"),
        (lambda x: x.flatten(1)[:2], ValueError, r"has to map 4 images to \(4, F\), got \(2, 64\)"),
        (cnn_classifier(image_shape=(1, 8, 8), classes=3).features, ValueError, "training mode"),
    ],
)
def test_bad_networks_are_refused(features, error, says):
    with pytest.raises(error, match=says):
        features_of(features, images(4))


def test_images_are_checked():
    with pytest.raises(ValueError, match="^x: .*divide by 255"):
        features_of(lambda x: x.flatten(1), images() * 255)
