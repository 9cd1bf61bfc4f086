"""The mutual information gap against scikit-learn and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score

from tests.oracles import seeded
from vaenb import data
from vaenb.metrics.disentanglement import mig, mutual_information


def grid(*sizes):
    """All combinations of factors with so many levels, each equally often: independent exactly."""
    return torch.cartesian_prod(*(torch.linspace(0, 1, n) for n in sizes))


def test_codes_that_are_the_factors_have_their_entropy_and_a_gap_of_one():
    v = grid(3, 6, 10)
    information = mutual_information(v[:, [2, 0, 1]], v)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[1, 0], expected[2, 1], expected[0, 2] = math.log(3), math.log(6), math.log(10)
    torch.testing.assert_close(information, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mig(v[:, [2, 0, 1]], v), torch.ones(3, dtype=torch.float64))


def test_two_codes_that_know_the_same_have_no_gap():
    v = grid(5, 4)
    assert mig(torch.stack([v[:, 0], -3 * v[:, 0], v[:, 1]], 1), v).tolist() == pytest.approx([0, 1])


def test_a_rotation_by_45_degrees_of_two_factors_closes_the_gap():
    v = grid(8, 8)
    rotated = torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1)
    assert mig(rotated, v).tolist() == pytest.approx([0, 0], abs=1e-12)
    p = (8 - (torch.arange(15) - 7).abs()) / 64  # of a sum of two levels, and of a difference
    information = torch.special.entr(p.double()).sum() - math.log(8)
    torch.testing.assert_close(mutual_information(rotated, v), information.expand(2, 2))


def test_half_of_a_factor():
    v = grid(8, 2)
    halves = torch.stack([(v[:, 0] > 0.5).float(), (v[:, 0] > 0.2).float()], 1)  # levels 4 : 4 and 2 : 6
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert mutual_information(halves, v)[:, 0].tolist() == pytest.approx([math.log(2), quarter])
    assert mig(halves, v)[0].item() == pytest.approx((math.log(2) - quarter) / math.log(8))


def test_information_is_scikit_learns_of_disentanglement_libs_bins():
    g = seeded()
    v = torch.randint(0, 4, (500, 2), generator=g)
    z = torch.randn(500, 3, generator=g) + v[:, [0, 1, 0]]
    for j, k in np.ndindex(3, 2):
        column = z[:, j].numpy()
        binned = np.digitize(column, np.histogram(column, 20)[1][:-1])
        expected = mutual_info_score(binned, v[:, k].numpy())
        assert mutual_information(z, v)[j, k].item() == pytest.approx(expected, rel=1e-9)


def test_information_agrees_with_scikit_learns_estimate_by_neighbours():
    g = seeded()
    v = torch.randint(0, 3, (4000, 1), generator=g)
    z = torch.randn(4000, 2, generator=g) + torch.tensor([1.5, 0.3]) * v
    by_neighbours = mutual_info_classif(z.numpy(), v[:, 0].numpy(), n_neighbors=20, random_state=0)
    assert mutual_information(z, v)[:, 0].tolist() == pytest.approx(by_neighbours.tolist(), abs=0.02)


def test_what_knows_nothing_has_the_documented_bias():
    g = seeded()
    z, v = torch.rand(3000, 40, generator=g), torch.randint(0, 6, (3000, 3), generator=g).float()
    assert mutual_information(z, v).mean().item() == pytest.approx(19 * 5 / (2 * 3000), rel=0.1)
    assert mig(z, v).max() < 0.01


def test_a_constant_code_knows_nothing_and_adds_nothing():
    v, constant = grid(4, 5), torch.full((20, 1), 3e8)
    assert mutual_information(constant, v).tolist() == [[0, 0]]
    z = torch.randn(20, 2, generator=seeded()) + v
    assert torch.equal(mig(torch.cat([z, constant], 1), v, bins=9), mig(z, v, bins=9))


def test_of_one_dimension_the_gap_is_all_that_it_knows():
    v = grid(4, 5)
    z = v[:, :1] + 0.1 * v[:, 1:]
    expected = mutual_information(z, v, bins=9)[0] / torch.tensor([math.log(4), math.log(5)]).double()
    torch.testing.assert_close(mig(z, v, bins=9), expected)
    torch.testing.assert_close(mig(torch.cat([z, 0 * z], 1), v, bins=9), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 30), st.floats(-9, 9), st.floats(0.01, 100))
def test_it_is_a_fraction_and_knows_no_scale_order_or_names_of_levels(seed, d, bins, shift, scale):
    g = seeded(seed)
    v = torch.randint(0, 5, (100, 2), generator=g).float()
    v[:2] = torch.tensor([[0.0], [1.0]])
    z = torch.randint(-8, 9, (100, d), generator=g).double() + 0.37 * v[:, :1]
    found = mig(z, v, bins=bins)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    order, columns = torch.randperm(100, generator=g), torch.randperm(d, generator=g)
    torch.testing.assert_close(mig(z[order][:, columns], 7 - 2 * v[order], bins=bins), found)
    torch.testing.assert_close(mig(2.0 ** round(math.log2(scale)) * z, v, bins=bins), found)


def test_sprites_factors_do_as_they_are():
    sprites = data.load("sprites", limit=2000)
    gaps = mig(sprites.factors, sprites.factors, bins=40)
    assert gaps.shape == (5,) and (gaps > 0.85).all()  # the rest is the bias of the second


@pytest.mark.parametrize("metric", [mutual_information, mig])
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"codes": torch.rand(9, 2)}, ValueError, r"factors: \(9, K\), a row for each code, expected, got \(20, 2\)"),
        ({"codes": torch.rand(20)}, ValueError, r"codes: flat latents \(N, D\) expected"),
        ({"codes": torch.full((20, 1), torch.nan)}, ValueError, "codes: NaN"),
        ({"factors": None}, ValueError, "factors: .* got NoneType"),
        ({"factors": torch.rand(20)}, ValueError, r"factors: .* of labels, labels\[:, None\]"),
        ({"factors": torch.full((20, 1), torch.nan)}, ValueError, "factors: NaN"),
        ({"factors": torch.rand(20, 1)}, ValueError, "few different values expected, column 0 has 20 in 20 rows"),
        ({"bins": 11}, ValueError, r"codes: many more rows than bins expected, column 0 fills 11 of 11 bins with 20"),
        ({"bins": 1}, ValueError, "bins: a whole number ≥ 2 expected, got 1"),
    ],
)
def test_bad_arguments_are_refused(metric, arguments, error, says):
    with pytest.raises(error, match=says):
        metric(**({"codes": torch.linspace(0, 1, 20)[:, None], "factors": grid(4, 5)} | arguments))


def test_a_factor_that_never_changes_has_no_gap():
    with pytest.raises(ValueError, match="factors: column 1 holds one value only"):
        mig(torch.rand(20, 2), grid(4, 1).repeat(5, 1), bins=5)
