"""Effective sample size and R-hat against ArviZ's, and where they are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaenb.sampling.chains import ess, split_rhat


def autoregressive(rho, chains, length, seed=0):
    """Stationary x_t = ρ x_{t−1} + √(1 − ρ²) e_t, from the legacy generator of NumPy, whose numbers never change."""
    noise = np.random.RandomState(seed).standard_normal((chains, length))
    x = noise.copy()
    for t in range(1, length):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return torch.from_numpy(x)


# ess(method="mean") and rhat(method="split") of arviz-stats 0.8.0; that has no R-hat of one chain, so that there it is
# rhat(method="identity") of the two halves.
ARVIZ = [
    (0.9, 1, 101, 2.5216381414294737, 1.3440068842055788),
    (0.9, 1, 400, 12.918111665855992, 1.1196663095238422),
    (0.9, 4, 5, 19.265919722494797, 3.8525210751662997),
    (0.9, 4, 8, 48.16479930623699, 2.7624638256739065),
    (0.9, 4, 101, 12.976242704320304, 1.2447807100111896),
    (0.9, 4, 400, 64.15235372349778, 1.078894433029495),
    (0.0, 1, 101, 71.43563101933441, 0.9926255246395966),
    (0.0, 1, 400, 318.5778333937376, 1.007654991075943),
    (0.0, 4, 5, 19.265919722494797, 1.1625389095374743),
    (0.0, 4, 8, 48.16479930623699, 0.9961494541389391),
    (0.0, 4, 101, 357.72498490130187, 1.0026758836750032),
    (0.0, 4, 400, 1570.9146406359225, 1.002098742059791),
    (-0.5, 1, 101, 200.0, 0.9906529241727072),
    (-0.5, 1, 400, 837.9811898084698, 1.0008175741122465),
    (-0.5, 4, 5, 19.265919722494797, 0.8285136024837002),
    (-0.5, 4, 8, 48.16479930623699, 0.9187398280684196),
    (-0.5, 4, 101, 1040.823996531185, 0.9940115860208011),
    (-0.5, 4, 400, 5126.591972249479, 0.9990497414101048),
]


@pytest.mark.parametrize(("rho", "chains", "length", "size", "rhat"), ARVIZ)
def test_arviz_computes_the_same(rho, chains, length, size, rhat):
    draws = autoregressive(rho, chains, length)
    if length >= 10:  # of fewer arviz gives a number that does not hang on the draws
        assert ess(draws).item() == pytest.approx(size, rel=1e-9)
    assert split_rhat(draws).item() == pytest.approx(rhat, rel=1e-9)


def test_arviz_computes_the_same_for_chains_that_drift_apart():
    draws = autoregressive(0.5, 3, 60) + torch.arange(3)[:, None] + torch.linspace(0, 2, 60).double()
    assert ess(draws).item() == pytest.approx(6.348515656113063, rel=1e-6)
    assert split_rhat(draws).item() == pytest.approx(1.499521964951702, rel=1e-6)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_an_autoregressive_chain_is_worth_what_theory_says(rho):
    draws = autoregressive(rho, 4, 20_000)
    assert ess(draws).item() == pytest.approx(80_000 * (1 - rho) / (1 + rho), rel=0.1)
    assert split_rhat(draws).item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("length", [4, 9])
def test_of_a_few_draws_nobody_knows_what_they_are_worth(length):
    for rho in (0.0, 0.99):
        assert ess(autoregressive(rho, 32, length)).isnan()
    assert 9 * ess(autoregressive(0.99, 32, 10)) < 2 * ess(autoregressive(0.0, 32, 10))


def test_what_never_moves_is_worth_nothing():
    for value in (0.0, 0.1, -1e6 / 3):
        for shape in ((1, 51), (4, 100)):
            for dtype in (torch.float32, torch.float64):
                draws = torch.full(shape, value, dtype=dtype)
                assert ess(draws) == 0 and split_rhat(draws) == torch.inf
    apart = torch.arange(3.0)[:, None].expand(3, 50)
    assert ess(apart) == 0 and split_rhat(apart) == torch.inf


def test_chains_that_disagree_and_a_chain_that_drifts_have_a_large_rhat():
    draws = autoregressive(0.0, 4, 400)
    apart = draws + torch.tensor([0.0, 0, 0, 5])[:, None]
    halves = draws.unflatten(1, (2, 200)).flatten(0, 1) + torch.tensor([0.0, 0, 0, 0, 0, 0, 5, 5])[:, None]
    between, within = halves.mean(1).var(), halves.var(1).mean()
    assert split_rhat(apart).item() == pytest.approx((199 / 200 + between / within).sqrt().item())
    assert split_rhat(apart) > 2 and ess(apart) < 10
    drifting = draws[:1] + torch.linspace(0, 5, 400)
    assert split_rhat(drifting) > 1.5 and ess(drifting) < 10


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(10, 40),
    st.floats(-0.9, 0.95),
    st.floats(1e-3, 1e3),
    st.floats(-9, 9),
)
@settings(deadline=None, max_examples=50)
def test_a_batch_equals_its_members_and_units_do_not_matter(quantities, chains, length, rho, unit, origin):
    draws = autoregressive(rho, quantities * chains, length).view(quantities, chains, length)
    for function in (ess, split_rhat):
        values = function(draws)
        assert values.shape == (quantities,) and values.dtype == torch.float64
        torch.testing.assert_close(values, torch.stack([function(d) for d in draws]))
        torch.testing.assert_close(values, function(origin + unit * draws), rtol=1e-5, atol=0)
        torch.testing.assert_close(values, function(draws.flip(1)))
        torch.testing.assert_close(function(draws[:, None]), values[:, None])
    count = chains * (length - length % 2)
    assert (ess(draws) > 0).all() and (ess(draws) <= count * np.log10(count) + 1e-9).all()


def test_single_precision_loses_nothing_far_from_the_origin():
    draws = autoregressive(0.5, 2, 200).float() + 1000
    torch.testing.assert_close(ess(draws), ess(draws.double() - 1000))


@pytest.mark.parametrize(
    ("draws", "says"),
    [
        (torch.zeros(2, 3), "at least 4 draws of each chain expected, got 3"),
        (torch.zeros(10), r"floats \(..., C, S\) expected, got torch.float32 of shape \(10,\)"),
        (torch.zeros(2, 10, dtype=torch.long), "floats .* expected, got torch.int64"),
    ],
)
def test_bad_draws_are_refused(draws, says):
    for function in (ess, split_rhat):
        with pytest.raises(ValueError, match=says):
            function(draws)
