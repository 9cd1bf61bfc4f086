"""Estimates: crossed intervals, jackknife, median, pools, Holm, designs, the bootstrap; and how often verdicts err."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, pearsonr, ttest_1samp, ttest_ind
from scipy.stats import t as student

from tests.benchmarks.bench_verdicts import RATIOS, Setting, draw, failures, new_verdicts, rates, simulated
from vaenb import claims
from vaenb.claims import rule
from vaenb.stats import (
    Design,
    Estimate,
    Values,
    bootstrap,
    crossed,
    expanded,
    holm,
    jackknife,
    jackknifed,
    needed,
    pooled,
    variance,
)


def table(runs=5, images=100, seed=0, run=0.2):
    """Values of runs × images that both matter."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(runs, 1)) * run + rng.normal(size=images) + rng.normal(size=(runs, images))


def difference(a, b):
    """a − b of two tables that share neither runs nor images."""
    return pooled([[Values(a)], [-Values(b)]], cells=1)


def median(x):
    return pooled([[Values(x, median=True)]])


def numbers(e):
    return [e.effect, e.low, e.high, e.error, e.df]


# --- Estimate


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (Estimate(0.1361, 0.1201, 0.1521), "0.136 [0.120, 0.152]"),
        (Estimate(1234.4, 1200, 1300), "1234 [1200, 1300]"),
        (Estimate(-0.0001, -0.1, 0.1), "0.00 [-0.10, 0.10]"),
        (Estimate(2 / 3, 2 / 3, 2 / 3), "0.667 [0.667, 0.667]"),
        (Estimate(0, 0, 0), "0.00 [0.00, 0.00]"),
        (Estimate(0.3, 0.3, np.nextafter(0.3, 1)), "0.300 [0.300, 0.300]"),
    ],
)
def test_an_estimate_shows_the_digits_that_its_width_allows(e, text):
    assert str(e) == f"{e}" == text


def test_a_format_applies_to_each_number():
    assert f"{Estimate(0.1361, 0.1201, 0.1521):+.1f}" == "+0.1 [+0.1, +0.2]"


@pytest.mark.parametrize("bad", [(math.nan, 0, 1), (0, math.nan, 1), (0, 0, math.inf), (0.5, 1, 0)])
def test_an_estimate_refuses_what_is_no_interval(bad):
    with pytest.raises(ValueError, match="must"):
        Estimate(*bad)


@pytest.mark.parametrize("side", ["greater", "less"])
def test_p_values_are_those_of_a_t_test(side):
    x = table(runs=1)
    assert crossed(x).p_value(0.1, side) == pytest.approx(ttest_1samp(x[0], 0.1, alternative=side).pvalue)


def test_where_nothing_varies_the_p_value_is_0_or_1():
    e = crossed(np.full((5, 10), 0.25))
    found = [e.p_value(bound, side) for side in ("greater", "less") for bound in (0, 0.25, 1)]
    assert found == [0, 1, 1, 1, 1, 0]


def test_a_p_value_needs_an_error():
    with pytest.raises(ValueError, match="make the estimate with crossed or jackknife"):
        Estimate(1, 0, 2).p_value(0, "greater")
    with pytest.raises(ValueError, match="side: one of greater, less expected"):
        crossed(table()).p_value(0, "both")


# --- crossed


def test_the_variance_is_that_of_the_two_way_table():
    y = table(4, 30)
    rows, columns = y.mean(1), y.mean(0)
    rest = y - rows[:, None] - columns + y.mean()
    run, image, interaction = 30 * rows.var(ddof=1), 4 * columns.var(ddof=1), (rest**2).sum() / (3 * 29)
    e = crossed(y)
    total = run + image - interaction
    assert e.error**2 == pytest.approx(total / 120)
    assert e.df == pytest.approx(total**2 / (run**2 / 3 + image**2 / 29 + interaction**2 / 87))
    assert e.high - e.effect == pytest.approx(student.ppf(0.975, e.df) * e.error)
    assert (e.effect, e.n, e.runs) == (pytest.approx(y.mean()), 30, 4)


@pytest.mark.parametrize("turn", [False, True])
def test_of_one_run_or_one_image_it_is_the_t_interval(turn):
    x = table(1, 20)
    e = crossed(x.T if turn else x)
    reference = ttest_1samp(x[0], 0).confidence_interval(0.95)
    assert (e.low, e.high) == pytest.approx(reference) and e.df == pytest.approx(19)
    assert (e.runs, e.n) == ((20, None) if turn else (None, 20))


def test_equal_runs_count_once_and_equal_images_too():
    x = table(1, 20)
    assert numbers(crossed(np.repeat(x, 5, axis=0))) == pytest.approx(numbers(crossed(x)))
    assert numbers(crossed(np.repeat(x.T, 50, axis=1))) == pytest.approx(numbers(crossed(x.T)))


def test_the_variance_is_never_below_the_interactions():
    y = np.array([[1.5, -1.5], [-1.5, 1.5]])  # nothing but interaction
    square, _ = variance(y)
    assert square == pytest.approx(9 / 4)


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_shifting_and_scaling_move_the_interval_along(shift, scale):
    plain, moved = crossed(table(3, 10)), crossed(shift + scale * table(3, 10))
    expected = [shift + scale * number for number in (plain.effect, plain.low, plain.high)]
    assert [moved.effect, moved.low, moved.high] == pytest.approx(expected, abs=1e-6)
    assert moved.df == pytest.approx(plain.df)


@pytest.mark.parametrize("images", [10, 30, 100, 300])
@pytest.mark.parametrize("same", [0.0, 1.0, -3.0])
def test_where_no_image_changed_the_interval_is_the_exact_binomial_one(images, same):
    half = crossed(np.full((5, images), same)).high - same
    exact = 1 - 0.025 ** (1 / images)  # Clopper & Pearson (1934)
    assert binom.pmf(0, images, exact) == pytest.approx(0.025)
    assert exact < half < 1.1 * exact


def test_a_real_constant_has_no_width():
    e = crossed(torch.full((5, 100), 0.3))
    assert e.high - e.low < 1e-12 and f"{e}" == "0.300 [0.300, 0.300]"


def test_the_unit_of_measure_does_not_matter():
    values = np.random.default_rng(0).normal(size=(5, 100))
    widths = [crossed(unit * values).error / unit for unit in (1, 1e-3, 1e-9, 1e-30)]
    assert widths == pytest.approx([widths[0]] * 4)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_intervals_of_shares_cover(share):
    setting = Setting(f"binary {share}", ratio=1)
    y = draw(setting, 1000, np.random.default_rng(0))
    square, df = variance(y, whole=True)
    half = np.sqrt(square) * student.ppf(0.975, df)
    assert (abs(y.mean((-2, -1)) - share) <= half).mean() > 0.93


@pytest.mark.parametrize("values", [np.zeros((1, 1)), np.zeros(5), np.zeros((2, 3, 4))])
def test_crossed_refuses_what_is_no_table(values):
    with pytest.raises(ValueError, match=r"values: \(S, N\), runs × images, .* one run are values\[None\]"):
        crossed(values)


def test_crossed_refuses_nan():
    with pytest.raises(ValueError, match="values must be finite, got 1 NaN or infinite of 2"):
        crossed([[1, math.nan]])


# --- other statistics


def test_the_jackknife_of_a_mean_is_crossed():
    assert numbers(jackknife(table(), np.mean)) == pytest.approx(numbers(crossed(table())))


def test_pseudo_values_of_a_variance():
    x = table(2, 12)
    away = (x - x.mean(1, keepdims=True)) ** 2
    total = away.sum(1, keepdims=True)
    without = (total - 12 / 11 * away) / 10
    found = jackknifed(x, lambda run: run.var(ddof=1)).array
    assert found == pytest.approx(12 * total / 11 - 11 * without)
    assert found.mean(1) == pytest.approx(x.var(1, ddof=1))  # an unbiased statistic is their mean


def test_the_jackknife_of_a_correlation_is_as_wide_as_fishers():
    rng = np.random.default_rng(0)
    pairs = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=(1, 400))
    e = jackknife(pairs, lambda run: pearsonr(run[:, 0], run[:, 1])[0])
    fisher = pearsonr(*pairs[0].T).confidence_interval()
    assert e.effect == pytest.approx(pearsonr(*pairs[0].T)[0])
    assert (e.low, e.high) == pytest.approx(fisher, abs=0.02)


def test_a_statistic_must_stay_finite():
    with pytest.raises(ValueError, match="statistic: finite numbers expected"):
        jackknifed(table(), lambda run: math.nan)
    with pytest.raises(ValueError, match="at least 2 images"):
        jackknifed(np.ones((5, 1)), np.mean)


def test_a_median_of_one_run_is_as_wide_as_theory_says():
    samples = np.random.default_rng(0).normal(size=(10, 1, 201))
    found = [median(x) for x in samples]
    assert found[0].effect == np.median(samples[0]) and found[0].df == 200
    assert np.mean([e.error for e in found]) == pytest.approx(math.sqrt(math.pi / 2 / 201), rel=0.1)


def test_a_median_knows_that_runs_differ():
    x = np.random.default_rng(0).normal(size=(6, 101))
    apart = median(x + 10 * np.arange(6)[:, None])
    assert apart.df == 5
    assert apart.error == pytest.approx(10 * np.arange(6).std(ddof=1) / math.sqrt(6), rel=0.05)
    assert median(x) == median(x)  # the same draws each time


# --- pools and differences


def test_a_pool_of_one_is_itself_and_of_twins_too():
    x = table()
    assert pooled([[Values(x), Values(x)]]) == pooled([[Values(x)]]) == crossed(x)


def test_cells_of_a_group_are_resampled_together():
    x, y = table(seed=1), table(seed=2)
    assert numbers(pooled([[Values(x), Values(y)]])) == pytest.approx(numbers(crossed((x + y) / 2)))


def test_cells_of_a_group_may_be_other_statistics():
    x = table() + 3
    cells = [jackknifed(x, np.std), Values(x)]
    assert pooled([cells]).effect == pytest.approx((np.std(x, axis=1).mean() + x.mean()) / 2)


def test_groups_weigh_as_many_cells_as_they_have_and_variances_add():
    x, y = table(seed=1), table(3, 50, seed=2)
    a, b = crossed(x), crossed(y)
    e = pooled([[Values(x), Values(x)], [Values(y)]])
    assert e.effect == pytest.approx((2 * a.effect + b.effect) / 3)
    assert e.error == pytest.approx(math.hypot(2 * a.error, b.error) / 3)
    assert (e.runs, e.n) == (3, 50)


def test_medians_are_pooled_by_one_bootstrap():
    x = table()
    assert pooled([[Values(x, median=True), Values(x, median=True)]]) == median(x)
    with pytest.raises(ValueError, match="either all cells of a group are medians or none"):
        pooled([[Values(x, median=True), Values(x)]])


@pytest.mark.parametrize("side", ["greater", "less"])
def test_a_difference_of_two_groups_is_welchs(side):
    a, b = table(1, 30, seed=1), 2 * table(1, 50, seed=2)
    e = difference(a, b)
    welch = ttest_ind(a[0], b[0], equal_var=False, alternative=side)
    assert e.p_value(0, side) == pytest.approx(welch.pvalue) and e.df == pytest.approx(welch.df)
    both = ttest_ind(a[0], b[0], equal_var=False).confidence_interval()
    assert (e.low, e.high) == pytest.approx(both)


def test_a_cell_of_two_data_sets_stands_in_both_groups_and_counts_once():
    a, b, c = Values(table(seed=1)), Values(table(seed=2)), Values(table(3, 50, seed=3))
    one = pooled([[a], [-c]], cells=1)
    two = crossed(a.array), crossed(c.array)
    assert one.effect == pytest.approx(two[0].effect - two[1].effect)
    assert one.error == pytest.approx(math.hypot(two[0].error, two[1].error))
    chain = pooled([[a], [-b, b], [-c]], cells=2)  # a − b and b − c, of which b falls out
    assert numbers(chain) == pytest.approx([number / 2 for number in numbers(one)[:4]] + [one.df])
    assert needed([[a], [-c]], [one.effect + 1], cells=1) == Design(6, 100)


def test_minus_values_are_minus_their_estimate():
    for values in (Values(table(), median=True), jackknifed(table(), np.std)):
        e, minus = pooled([[values]]), pooled([[-values]])
        assert [minus.effect, minus.low, minus.high] == pytest.approx([-e.effect, -e.high, -e.low])


@pytest.mark.parametrize("groups", [[], [[]], [[Values(table())], []]])
def test_a_pool_refuses_empty_groups(groups):
    with pytest.raises(ValueError, match="groups: at least one group"):
        pooled(groups)


def test_a_pool_refuses_cells_that_cannot_share():
    with pytest.raises(ValueError, match=r"share runs and images.*\(3, 100\), \(5, 100\)"):
        pooled([[Values(table()), Values(table(3))]])


# --- Holm, designs


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([], []),
        ([0.02], [True]),
        ([0.02, 0.01], [True, True]),
        ([0.02, 0.013], [False, False]),
        ([0.001, 0.2, 0.01, 0.03], [True, False, False, False]),
        ([0.001, 0.2, 0.008, 0.012], [True, False, True, True]),
    ],
)
def test_holm_steps_down_until_one_fails(p, expected):
    assert holm(p, level=0.025) == expected


def test_holm_errs_as_often_as_its_level():
    p = np.random.default_rng(0).uniform(size=(4000, 8))
    assert np.mean([any(holm(row, level=0.025)) for row in p]) == pytest.approx(0.025, abs=0.007)


@pytest.mark.parametrize("turn", [False, True])
def test_runs_or_images_alone_are_as_many_as_a_t_interval_asks(turn):
    x = table(1, 6) + 1
    design = needed([[Values(x.T if turn else x)]], [x.mean() - 0.6])
    asked = [n for n in (10, 12, 15, 50, 100) if student.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n) < 0.6]
    count = design.runs if turn else design.images
    assert count == min(n for n in asked if turn or n >= 50)
    assert (design.images if turn else design.runs) == 1


def test_the_cheapest_design_adds_what_varies():
    rows, columns = np.array([[-1.0], [0], [1]]), np.linspace(-1, 1, 100)
    of_runs = needed([[Values(rows + 0.01 * columns)]], [0.9])
    of_images = needed([[Values(0.001 * rows + 5 * columns)]], [0.4])
    assert of_runs.images == 100 and of_runs.runs == min(
        s for s in (5, 6, 7, 8) if student.ppf(0.975, s - 1) / s**0.5 < 0.9
    )
    assert of_images.runs == 3 and of_images.images == 300  # 1.97 · 2.9 / √N


def test_a_larger_design_than_today_s_is_asked_for_and_none_where_nothing_helps():
    assert needed([[Values(table() + 5)]], [0]) == Design(6, 100)
    assert needed([[Values(table())]], [table().mean()]) is None


def test_of_equal_shares_no_more_images_are_asked_for_than_settle_it():
    asked = needed([[Values(np.zeros((5, 100)))]], [0.015])
    assert asked.runs == 5 and crossed(np.zeros((5, asked.images))).high < 0.015
    fewer = [n for n in (150, 200, 300) if n < asked.images]
    assert fewer and all(crossed(np.zeros((5, n))).high > 0.015 for n in fewer)


def test_a_design_is_below_no_groups_and_hangs_on_no_order():
    one, two = table(5, 40, seed=1), table(3, 60, seed=2)
    groups = [[Values(one)], [Values(two)]]
    edge = [pooled(groups).effect + 0.4 * (pooled(groups).high - pooled(groups).low)]
    asked = needed(groups, edge)
    assert asked == needed(groups[::-1], edge)
    assert asked.runs >= 5 and asked.images >= 60


def test_of_blocks_the_images_are_counted():
    blocks = Values(table(3, 20), block=50)
    assert pooled([[blocks]]).n == 1000
    assert needed([[blocks]], [pooled([[blocks]]).high * 0.9]).images % 50 == 0


@pytest.mark.parametrize(
    ("design", "text"),
    [
        (Design(12, 100), "12 training runs of 100 images"),
        (Design(1, 2000), "2,000 images"),
        (Design(8, 1), "8 training runs"),
    ],
)
def test_a_design_is_said_in_words(design, text):
    assert str(design) == text


# --- how often verdicts err: the small form of tests/benchmarks/bench_verdicts.py


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("cells", [1, 8])
def test_intervals_cover_and_verdicts_seldom_err(ratio, cells):
    setting = Setting("normal", ratio, cells)
    found = rates(setting, repeats=1500)
    assert failures(setting, found, doubt=0.8) == [], found


@pytest.mark.parametrize("kind", ["lognormal", "binary .5", "binary .1"])
def test_odd_values_are_covered_too(kind):
    setting = Setting(kind, ratio=1)
    found = rates(setting, repeats=1500)
    assert failures(setting, found, doubt=0.8) == [], found


@pytest.mark.parametrize("setting", [Setting("binary .1", cells=8), Setting("normal", 2, cells=8, shared=False)])
@pytest.mark.parametrize("beyond", [0, 0.1])
def test_the_simulation_gives_the_verdicts_of_the_rule(setting, beyond):
    claim = replace(claims.load()["001.vulnerable"], kind="greater", bound=setting.truth - beyond, margin=0.0)
    verdicts = new_verdicts(simulated(setting, repeats=60), claim.bound)
    values = draw(setting, 60, np.random.default_rng(0))
    for k in range(60):
        cells = [Values(y) for y in values[k]]
        e = pooled([cells] if setting.shared else [[cell] for cell in cells])
        claimed, other = rule.sides(claim, [crossed(y) for y in values[k]])
        word = rule.MIXED if any(claimed) and any(other) else rule.judge(claim, e)
        found = [word for word, where in verdicts.items() if where[k]]
        assert (found or [rule.INCONCLUSIVE]) == [word]


# --- the bootstrap over images


def test_bootstrap_covers_a_known_mean():
    g = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        e = bootstrap(g.normal(3.0, 2.0, size=60), resamples=400, seed=seed)
        hits += e.low <= 3.0 <= e.high
    assert 0.90 <= hits / 200 <= 0.98


def test_a_bootstrap_of_few_images_is_widened_to_students_interval():
    """Of a normal sample: 8 and 16 images, where plain percentiles are 22 % and 11 % too narrow."""
    rng = np.random.default_rng(1)
    for count in (8, 16):
        wide, exact = [], []
        for seed in range(40):
            x = rng.normal(size=count)
            found = bootstrap(x, confidence=expanded(count), resamples=2000, seed=seed)
            wide.append(found.high - found.low)
            exact.append(2 * student.ppf(0.975, count - 1) * x.std(ddof=1) / count**0.5)
        assert np.mean(wide) == pytest.approx(np.mean(exact), rel=0.05)
    assert bootstrap([1.0, 3.0], confidence=expanded(2)).low == 1  # no wider than its images
    assert expanded(10**6) == pytest.approx(0.95, abs=1e-5) and expanded(16) == pytest.approx(0.97229, abs=1e-5)


def test_bootstrap_of_a_median_is_as_wide_as_theory_says():
    x = np.random.default_rng(1).normal(size=801)
    e = bootstrap(x, statistic=np.median, confidence=0.9, resamples=4000)
    half = norm.ppf(0.95) * math.sqrt(math.pi / 2 / 801)
    assert e.effect == np.median(x) and e.n == 801
    assert (e.high - e.low) / 2 == pytest.approx(half, rel=0.15)


def test_bootstrap_repeats_with_its_seed_and_takes_tensors():
    x = np.random.default_rng(2).normal(size=50)
    assert bootstrap(x, seed=4) == bootstrap(torch.tensor(x, requires_grad=True), seed=4) == bootstrap(list(x), seed=4)
    assert bootstrap(x, seed=4) != bootstrap(x, seed=5)


def test_bootstrap_of_pairs_keeps_them_together():
    x = np.random.default_rng(3).normal(size=80)
    e = bootstrap(np.stack([x, -2 * x], 1), statistic=lambda p: pearsonr(p[:, 0], p[:, 1])[0], resamples=50)
    assert (e.effect, e.low, e.high) == pytest.approx((-1, -1, -1))


def test_bootstrap_takes_counts():
    x = np.random.default_rng(4).normal(size=(60, 3))
    e = bootstrap(x, statistic=lambda rows: (rows.mean(0) > 0).sum(), resamples=50)
    assert e.low <= e.effect <= e.high and e.effect == (x.mean(0) > 0).sum()


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap([0.1] * 7) == Estimate(*[np.mean([0.1] * 7)] * 3)
    assert bootstrap(torch.ones(5, dtype=torch.bool)) == Estimate(1, 1, 1)


@pytest.mark.parametrize("values", [[], [1.0], 3.0, [1.0, math.nan], [1.0, math.inf]])
def test_bootstrap_refuses_too_few_or_broken_values(values):
    with pytest.raises(ValueError, match="values must"):
        bootstrap(values)


@pytest.mark.parametrize(("name", "value"), [("confidence", 95), ("confidence", 0), ("resamples", 0)])
def test_bootstrap_refuses_odd_settings(name, value):
    with pytest.raises(ValueError, match=rf"{name}: .* expected, got {value}"):
        bootstrap([1.0, 2.0], **{name: value})
