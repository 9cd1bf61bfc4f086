"""The pixel likelihoods against sums over all grey levels, scipy and closed forms; and nets of other widths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import logistic, norm

from tests.oracles import seeded
from vaenb.attacks import encoder
from vaenb.data import load
from vaenb.metrics.likelihood import bits_per_dim, elbo, iwae
from vaenb.models import vae
from vaenb.models.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    LearnedGaussian,
    dequantize,
)
from vaenb.training import fit

LEVELS = (torch.arange(256).double() / 255).view(256, 1, 1, 1)  # every 8-bit image of one pixel
NAMES = ("bernoulli", "continuous_bernoulli", "gaussian", "learned_gaussian", "discretized_logistic")
FAMILIES = (Bernoulli(), ContinuousBernoulli(), Gaussian(0.2), LearnedGaussian(), DiscretizedLogistic())


@pytest.mark.parametrize("scale", [-7.0, -4.0, -2.0, 1.0])
@pytest.mark.parametrize("logit", [-9.0, -1.0, 0.3, 6.0])
def test_the_discretised_logistic_is_scipys_and_a_probability_of_256_levels(scale, logit):
    family = DiscretizedLogistic().double()
    family.weight.data.fill_(scale / 10)
    found = family.log_prob(LEVELS, torch.full_like(LEVELS, logit)).detach().exp()
    edges = np.r_[-np.inf, (np.arange(255) + 0.5) / 255, np.inf]
    law = logistic(loc=1 / (1 + math.exp(-logit)), scale=math.exp(scale))
    np.testing.assert_allclose(found, np.diff(law.cdf(edges)), rtol=1e-6, atol=1e-15)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


def test_the_learned_gaussian_is_a_gaussian_with_the_sigma_that_it_has():
    family, x = LearnedGaussian(), torch.rand(5, 3, 4, 4, generator=seeded())
    logits = 2 * torch.randn(5, 3, 4, 4, generator=seeded(4))
    family.weight.data.fill_(math.log(0.07) / 10)
    torch.testing.assert_close(family.log_prob(x, logits).detach(), Gaussian(0.07).log_prob(x, logits))
    torch.testing.assert_close(family.best_log_prob(x).detach(), Gaussian(0.07).best_log_prob(x))


def test_learning_sigma_finds_the_root_of_the_mean_squared_error():
    """Its maximum likelihood for a fixed mean: the σ-VAE's closed form."""
    family, x = LearnedGaussian(), 0.5 + 0.1 * torch.randn(64, 1, 8, 8, generator=seeded())
    optimizer = torch.optim.Adam(family.parameters(), lr=0.005)
    for _ in range(200):
        optimizer.zero_grad()
        (-family.log_prob(x, torch.zeros_like(x)).mean()).backward()
        optimizer.step()
    assert family.log_sigma.exp().item() == pytest.approx((x - 0.5).square().mean().sqrt().item(), rel=1e-3)


# The best reconstruction


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_no_logits_beat_the_best_log_prob(family):
    x = (torch.rand(200, 1, 1, 1, generator=seeded()) * 254 + 0.5).round() / 255
    best = family.best_log_prob(x).detach()
    for logit in torch.linspace(-8, 8, 65):
        found = family.log_prob(x, logit * torch.ones(200, 1, 1, 1)).detach()
        assert (found <= best + 1e-4).all()


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_the_best_log_prob_is_reached_where_the_mean_is_the_image(family):
    x = torch.linspace(0.02, 0.98, 49).view(-1, 1, 1, 1).double()
    low, high = torch.full_like(x, -200), torch.full_like(x, 200)
    for _ in range(60):  # the mean rises with the logit in all of them
        middle = (low + high) / 2
        below = family.mean(middle) < x
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    torch.testing.assert_close(family.log_prob(x, low).detach(), family.best_log_prob(x).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_the_best_log_prob_of_black_and_white_is_finite(family):
    best = family.best_log_prob(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).detach()
    assert best.isfinite().all() and best[0].item() == pytest.approx(best[1].item(), abs=1e-4)


# Dequantisation and bits


@given(st.integers(0, 255), st.integers(0, 1000))
def test_dequantised_levels_stay_in_their_cell(level, seed):
    x = torch.full((1, 1, 8, 8), level / 255)
    spread = dequantize(x, seeded(seed))
    assert level / 256 <= spread.min() + 1e-6 and spread.max() <= (level + 1) / 256 + 1e-6 and spread.max() <= 1
    assert spread.unique().numel() > 1


def test_bits_of_a_dequantised_density_bound_those_of_the_discrete_law():
    """Theis et al. (2016): E log p(x + u) + log 256 ≤ log P(x), with P(x) the density's mass in x's cell."""
    mean, sigma = 0.4, 0.05
    level = torch.arange(60, 150)
    x = (level / 255).view(-1, 1, 1, 1)
    cells = norm.cdf((level + 1) / 256, mean, sigma) - norm.cdf(level / 256, mean, sigma)
    many = [norm.logpdf(dequantize(x, seeded(s)).flatten(), mean, sigma) for s in range(400)]
    bound = bits_per_dim(torch.tensor(np.mean(many, 0)), x, levels=256).numpy()
    assert (bound >= -np.log2(cells) - 0.02).all()
    assert np.abs(bound + np.log2(cells)).max() < 0.05  # and nearly equal, as the density is smooth on a cell


@pytest.mark.parametrize("levels", [0, -1, 2.5])
def test_bits_per_dim_refuses_what_is_no_number_of_levels(levels):
    with pytest.raises(ValueError, match="levels"):
        bits_per_dim(torch.zeros(2), torch.rand(2, 1, 2, 2), levels=levels)


def test_equal_probabilities_of_256_levels_cost_eight_bits():
    x = torch.rand(3, 1, 4, 4, generator=seeded())
    nats = torch.full((3,), -16 * math.log(256))
    torch.testing.assert_close(bits_per_dim(nats, x), torch.full((3,), 8.0))
    torch.testing.assert_close(bits_per_dim(torch.zeros(3), x, levels=256), torch.full((3,), 8.0))


# In a VAE


@pytest.mark.parametrize("likelihood", NAMES)
@pytest.mark.parametrize("net, shape", [("mlp", (1, 8, 8)), ("conv004", (3, 8, 8))])
def test_every_family_trains_and_is_bounded(likelihood, net, shape):
    torch.manual_seed(0)
    model = vae(image_shape=shape, latent_dim=3, net=net, likelihood=likelihood, width=0.25)
    digits = load("digits", size=shape[1], limit=64)
    images = digits.images.expand(-1, shape[0], -1, -1).contiguous()
    train = digits.__class__(images, digits.labels, name="digits", split="train")
    history = fit(model, train, epochs=8, batch_size=16, lr=5e-3, progress=False)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    x = train.float(slice(8))
    assert model.decode(torch.zeros(2, 3)).shape == (2, *shape)
    assert model.decode(torch.zeros(2, 3)).min() >= 0 and model.decode(torch.zeros(2, 3)).max() <= 1
    bound, nearer = (f(model, x, samples=64, generator=seeded()) for f in (elbo, iwae))
    assert (nearer >= bound - 1e-3).all()
    if likelihood in ("bernoulli", "discretized_logistic"):
        assert (bound < 0).all()  # of a probability, or of a Bernoulli's pieces of one
    moved = encoder.attack(model, x, eps=0.1, steps=2, restarts=1, generator=seeded()).adversarial
    assert (moved - x).abs().max() <= 0.1 + 1e-6


def test_training_spreads_grey_levels_only_where_a_width_is_learned():
    for likelihood, spread in (("gaussian", False), ("learned_gaussian", True), ("continuous_bernoulli", False)):
        model = vae(image_shape=(1, 4, 4), latent_dim=2, net="mlp", likelihood=likelihood)
        seen = []
        model.encoder.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        x = torch.full((5, 1, 4, 4), 100 / 255)
        model.losses(x, torch.zeros(5).long(), seeded())
        assert (seen[0].unique().numel() > 1) is spread


@pytest.mark.parametrize("net", ["conv001", "conv002a", "conv003", "conv004", "mlp", "mlp003"])
def test_width_multiplies_channels_and_units(net):
    one, two = (vae(image_shape=(1, 32, 32), latent_dim=4, net=net, width=w) for w in (1, 2))
    widths = [[len(p) for p in model.encoder.parameters() if p.ndim > 1][:-1] for model in (one, two)]
    assert widths[1] == [2 * n for n in widths[0]]
    assert two.decode(torch.zeros(1, 4)).shape == (1, 1, 32, 32)


def test_conv004_halves_three_times_with_kernels_of_four():
    model = vae(image_shape=(3, 32, 32), latent_dim=100, net="conv004")
    kernels = [tuple(p.shape) for p in model.encoder.parameters() if p.ndim == 4]
    assert kernels == [(32, 3, 4, 4), (64, 32, 4, 4), (128, 64, 4, 4)]
    assert model.encoder[-1].in_features == 128 * 4 * 4
    assert model.posterior(torch.rand(2, 3, 32, 32)).mean.shape == (2, 100)


def test_sigma_is_the_gaussians():
    assert vae(image_shape=(1, 4, 4), latent_dim=2, net="mlp", likelihood="gaussian", sigma=0.1).likelihood.sigma == 0.1
    with pytest.raises(ValueError, match="sigma: only with likelihood='gaussian', got 0.1 with 'bernoulli'"):
        vae(image_shape=(1, 4, 4), latent_dim=2, net="mlp", sigma=0.1)


@pytest.mark.parametrize("width", [0, -1, math.inf, math.nan])
def test_a_net_needs_a_width(width):
    with pytest.raises(ValueError, match="width"):
        vae(image_shape=(1, 32, 32), latent_dim=2, width=width)


@pytest.mark.parametrize("net, total", [("mlp", -21.0793), ("mlp003", -13.4313), ("conv001", 529.8033)])
def test_layers_are_made_in_the_order_that_stored_weights_and_notebooks_came_from(net, total):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 32, 32), latent_dim=4, net=net)
    assert sum(p.double().sum().item() for p in model.parameters()) == pytest.approx(total, abs=1e-3)
