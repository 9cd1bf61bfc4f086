"""The regularisers against scipy, naive loops, torch.distributions and closed forms."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from tests.oracles import seeded
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.models.regularizers import KL, MMD, ShapiroWilk, TotalCorrelation, decomposed_kl, mmd, shapiro_wilk

DOUBLE = torch.float64
SHAPES = {
    "normal": lambda e: e,
    "heavy-tailed": lambda e: e**3,
    "skewed": lambda e: (2 * e).exp(),
    "with ties": lambda e: (2 * e).round(),
}


def codes(n, d, seed=0, dtype=DOUBLE):
    return torch.randn(n, d, generator=seeded(seed), dtype=dtype)


def scipys(z):
    return torch.tensor([stats.shapiro(column).statistic for column in z.T.double().numpy()], dtype=DOUBLE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [*range(3, 13), 64, 500])
def test_w_is_scipys(n, shape):
    z = SHAPES[shape](codes(n, 3, seed=n))
    z[0] += 3  # ties of one value only have no W
    torch.testing.assert_close(shapiro_wilk(z), scipys(z), rtol=0, atol=1e-8)
    torch.testing.assert_close(shapiro_wilk(z.float()).double(), scipys(z.float()), rtol=0, atol=1e-4)


@given(st.integers(3, 40), st.integers(1, 4), st.integers(0, 1000), st.floats(-15, 15), st.floats(-100, 100))
@settings(deadline=None, max_examples=50)
def test_w_ignores_where_codes_lie_how_wide_they_spread_and_their_order(n, d, seed, log_scale, shift):
    z = codes(n, d, seed)
    w = shapiro_wilk(z)
    assert ((w > 0) & (w < 1 + 1e-12)).all()
    moved = -(10**log_scale) * (z + shift)[torch.randperm(n, generator=seeded(seed))]
    torch.testing.assert_close(shapiro_wilk(moved), w, rtol=1e-8, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_w_of_tiny_and_huge_float32_codes_is_a_number(scale):
    z = codes(64, 3, dtype=torch.float32)
    torch.testing.assert_close(shapiro_wilk(scale * z), shapiro_wilk(z))


def test_the_columns_do_not_know_of_each_other():
    z = codes(20, 4)
    torch.testing.assert_close(shapiro_wilk(z), torch.cat([shapiro_wilk(column) for column in z.split(1, dim=1)]))


@pytest.mark.parametrize("n", [3, 5, 6, 20])
def test_the_gradient_of_w_is_that_of_finite_differences(n):
    assert torch.autograd.gradcheck(shapiro_wilk, codes(n, 2).requires_grad_())


def test_one_minus_w_of_a_gaussian_batch_of_64_is_two_percent():
    z = codes(64, 2000)
    gap = 1 - shapiro_wilk(z)
    assert gap.mean().item() == pytest.approx(0.0194, abs=4 * gap.std().item() / 2000**0.5)
    assert (1 - shapiro_wilk(z.exp())).mean() > 0.3


def test_random_directions_see_what_single_dimensions_do_not():
    z = codes(512, 2)
    z[:, 1] = z[:, 0] * codes(512, 1, 1)[:, 0].sign()  # both dimensions are Gaussian, together they are a cross
    q = DiagonalGaussian(z, torch.zeros_like(z))
    axes, _ = ShapiroWilk()(q, z, seeded())
    seen, statistics = ShapiroWilk(beta=2.0, projections=50)(q, z, seeded())
    assert axes < 0.01 and seen > 4 * axes
    assert seen.item() == pytest.approx(2 * statistics["one_minus_w"].item())
    assert torch.equal(seen, ShapiroWilk(beta=2.0, projections=50)(q, z, seeded())[0])


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (torch.cat([codes(9, 1), torch.ones(9, 2)], 1), r"latent dimension\(s\) \[1, 2\] are constant over the batch"),
        (codes(2, 3), "a batch of at least 3 codes, got 2"),
        (torch.full((4, 2), torch.nan), "z: NaN or infinite values"),
        (codes(4, 2)[:, 0], r"z: flat latents \(N, D\) expected"),
    ],
)
def test_codes_without_a_w_are_named(z, says):
    with pytest.raises(ValueError, match=says):
        shapiro_wilk(z)


def naive_mmd(a, b):
    def kernel(x, y):
        c = 2 * len(x) * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
        return (c / (c + ((x - y) ** 2).sum())).sum()

    within = [np.mean([kernel(x[i], x[j]) for i, j in permutations(range(len(x)), 2)]) for x in (a, b)]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (5, 8, 3), (7, 3, 1), (6, 6, 10)])
def test_mmd_is_the_double_loop(n, m, d):
    a, b = codes(n, d), 0.5 + 2 * codes(m, d, 1)
    assert mmd(a, b).item() == pytest.approx(naive_mmd(a.numpy(), b.numpy()), abs=1e-12)
    assert mmd(b, a).item() == pytest.approx(mmd(a, b).item(), abs=1e-12)


def test_the_gradient_of_mmd_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(mmd, (codes(5, 3).requires_grad_(), codes(4, 3, 1).requires_grad_()))


@pytest.mark.parametrize("n", [2, 5, 16])
def test_mmd_of_one_law_is_zero_on_average(n):
    g = seeded(n)
    draws = torch.stack([mmd(*torch.randn(2, n, 3, generator=g, dtype=DOUBLE)) for _ in range(500)])
    assert abs(draws.mean()) < 4 * draws.std() / 500**0.5
    assert (draws < 0).any()


def test_mmd_grows_with_the_distance_of_the_laws():
    a, b = codes(200, 5), codes(200, 5, 1)
    distances = torch.stack([mmd(a + shift, b) for shift in (0.0, 0.3, 1.0, 3.0)])
    assert (distances.diff() > 0).all() and distances[1] > 0.01 and mmd(a, 2 * b) > 0.01


def test_mmd_keeps_its_digits_far_from_the_origin():
    a, b = codes(64, 10, dtype=torch.float32), codes(64, 10, 1, dtype=torch.float32)
    assert mmd(a + 1000, b + 1000).item() == pytest.approx(mmd(a.double(), b.double()).item(), abs=2e-5)


def test_the_mmd_term_measures_against_as_many_draws_of_the_prior():
    z = codes(8, 3)
    penalty, statistics = MMD(beta=5.0)(Point(z), z, seeded(2))
    assert statistics["mmd"].item() == pytest.approx(mmd(z, codes(8, 3, 2)).item(), abs=1e-12)
    assert penalty.item() == pytest.approx(5 * statistics["mmd"].item())


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (codes(1, 3), codes(5, 3), "a: at least two rows of 3 numbers expected, got"),
        (codes(5, 3), codes(1, 3), "b: at least two rows of 3 numbers"),
        (codes(5, 3), codes(5, 2), r"b: at least two rows of 3 numbers expected, got \(5, 2\)"),
        (codes(5, 3), codes(5, 3) / 0, "b: NaN or infinite"),
    ],
)
def test_mmd_of_too_few_or_other_rows_is_refused(a, b, says):
    with pytest.raises(ValueError, match=says):
        mmd(a, b)


def aggregate(n, d, s, seed=0, correlation=0.5, dtype=DOUBLE):
    """n narrow posteriors and a draw of each; z ~ N(0, Σ), with Σ the covariance of a chain. Also returns Σ."""
    steps = torch.arange(d)
    sigma = correlation ** (steps[:, None] - steps).abs().double()
    root = torch.linalg.cholesky(sigma - s**2 * torch.eye(d, dtype=DOUBLE))
    mean = (codes(n, d, seed) @ root.T).to(dtype)
    q = DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(s)))
    return q, q.rsample(generator=seeded(seed + 1)), sigma


def tc(q, z, **how):
    return decomposed_kl(q, z, **how)[1].mean().item()


@given(st.sampled_from(["mss", "mss_published", "mws", "exact"]), st.integers(2, 8), st.integers(1, 5),
       st.integers(0, 1000))  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_the_three_terms_add_up_to_the_log_ratio(estimator, n, d, seed):
    q = DiagonalGaussian(codes(n, d, seed), codes(n, d, seed + 1))
    z = q.rsample(generator=seeded(seed))
    total = sum(decomposed_kl(q, z, size=n + 5, estimator=estimator))
    prior = Independent(Normal(torch.zeros(n, d, dtype=DOUBLE), 1.0), 1)
    expected = Independent(Normal(q.mean, q.stddev), 1).log_prob(z) - prior.log_prob(z)
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9)


def test_exact_is_the_mixture_of_all_posteriors():
    q = DiagonalGaussian(codes(40, 3), codes(40, 3, 1))
    z = q.rsample(generator=seeded())[:7]
    even = Categorical(logits=torch.zeros(40, dtype=DOUBLE))
    joint = MixtureSameFamily(even, Independent(Normal(q.mean, q.stddev), 1)).log_prob(z)
    each = sum(MixtureSameFamily(even, Normal(q.mean[:, j], q.stddev[:, j])).log_prob(z[:, j]) for j in range(3))
    conditional = Independent(Normal(q.mean[:7], q.stddev[:7]), 1).log_prob(z)
    prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    expected = conditional - joint, joint - each, each - prior
    for ours, theirs in zip(decomposed_kl(q, z, estimator="exact"), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_of_a_gaussian_aggregate_it_is_minus_half_the_log_determinant():
    q, z, sigma = aggregate(20_000, 3, s=0.5)
    z, truth = z[:300], -0.5 * torch.logdet(sigma).item()
    log_ratio = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), sigma).log_prob(z) - Normal(0, 1).log_prob(z).sum(1)
    noise = log_ratio.mean().item() - truth  # of these draws
    assert truth == pytest.approx(0.2877, abs=1e-4)
    assert tc(q, z, estimator="exact") - noise == pytest.approx(truth, abs=0.02)


def test_of_one_dimension_it_is_zero():
    q, z, _ = aggregate(30, 1, s=0.5)
    for estimator in ("mss", "mws", "exact"):
        assert decomposed_kl(q, z, size=100, estimator=estimator)[1].abs().max() < 1e-12


def enumerated(estimator, batch=3, n=6):
    """The mean over all batches of the estimate of q(z_i), and q(z_i) itself, for n images."""
    q = DiagonalGaussian(codes(n, 2), codes(n, 2, 1))
    z = q.rsample(generator=seeded())
    log_q = lambda q, z, **how: q.log_prob(z) - decomposed_kl(q, z, **how)[0]  # noqa: E731
    sums, counts = torch.zeros(n, dtype=DOUBLE), torch.zeros(n, dtype=DOUBLE)
    for members in map(list, permutations(range(n), batch)):
        sums[members] += log_q(q[members], z[members], size=n, estimator=estimator).exp()
        counts[members] += 1
    return sums / counts, log_q(q, z, estimator="exact").exp()


@pytest.mark.parametrize("batch", [2, 3, 4, 6])
def test_stratified_sampling_is_unbiased_for_q(batch):
    mean, truth = enumerated("mss", batch)
    torch.testing.assert_close(mean, truth, rtol=1e-6, atol=0)


def test_its_published_code_and_weighted_sampling_are_not():
    mean, truth = enumerated("mss_published")
    assert (mean / truth - 1).abs().max() > 0.2
    mean, truth = enumerated("mws")
    assert (mean / truth).max() < 0.5


def test_the_published_weights():
    from vaenb.models.regularizers import _log_weights

    n, b = 10, 4  # 1/N and the strata's (N − M)/(NM) fill two columns, and the latter one more place, row B − 2
    own, stratum, rest = 1 / n, (n - 3) / (n * 3), 1 / 3
    expected = torch.tensor([[own, stratum, rest, rest]] * b)
    expected[2, 0] = stratum
    torch.testing.assert_close(_log_weights(b, b, n, "mss_published").exp(), expected)
    torch.testing.assert_close(_log_weights(b, b, n, "mss").exp().sum(1), torch.ones(b))


def test_weighted_sampling_is_the_batchs_own_total_correlation_off_by_a_constant():
    q, z, _ = aggregate(64, 8, s=0.3)
    own = decomposed_kl(q, z, estimator="exact")[1]
    for size in (64, 20_000):
        off = decomposed_kl(q, z, size=size, estimator="mws")[1] - own
        torch.testing.assert_close(off, torch.full_like(off, 7 * math.log(size)))


def test_so_its_gradient_does_not_depend_on_the_number_of_images():
    q, z, _ = aggregate(16, 4, s=0.3)

    def gradient(**how):
        mean = q.mean.clone().requires_grad_()
        decomposed_kl(DiagonalGaussian(mean, q.logvar), z, **how)[1].mean().backward()
        return mean.grad

    torch.testing.assert_close(gradient(size=100, estimator="mws"), gradient(size=50_000, estimator="mws"))
    torch.testing.assert_close(gradient(size=100, estimator="mws"), gradient(estimator="exact"))
    assert not torch.allclose(gradient(size=100), gradient(size=50_000), rtol=0.1)


def estimated(q, z, batch, estimator):
    """The mean over batches of 4096 images, of which 1024 draws are looked at."""
    batches = [slice(k, k + batch) for k in range(0, 1024, batch)]
    return np.mean([tc(q[rows], z[rows], size=4096, estimator=estimator) for rows in batches])


def test_every_estimate_is_biased_at_the_batch_one_trains_with():
    bias = {}
    for s in (0.03, 0.1, 0.5):
        q, z, _ = aggregate(4096, 8, s, dtype=torch.float32)
        exact = tc(q, z[:256], estimator="exact")
        for estimator in ("mss", "mss_published", "mws"):
            bias[s, estimator] = estimated(q, z, 64, estimator) - exact
    assert -1.2 < bias[0.5, "mss"] < -0.3  # wide posteriors: too low, as E log q̂ < log q
    assert bias[0.1, "mss"] > 0.5 and bias[0.03, "mss"] > 3  # narrow ones: only the own row counts, of weight 1/N
    assert bias[0.1, "mss_published"] > 2 and bias[0.5, "mss_published"] > 0.3
    assert bias[0.5, "mws"] == pytest.approx(7 * math.log(4096), rel=0.1)


def test_the_published_weights_are_the_worse_ones_and_larger_batches_help():
    q, z, _ = aggregate(4096, 8, s=0.3, dtype=torch.float32)
    exact = tc(q, z[:256], estimator="exact")
    off = {(e, b): abs(estimated(q, z, b, e) - exact) for e in ("mss", "mss_published") for b in (64, 512)}
    assert off["mss_published", 64] > off["mss_published", 512] > 1 > off["mss", 64]
    assert off["mss", 512] < 1


def test_a_finite_data_set_of_narrow_posteriors_is_not_the_law_behind_it():
    q, z, sigma = aggregate(4096, 8, s=0.1, dtype=torch.float32)
    assert -0.5 * torch.logdet(sigma) < 1.1 and tc(q, z[:256], estimator="exact") > 8


def test_at_beta_one_the_total_correlation_loss_is_a_draw_of_the_kl():
    q = DiagonalGaussian(codes(16, 3), codes(16, 3, 1))
    z = q.rsample(generator=seeded())
    penalty, statistics = TotalCorrelation(100)(q, z)
    one_draw = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)).mean()
    assert penalty.item() == pytest.approx(one_draw.item())
    six, _ = TotalCorrelation(100, beta=6.0)(q, z)
    assert six.item() == pytest.approx((penalty + 5 * statistics["tc"]).item())


def test_and_on_average_the_kl():
    q = DiagonalGaussian(codes(1, 3).expand(20_000, 3), codes(1, 3, 1).expand(20_000, 3))
    kl, _ = KL()(q, q.mean)
    draws = sum(decomposed_kl(q[:500], q.rsample(generator=seeded())[:500], size=500, estimator="mws"))
    assert draws.mean().item() == pytest.approx(kl.item(), abs=4 * draws.std().item() / 500**0.5)


GAUSSIAN = DiagonalGaussian(torch.zeros(5, 3), torch.zeros(5, 3))


@pytest.mark.parametrize("regularizer", [KL(), MMD(10.0), ShapiroWilk(10.0), TotalCorrelation(np.int64(500))])
def test_autocast_leaves_penalties_in_single_precision(regularizer):
    q = DiagonalGaussian(codes(64, 8, dtype=torch.float32), 0.01 * codes(64, 8, seed=1, dtype=torch.float32))
    z = q.rsample(generator=seeded())
    expected, _ = regularizer(q, z, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty, _ = regularizer(q, z, seeded())
    torch.testing.assert_close(penalty, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"posterior": GAUSSIAN[:1], "z": torch.zeros(1, 3)}, "a draw of each of the posterior's rows, at least 2"),
        ({"z": torch.zeros(4, 3)}, r"\(5, 3\), got \(4, 3\)"),
        ({"z": torch.zeros(6, 3), "estimator": "exact"}, r"\(5, 3\), got \(6, 3\)"),
        ({"z": torch.zeros(5, 1)}, r"z: a draw .* \(5, 3\), got \(5, 1\)"),
        ({"size": 4}, "size: the number of training images, at least the batch's 5, expected, got 4"),
        ({"size": None}, "size: .* got None"),
        ({"size": 9.5}, "size: .* got 9.5"),
        ({"estimator": "nwj"}, "estimator: one of mss, mss_published, mws, exact expected, got 'nwj'"),
        ({"z": torch.full((5, 3), torch.inf)}, "z: NaN or infinite"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(change, says):
    arguments = {"posterior": GAUSSIAN, "z": torch.zeros(5, 3), "size": 10, **change}
    with pytest.raises(ValueError, match=says):
        decomposed_kl(arguments.pop("posterior"), arguments.pop("z"), **arguments)


def test_a_point_has_no_total_correlation_and_no_kl():
    with pytest.raises(NotDefined, match="needs a Gaussian posterior, got a Point"):
        decomposed_kl(Point(torch.zeros(5, 3)), torch.zeros(5, 3), size=10)
    with pytest.raises(NotDefined, match="has no KL"):
        KL()(Point(torch.zeros(5, 3)), torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: MMD(-1.0), "beta: a finite weight"),
        (lambda: ShapiroWilk(float("inf")), "beta: a finite weight"),
        (lambda: ShapiroWilk(projections=-1), "projections: a whole number ≥ 0"),
        (lambda: TotalCorrelation(10, float("nan")), "beta: a finite weight"),
    ],
)
def test_bad_settings_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
