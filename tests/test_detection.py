"""Detection scores against scikit-learn, scipy, closed forms of a linear model, and plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor

from tests.oracles import LinearGaussian, images, seeded
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian, standard_normal
from vaenb.metrics.detection import auroc, likelihood_path, mahalanobis, signals
from vaenb.metrics.likelihood import elbo
from vaenb.models import deterministic_ae, hierarchical_vae, vae
from vaenb.stats import bootstrap

SCORES = st.lists(st.floats(allow_nan=False), min_size=1, max_size=20)
FEW = st.lists(st.sampled_from([-math.inf, -1e30, -1.0, 0.0, 1e-30, math.inf]), min_size=1, max_size=20)  # many ties


class Fixed(LinearGaussian):
    """Its posterior has the standard deviation `sigma` wherever, and means that differ from image to image."""

    def __init__(self, sigma: float):
        super().__init__()
        self.scale = torch.ones(3)
        self.w, self.sigma = self.q, sigma

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        mean = (x.flatten(1) - self.b) @ self.w
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(self.sigma)))


def joined(inside, outside):
    return np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside]


def by_pairs(inside, outside):
    """How often one of `outside` is above one of `inside`."""
    a, b = np.array(inside)[:, None], np.array(outside)
    return np.mean((b > a) + 0.5 * (b == a))


# How well a score tells


@pytest.mark.parametrize("scale, shift", [(1, 0), (50, -1e5), (1e30, 0), (1e-30, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auroc_is_scikit_learns_on_raw_scores(scale, shift, dtype):
    inside = (torch.randn(300, generator=seeded()) * scale + shift).to(dtype)
    outside = ((torch.randn(200, generator=seeded(1)) + 0.5) * scale + shift).to(dtype)
    found = auroc(inside, outside)
    assert found == pytest.approx(roc_auc_score(*joined(inside, outside)), abs=1e-12)
    assert 0.6 < found < 0.7


@pytest.mark.parametrize("inside, outside", [([0, 0, 1, 2], [1, 1, 3]), ([5], [5]), ([1, 1, 1], [0, 1, 1, 2])])
def test_auroc_counts_a_tie_one_half(inside, outside):
    assert auroc(inside, outside) == by_pairs(inside, outside)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(*joined(inside, outside)))


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(SCORES, FEW), st.one_of(SCORES, FEW))
def test_auroc_of_any_scores(inside, outside):
    found = auroc(inside, outside)
    assert found == pytest.approx(by_pairs(inside, outside), abs=1e-12)
    assert found + auroc(outside, inside) == pytest.approx(1, abs=1e-12)
    ranks = rankdata(inside + outside)  # any increasing transform
    assert auroc(ranks[: len(inside)], ranks[len(inside) :]) == found
    assert auroc(-np.array(outside), -np.array(inside)) == found


def test_auroc_loses_no_digit():
    one, next_one = torch.tensor([1.0, 1.0 + 2**-52], dtype=torch.float64).split(1)
    assert auroc(one, next_one) == auroc(one.numpy(), next_one.numpy()) == 1
    assert auroc([-math.inf, 0], [0, math.inf]) == 7 / 8


def test_one_cloud_apart_from_the_other_is_perfect_and_the_same_one_is_guessing():
    x = torch.randn(4000, generator=seeded())
    assert (auroc(x, x + 99), auroc(x, x), auroc(x, x - 99)) == (1, 0.5, 0)


def test_it_is_a_statistic_of_the_bootstrap():
    inside, outside = torch.randn(2, 1000, generator=seeded())
    estimate = bootstrap(torch.stack([inside, outside + 1], 1), statistic=lambda pairs: auroc(*pairs.T), resamples=300)
    assert estimate.effect == auroc(inside, outside + 1)
    assert estimate.low < norm.cdf(2**-0.5) < estimate.high < estimate.low + 0.15


@pytest.mark.parametrize("bad", [[], 1.0, torch.zeros(3, 1), [0.0, math.nan]])
def test_the_argument_that_is_no_list_of_scores_is_named(bad):
    with pytest.raises(ValueError, match="inside"):
        auroc(bad, [1.0])
    with pytest.raises(ValueError, match="outside"):
        auroc([0.0], bad)


# What the VAE says


def test_a_seed_gives_the_same_again_and_another_does_not():
    one, same, other = (signals(Fixed(0.3), images(), generator=seeded(s))["kl"] for s in (0, 0, 1))
    assert one.equal(same) and not one.equal(other)


def test_no_gradient_is_kept():
    x = images().requires_grad_()
    tensors = [likelihood_path(Fixed(0.3), x), *signals(Fixed(0.3), x).values()]
    assert not any(t.requires_grad for t in tensors)


@pytest.mark.parametrize("function", [signals, likelihood_path])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"x": 255 * images()}, ValueError), ({"model": object()}, TypeError)],
)
def test_bad_input_is_named(function, wrong, error):
    (name,) = wrong
    with pytest.raises(error, match=f"^{name}: "):
        function(**{"model": Fixed(0.3), "x": images()} | wrong)


def test_signals_are_the_closed_forms_of_a_linear_model():
    model, x = LinearGaussian(), images()
    q = model.posterior(x)
    many = signals(model, x.repeat_interleave(500, 0), samples=8, generator=seeded())
    found = {name: values.unflatten(0, (6, 500)).mean(1) for name, values in many.items()}
    residual = x - model.decode(q.mean)
    spread = (model.scale**2 * q.stddev**2).sum(1)  # E‖W(z − μ)‖², the columns of W being orthogonal
    nll = 8 * math.log(2 * math.pi * model.s**2) + (residual.flatten(1).square().sum(1) + spread) / (2 * model.s**2)
    torch.testing.assert_close(found["mse"], residual.square().mean((1, 2, 3)))
    torch.testing.assert_close(found["reconstruction"], nll, rtol=0, atol=0.05)
    torch.testing.assert_close(found["kl"], q.kl(standard_normal(q.mean)), rtol=0, atol=0.05)
    torch.testing.assert_close(found["mean_norm"], torch.linalg.vector_norm(q.mean, dim=1))
    torch.testing.assert_close(found["sigma"], q.logvar.exp().sqrt().mean(1))


@pytest.mark.parametrize("samples", [1, 5])
def test_with_the_exact_posterior_every_draw_gives_the_evidence(samples):
    model, x = LinearGaussian(), images(20)
    found = signals(model, x, samples=samples, generator=seeded())["negative_elbo"]
    torch.testing.assert_close(found, -model.log_evidence(x), rtol=0, atol=1e-4)


def test_the_negative_elbo_is_that_of_the_likelihoods_for_a_hierarchy_too():
    torch.manual_seed(0)
    flat = vae(image_shape=(1, 16, 16), latent_dim=5, net="mlp").eval()
    deep = hierarchical_vae(image_shape=(1, 16, 16), channels=8, groups=((2, 1), (4, 1), (8, 1))).eval()
    for model, n in [(flat, 520), (deep, 4)]:
        x = torch.rand(n, 1, 16, 16, generator=seeded())
        found = signals(model, x, samples=3, generator=seeded())
        bound = elbo(model, x, samples=3, generator=seeded())
        torch.testing.assert_close(found["negative_elbo"], -bound, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(found["reconstruction"] + found["kl"], found["negative_elbo"])


def test_a_deterministic_autoencoder_has_no_elbo_but_a_path():
    torch.manual_seed(0)
    model, x = deterministic_ae(image_shape=(1, 8, 8), latent_dim=3, net="mlp").eval(), torch.rand(4, 1, 8, 8)
    with pytest.raises(NotDefined):
        signals(model, x)
    path = likelihood_path(model, x.repeat(3, 1, 1, 1))
    assert (path[:, 2] == 0).all()
    with pytest.raises(ValueError, match=r"inliers: feature\(s\) \[2\] are constant"):
        mahalanobis(path)


def test_the_likelihood_path_by_hand():
    model, x = LinearGaussian(), images()
    q, path = model.posterior(x), likelihood_path(model, x)
    error = (x - model.decode(q.mean)).flatten(1)
    for column, vectors in enumerate((error, q.mean, q.stddev)):
        torch.testing.assert_close(path[:, column], vectors.square().sum(1).sqrt(), rtol=1e-5, atol=0)


# Detectors


def inliers(n: int = 400) -> Tensor:
    """Correlated and skewed features on very different scales, float32."""
    x = torch.randn(n, 3, generator=seeded())
    return torch.stack([x[:, 0].exp() * 1e4, x[:, 0] + x[:, 1], -x[:, 2].exp() * 1e-4], 1)


def test_mahalanobis_is_scipys_after_ranks_are_made_normal():
    x = inliers()
    normal = norm.ppf((rankdata(x, axis=0) - 0.5) / len(x))
    precision = np.linalg.inv(np.cov(normal.T, bias=True))
    expected = [distance.mahalanobis(row, normal.mean(0), precision) for row in normal]
    np.testing.assert_allclose(mahalanobis(x)(x), expected, rtol=1e-9)


def test_equal_inliers_share_their_mean_rank():
    x = torch.tensor([[1.0], [2.0], [2.0], [5.0]])
    normal = norm.ppf([1 / 8, 1 / 2, 1 / 2, 7 / 8])
    scale = normal.std()
    np.testing.assert_allclose(mahalanobis(x)(x), np.abs(normal) / scale, atol=1e-12)
    np.testing.assert_allclose(mahalanobis(x)(torch.tensor([[3.5]])), normal[3] / 2 / scale)  # half way to the last


def test_within_the_inliers_the_transform_is_nearly_scikit_learns_and_beyond_it_still_tells_outliers_apart():
    x = torch.randn(1000, 1, generator=seeded(), dtype=torch.float64)
    score = mahalanobis(x)
    theirs = QuantileTransformer(n_quantiles=1000, output_distribution="normal").fit(x.numpy())
    inner = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    np.testing.assert_allclose(score(inner), np.abs(theirs.transform(inner.numpy()))[:, 0], atol=0.03)
    outer = x.max() + torch.tensor([[0.01], [1.0], [2.0], [100.0], [1e6]], dtype=x.dtype)
    assert len(np.unique(theirs.transform(outer.numpy()))) == 1
    torch.testing.assert_close(score(outer).diff(), outer[:, 0].diff() / x.std(), rtol=0.01, atol=0)


def test_the_further_out_the_more_suspicious():
    x = inliers()
    distances = torch.tensor([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3])[:, None] * x.std(0)
    assert (mahalanobis(x)(x.amax(0) + distances).diff() > 0).all()
    assert (mahalanobis(x)(x.amin(0) - distances).diff() > 0).all()


def test_units_do_not_matter_nor_what_else_is_scored():
    x, new = inliers().double(), inliers(50).double() * 1.5
    score, units = mahalanobis(x), torch.tensor([3e-7, 2.0, 1e8])
    torch.testing.assert_close(mahalanobis(x * units + 1)(new * units + 1), score(new), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([score(row[None]) for row in new]), score(new))
    assert score(new).dtype == torch.float64 and score(new).shape == (50,)


@pytest.mark.parametrize("follow", [lambda a: 2 * a + 1, lambda a: -(a**3)])
def test_inliers_on_a_line_do_not_tell_how_far_is_far_from_it(follow):
    a, other = torch.randn(2, 200, generator=seeded(), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"inliers: features \[0, 2\] follow from each other; leave one of them out"):
        mahalanobis(torch.stack([a, other, follow(a)], 1))


def test_nearly_collinear_inliers_find_what_is_off_their_line():
    a, b = torch.randn(2, 200, generator=seeded(), dtype=torch.float64)
    score = mahalanobis(torch.stack([a, a + 0.01 * b], 1))
    along, across = score(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert along < 2 and across > 30


def test_the_path_of_images_that_the_model_does_not_know_is_found():
    model = LinearGaussian()
    known = model.decode(torch.randn(900, 3, generator=seeded()))
    known = (known + model.s * torch.randn(known.shape, generator=seeded(1))).clamp(0, 1)
    path = likelihood_path(model, known)[:, :2]  # its σ is the same for all images
    score = mahalanobis(path[:600])
    assert auroc(score(path[600:]), score(likelihood_path(model, images(300).round())[:, :2])) > 0.95
    assert auroc(score(path[:600]), score(path[600:])) == pytest.approx(0.5, abs=0.06)


def test_features_that_do_not_fit_are_refused():
    x = inliers()
    for bad in (x[:4], x[:, 0], torch.cat([x, 1 + 1e-7 * x[:, 1:2]], 1)):
        with pytest.raises(ValueError, match="inliers"):
            mahalanobis(bad)
    for bad in (x[:, :2], x * math.inf):
        with pytest.raises(ValueError, match="features"):
            mahalanobis(x)(bad)
