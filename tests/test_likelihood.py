"""Annealed importance sampling, and what an attack does to the posteriors, against closed forms and quadrature."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import LinearGaussian, images, seeded
from vaenb.distributions import DiagonalGaussian
from vaenb.metrics.diagnosis import likelihood_tilt, posterior_ratio
from vaenb.metrics.likelihood import ais, elbo, iwae, shortfall
from vaenb.models import VAE, hierarchical_vae, vae


class Blurred(LinearGaussian):
    """Its encoder is wrong by a known amount."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        exact = super().posterior(x)
        return DiagonalGaussian(exact.mean + 0.8, exact.logvar + 0.5)

    def exact(self, x: Tensor) -> DiagonalGaussian:
        return super().posterior(x)


def sampled(q: DiagonalGaussian, count: int) -> Tensor:
    """(N, count, D) draws."""
    many = DiagonalGaussian(*(t.repeat_interleave(count, 0) for t in (q.mean, q.logvar)))
    return many.rsample(generator=seeded()).unflatten(0, (-1, count))


def curved_vae() -> tuple[VAE, Tensor]:
    """A 2-D VAE in float64, whose encoder knows nothing of its curved posteriors, and three binary images."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))
    model = VAE(encoder, decoder, image_shape=(1, 8, 8), latent_dim=2).double().eval()
    with torch.no_grad():
        decoder[2].weight.mul_(2)
    return model, torch.rand(3, 1, 8, 8, generator=seeded(3), dtype=torch.float64).round()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperatures": 20},
        {"temperatures": 2},
        {"chains": 7, "chunk": 5, "temperatures": 4},
        {"temperatures": 5, "leapfrog_steps": 1},
    ],
)
def test_with_the_exact_posterior_every_weight_is_the_evidence(settings):
    model, x = LinearGaussian(), images(5)
    torch.testing.assert_close(ais(model, x, **settings), model.log_evidence(x), rtol=1e-4, atol=2e-3)


def test_ais_is_much_nearer_the_evidence_than_as_many_importance_samples():
    model, x = Blurred(), images(20)
    evidence = model.log_evidence(x)
    annealed = (ais(model, x, chains=8, generator=seeded()) - evidence).square().mean().sqrt()
    weighted = (iwae(model, x, samples=8, generator=seeded()) - evidence).square().mean().sqrt()
    assert annealed < 0.15 < 4 * annealed < weighted


def test_the_mean_weight_is_unbiased():
    model, x = Blurred(), images(1).expand(2000, 1, 4, 4)
    log_ratio = ais(model, x, chains=1, temperatures=6, leapfrog_steps=1, generator=seeded()) - model.log_evidence(x)
    ratio = log_ratio.exp()
    error = ratio.std().item() / len(x) ** 0.5
    assert error < 0.05 and ratio.mean().item() == pytest.approx(1, abs=4 * error)
    assert log_ratio.mean() < -0.1  # below in expectation: the test would see a bias, since the weights vary


def test_two_temperatures_are_importance_weighting():
    model, x = Blurred(), images(400)
    two = ais(model, x, chains=4, temperatures=2, generator=seeded()) - model.log_evidence(x)
    weighted = iwae(model, x, samples=4, generator=seeded(1)) - model.log_evidence(x)
    assert two.mean().item() == pytest.approx(weighted.mean().item(), abs=0.12)
    assert two.std().item() == pytest.approx(weighted.std().item(), rel=0.15)


def test_ais_is_the_integral_over_a_grid():
    model, x = curved_vae()
    axis = torch.linspace(-5, 5, 101, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = torch.cat([model.logits(part) for part in z.split(4096)])
    joint = torch.stack([model.likelihood.log_prob(one, logits) for one in x]) + model.log_prior(z)
    exact = joint.logsumexp(1) + 2 * (axis[1] - axis[0]).log()
    estimate = ais(model, x, chains=128, generator=seeded())
    assert estimate.dtype == torch.float64
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.05)
    assert ((exact - iwae(model, x, samples=128, generator=seeded())).abs() > 0.1).any()


def test_ais_serves_a_hierarchy_too():
    torch.manual_seed(0)
    model = hierarchical_vae(image_shape=(1, 16, 16), channels=8, groups=((2, 1), (4, 1), (8, 1))).eval()
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    estimate = ais(model, x, chains=4, temperatures=6, leapfrog_steps=1, generator=seeded())
    assert estimate.mean() > elbo(model, x.repeat(64, 1, 1, 1), samples=1, generator=seeded()).mean() + 1


def test_the_posterior_ratio_is_that_of_the_exact_posterior():
    model, x = LinearGaussian(), images(5)
    z, z_adv = torch.randn(2, 5, 3, generator=seeded())
    q = model.posterior(x)
    expected = q.log_prob(z) - q.log_prob(z_adv)
    torch.testing.assert_close(posterior_ratio(model, x, z, z_adv), expected, rtol=0, atol=1e-4)


def test_the_tilt_is_the_kl_between_exact_posteriors():
    model, x = LinearGaussian(), images(5) * 0.5
    x_adv = x + 0.2 * images(5, seed=1)
    before, after = model.posterior(x), model.posterior(x_adv)
    tilt = likelihood_tilt(model, x, x_adv, sampled(before, 10_000))
    torch.testing.assert_close(tilt.kl, before.kl(after), rtol=0.05, atol=1e-3)
    # s is Gaussian, without a third order
    torch.testing.assert_close(tilt.second_order, before.kl(after), rtol=0.05, atol=1e-3)
    # For Gaussian s the effective share of the draws is exp(−Var s).
    torch.testing.assert_close(tilt.ess / 10_000, (-2 * before.kl(after)).exp(), rtol=0.1, atol=0)


def test_a_bernoullis_second_order_is_the_covariance_of_its_logits():
    model, x = curved_vae()
    z = torch.randn(3, 40, 2, generator=seeded(), dtype=torch.float64)
    e = (torch.rand(x.shape, generator=seeded(1), dtype=torch.float64) - x) * 0.02
    logits = model.logits(z.flatten(0, 1)).detach().view(3, 40, -1)
    expected = [0.5 * d @ ell.T.cov() @ d for d, ell in zip(e.flatten(1), logits, strict=True)]
    torch.testing.assert_close(likelihood_tilt(model, x, x + e, z).second_order, torch.stack(expected))


def test_the_second_order_errs_by_the_third_power_of_the_attack():
    model, x = curved_vae()
    z = 0.3 * torch.randn(3, 40, 2, generator=seeded(), dtype=torch.float64)
    e = (torch.rand(x.shape, generator=seeded(1), dtype=torch.float64) - x) * 0.001

    def error(size: float) -> Tensor:
        tilt = likelihood_tilt(model, x, x + size * e, z)
        return tilt.kl - tilt.second_order * 39 / 40  # the variance of these 40 points, not of what they are draws of

    torch.testing.assert_close(error(1.0) / error(0.5), torch.full((3,), 8.0, dtype=torch.float64), rtol=0.15, atol=0)


def test_a_model_in_training_mode_is_refused_everywhere():
    model, x = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").train(), torch.rand(2, 1, 8, 8)
    z = torch.zeros(2, 4, 2)
    for call in (
        lambda: ais(model, x),
        lambda: posterior_ratio(model, x, z[:, 0], z[:, 1]),
        lambda: likelihood_tilt(model, x, x, z),
    ):
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            call()


@pytest.mark.parametrize(
    "wrong",
    [{"temperatures": 1}, {"chains": 0}, {"leapfrog_steps": 2.5}, {"chunk": 0}, {"step_size": 0.0}],
)
def test_settings_of_ais_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ais(LinearGaussian(), images(5), **wrong)


X, Z = images(5), torch.zeros(5, 7, 3)


@pytest.mark.parametrize(
    ("measure", "arguments", "says"),
    [
        (posterior_ratio, (X, Z[:4, 0], Z[:4, 0]), r"z: \(5, 3\), one code for each image, expected, got \(4, 3\)"),
        (posterior_ratio, (X, Z[:, 0], Z[:, 0, :2]), r"z_adv: \(5, 3\), as z, expected, got \(5, 2\)"),
        (likelihood_tilt, (X, X[:4], Z), r"x_adv: \(5, 1, 4, 4\), as x, expected, got \(4,"),
        (likelihood_tilt, (X, X, Z[:, 0]), r"z: samples \(N, S, D\) expected, got shape \(5, 3\)"),
        (likelihood_tilt, (X, X, Z[:, :1]), r"z: \(5, S, D\), at least two samples"),
        (likelihood_tilt, (X, X, Z * math.nan), "z: NaN"),
        (likelihood_tilt, (X, X, Z), r"z: samples that differ expected, those of image\(s\) \[0, 1, 2, 3, 4\] are all"),
        (shortfall, (X, X[:3]), r"target: \(5, 1, 4, 4\), as x, expected, got \(3,"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(measure, arguments, says):
    with pytest.raises(ValueError, match=says):
        measure(LinearGaussian(), *arguments)


def test_the_shortfall_is_the_squares_that_the_wrong_code_leaves_over():
    model, x, target = LinearGaussian(), images(5), images(5, seed=1)
    own = model.decode(model.posterior(target).mean)
    other = model.decode(model.posterior(x).mean)
    squares = ((target - other) ** 2 - (target - own) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(shortfall(model, x, target), squares / (2 * model.s**2))
    assert shortfall(model, target, target).abs().max() == 0
