"""The Vendi score against scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from tests.oracles import seeded
from vaenb.metrics.diversity import vendi


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


def test_a_zero_feature_has_no_cosine():
    with pytest.raises(ValueError, match=r"features: row\(s\) \[1\] of 3 are zero"):
        vendi(torch.tensor([[1.0, 0], [0, 0], [0, 1]]))
