"""Precision, recall, density, coverage and the Vendi score against scikit-learn and closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from tests.oracles import seeded
from vaenb.metrics import diversity
from vaenb.metrics.diversity import density_coverage, precision_recall, vendi


def sets(n=60, m=45, f=3, shift=1.0):
    g = seeded()
    return torch.randn(n, f, generator=g).double(), 0.7 * torch.randn(m, f, generator=g).double() + shift


def balls(centres, points, k):
    """[i, j]: is point j nearer to centre i than the centre's k-th other centre?"""
    radii = NearestNeighbors(n_neighbors=k + 1).fit(centres).kneighbors(centres)[0][:, k]
    distances = np.linalg.norm(centres.numpy()[:, None] - points.numpy()[None], axis=2)
    return distances < radii[:, None]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_all_four_are_those_of_scikit_learns_neighbours(k, chunk, monkeypatch):
    monkeypatch.setattr(diversity, "_CHUNK", chunk)
    real, fake = sets()
    around_real, around_fake = balls(real, fake, k), balls(fake, real, k)
    found = precision_recall(real, fake, k=k) | density_coverage(real, fake, k=k)
    expected = {
        "precision": around_real.any(0).mean(),
        "recall": around_fake.any(0).mean(),
        "density": around_real.sum() / k / 45,
        "coverage": around_real.any(1).mean(),
    }
    assert 0 < expected["recall"] < 1 and found == pytest.approx(expected, rel=1e-12)


def test_equal_sets():
    real, _ = sets()
    assert precision_recall(real, real.flip(0)) == {"precision": 1, "recall": 1}
    assert density_coverage(real, real.flip(0)) == {"density": 1, "coverage": 1}


def test_copies_have_no_open_ball_but_a_closed_one():
    real, fake = sets()
    many = torch.cat([real, real[:1].repeat(5, 1)])
    with pytest.raises(
        ValueError, match=r"real: row\(s\) \[0, 60, 61, 62, 63\] of 65 have 5 copies or more, .* larger k"
    ):
        density_coverage(many, fake)
    assert density_coverage(many, many, k=6) == {"density": pytest.approx(1, abs=0.1), "coverage": 1}
    one = real[:1].repeat(9, 1)
    assert precision_recall(one, one) == {"precision": 1, "recall": 1}
    assert precision_recall(one, fake) == {"precision": 0, "recall": 0}


def test_sets_far_apart():
    real, fake = sets(shift=1e3)
    assert precision_recall(real, fake) == {"precision": 0, "recall": 0}
    assert density_coverage(real, fake) == {"density": 0, "coverage": 0}


def test_one_mode_of_two_is_precise_and_covers_half():
    g = seeded()
    left, right = torch.randn(100, 2, generator=g), torch.randn(100, 2, generator=g) + 1e3
    fake = left.repeat(2, 1) + 1e-6 * torch.randn(200, 2, generator=g)
    found = precision_recall(torch.cat([left, right]), fake)
    assert found["precision"] == 1 and found["recall"] <= 0.5
    found = density_coverage(torch.cat([left, right]), fake)  # two copies of the centre, of four neighbours, and
    assert found == pytest.approx({"density": 1.1, "coverage": 0.5}, rel=0.02)  # of the fifth one half of the time


def test_exchanging_the_sets_exchanges_precision_and_recall():
    one, other = precision_recall(*sets()), precision_recall(*sets()[::-1])
    assert (one["precision"], one["recall"]) == (other["recall"], other["precision"])


def test_an_outlier_raises_recall_but_hardly_coverage():
    real, fake = sets(n=300, m=300, shift=30.0)
    fake[0] = -30.0  # its ball now reaches over all the data
    assert precision_recall(real, fake)["recall"] == 1
    assert density_coverage(real, fake)["coverage"] == 0


@pytest.mark.parametrize(("n", "m", "k"), [(50, 50, 5), (40, 80, 3), (60, 30, 1)])
def test_for_one_distribution_density_and_coverage_have_the_documented_expectation(n, m, k):
    g = seeded()
    runs = [density_coverage(torch.rand(n, 2, generator=g), torch.rand(m, 2, generator=g), k=k) for _ in range(300)]
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert np.mean([run["coverage"] for run in runs]) == pytest.approx(expected, abs=0.015)
    assert np.mean([run["density"] for run in runs]) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_vendi_counts_orthogonal_features(n):
    assert vendi(torch.eye(n, 7) * torch.arange(1, n + 1)[:, None]) == pytest.approx(n)


def test_vendi_of_equal_directions_is_one():
    direction, lengths = torch.randn(1, 5, generator=seeded()), torch.rand(20, 1, generator=seeded()) + 0.1
    assert vendi(lengths * direction) == pytest.approx(1, abs=1e-6)


def test_vendi_of_groups_is_the_exponential_of_the_entropy_of_their_sizes():
    p = np.array([1, 2, 5, 12]) / 20
    groups = torch.eye(4).repeat_interleave(torch.tensor([1, 2, 5, 12]), 0)
    assert vendi(groups) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(("n", "f"), [(30, 4), (4, 30)])
def test_vendi_is_that_of_the_kernels_eigenvalues(n, f):
    x = torch.randn(n, f, generator=seeded()).double()
    values = np.linalg.eigvalsh(cosine_similarity(x) / n)
    values = values[values > 1e-12]
    assert vendi(x) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-8)
    assert 1 < vendi(x) < min(n, f)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "fake", "k", "error", "says"),
    [
        (torch.rand(9, 2), torch.rand(9, 3), 3, ValueError, "real, fake: features of one network .* \\[2, 3\\]"),
        (torch.rand(3, 2), torch.rand(9, 2), 3, ValueError, "real: at least 4 rows expected, got 3"),
        (torch.rand(9, 2), torch.rand(3, 2), 3, ValueError, "fake: at least 4 rows expected, got 3"),
        (torch.rand(9, 2), torch.rand(9, 2), 0, ValueError, "k: a whole number ≥ 1 expected, got 0"),
        (torch.full((9, 2), torch.nan), torch.rand(9, 2), 3, ValueError, "real: NaN"),
        (torch.rand(9, 2), torch.rand(9, 2, 1), 3, ValueError, "fake: "),
    ],
)
def test_bad_sets_are_refused(metric, real, fake, k, error, says):
    with pytest.raises(error, match=says):
        metric(real, fake, k=k)


def test_a_zero_feature_has_no_cosine():
    with pytest.raises(ValueError, match=r"features: row\(s\) \[1\] of 3 are zero"):
        vendi(torch.tensor([[1.0, 0], [0, 0], [0, 1]]))
