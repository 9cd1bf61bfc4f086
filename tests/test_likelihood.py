"""What an attack does to the posteriors, against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import LinearGaussian, images, seeded
from vaenb.distributions import DiagonalGaussian
from vaenb.metrics.diagnosis import likelihood_tilt, posterior_ratio
from vaenb.metrics.likelihood import shortfall
from vaenb.models import VAE, vae


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
        lambda: posterior_ratio(model, x, z[:, 0], z[:, 1]),
        lambda: likelihood_tilt(model, x, x, z),
    ):
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            call()


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
        (
            likelihood_tilt,
            (X, X, Z),
            r"z: samples that differ expected, those of image\(s\) \[0, 1, 2, 3, 4\] of 5 are all",
        ),
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
