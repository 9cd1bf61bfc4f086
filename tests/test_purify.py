"""Cleaners on a model whose reconstruction is known, and attackers who see through them."""

import math

import pytest
import torch
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import classifier as attacks
from vaenb.attacks import encoder
from vaenb.checks import check_images, check_model
from vaenb.contract import reconstruct
from vaenb.defences import purify
from vaenb.metrics.likelihood import elbo
from vaenb.models import DDGM, VAE, vae
from vaenb.models.diffusion import linear


def images(n=6):
    return 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=seeded())


class Three:
    """Logits of three classes, linear in the image."""

    def __init__(self):
        self.w = 20 * torch.randn(16, 3, generator=seeded(5))

    def __call__(self, x):
        return (x.flatten(1) - 0.5) @ self.w


def test_many_passes_approach_the_reconstruction_of_the_mean_at_the_root_of_their_number():
    model, x = LinearGaussian(), images(200)
    target = reconstruct(model, x)  # the decoder is linear: the mean picture is that of the mean code

    def error(s):
        return (purify.passes(model, x, samples=s, generator=seeded()) - target).square().mean().sqrt()

    assert 8 < error(1) / error(100) < 12


def test_a_pass_is_differentiable_and_reproducible():
    model, x = LinearGaussian(), images().requires_grad_()
    once, again = (purify.passes(model, x, samples=3, generator=seeded(4)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.autograd.grad(once.sum(), x)[0].abs().min() > 0


def test_elbo_ascent_raises_the_elbo_within_its_ball():
    model, x = LinearGaussian(), images()
    before = elbo(model, x, samples=64, generator=seeded())
    for eps in (0.0, 0.05, 0.2):
        found = purify.elbo_ascent(model, x, eps=eps, steps=20, generator=seeded())
        assert (found - x).abs().max() <= eps + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        gain = elbo(model, found, samples=64, generator=seeded()) - before
        assert (gain > 0).all() if eps else torch.equal(found, x)


def test_elbo_ascent_ends_where_the_evidence_is_highest():
    """With the exact posterior the ELBO is log p(x), a Gaussian whose top is the mean b."""
    found = purify.elbo_ascent(LinearGaussian(), images(), eps=0.5, steps=200, generator=seeded())
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=0.02)


def test_defended_is_the_mean_probability():
    model, f, x = LinearGaussian(), Three(), images()
    g = seeded(1)
    classify = purify.defended(f, lambda x: purify.passes(model, x, generator=g), draws=4)
    h = seeded(1)
    reference = torch.stack([f(purify.passes(model, x, generator=h)).softmax(1) for _ in range(4)]).mean(0)
    torch.testing.assert_close(classify(x).exp(), reference)


def test_straight_through_has_the_values_of_the_cleaner_and_the_gradient_of_the_identity():
    clean = purify.straight_through(lambda x: x.round().detach())
    x = images().requires_grad_()
    assert torch.equal(clean(x), x.detach().round())
    weights = torch.rand(x.shape, generator=seeded(2))
    (gradient,) = torch.autograd.grad((weights * clean(x)).sum(), x)
    assert torch.equal(gradient, weights)


def test_straight_through_takes_the_gradient_of_what_the_cleaner_is_like():
    clean = purify.straight_through(lambda x: x.round(), like=lambda x: 3 * x.square())
    x = images().requires_grad_()
    found = clean(x)
    torch.testing.assert_close(found.detach(), x.detach().round())
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, 6 * x.detach())
    with torch.no_grad():
        assert torch.equal(clean(x), x.round())


def test_who_knows_the_cleaner_beats_it_more_than_who_does_not():
    model, f, x = LinearGaussian(), Three(), images(64)
    labels = attacks.predict(f, reconstruct(model, x))
    classify = purify.defended(f, lambda x: purify.passes(model, x, generator=seeded(3)), draws=4)
    # The classifier alone is fooled off the model's plane, which the pass projects onto: transfer fails.
    right = {}
    for name, seen in (("blind", f), ("knowing", classify)):
        found = attacks.attack(seen, x, labels, eps=0.1, steps=20, generator=seeded()).adversarial
        right[name] = (attacks.predict(classify, found) == labels).float().mean()
    assert right["knowing"] < right["blind"] - 0.1


class Tiny(nn.Module):
    """A smooth predictor of noise that depends on the step."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.mix.weight.data = 0.2 * torch.randn(1, 1, 3, 3, generator=seeded(7))

    def forward(self, x, t):
        return torch.tanh(self.mix(x)) * (0.5 + t[:, None, None, None].to(x.dtype))


def tiny() -> DDGM:
    return DDGM(Tiny(), linear(40), image_shape=(1, 4, 4)).eval()


@pytest.mark.parametrize("t", [1, 5, 40])
def test_one_call_without_noise_is_the_networks_guess(t):
    model, x, level = tiny(), images(), linear(40)[t].item()
    x_t = math.sqrt(level) * (2 * x - 1)
    guess = (x_t - math.sqrt(1 - level) * model.net(x_t, torch.full((6,), t / 40))) / math.sqrt(level)
    found = purify.diffused(model, x, t, noise=False, evaluations=1)
    torch.testing.assert_close(found, ((guess + 1) / 2).clamp(0, 1))
    assert torch.equal(found, purify.diffused(model, x, t, noise=False, evaluations=1))


def test_diffused_adds_the_steps_noise_and_walks_back():
    model, x, g = tiny(), images(), seeded(3)
    expected = model.denoise(model.noised(x, 5, generator=g), 5, generator=g)
    assert torch.equal(purify.diffused(model, x, 5, generator=seeded(3)), expected)
    ddim = {"noise": False, "eta": 0.0}
    assert torch.equal(purify.diffused(model, x, 5, **ddim), purify.diffused(model, x, 5, **ddim))
    drawn = [purify.diffused(model, x, 5, noise=False, generator=seeded(seed)) for seed in (0, 1)]
    assert not torch.equal(*drawn)  # the walk's own draws are left
    torch.testing.assert_close(purify.diffused(model, x, 0), x)


@pytest.mark.parametrize("walk", [{"noise": False, "evaluations": 1}, {"noise": False, "eta": 0.0}, {}])
def test_the_gradient_of_diffused_is_that_of_finite_differences(walk):
    model, x = tiny().double(), images(2).double().requires_grad_()

    def clean(x):
        return purify.diffused(model, x, 2, generator=seeded(), **walk)

    assert clean(x).min() > 0 and clean(x).max() < 1  # nothing is clipped
    assert torch.autograd.gradcheck(clean, x, atol=1e-6)


def cleaned(model) -> purify.Cleaned:
    diffusion = tiny()
    return purify.Cleaned(model, lambda x: purify.diffused(diffusion, x, 20, noise=False, eta=0.0))


@pytest.mark.parametrize("build", [LinearGaussian, lambda: vae(image_shape=(1, 4, 4), latent_dim=3, net="mlp").eval()])
def test_cleaned_meets_the_contract_and_cleans_before_the_encoder_and_after_the_decoder(build):
    torch.manual_seed(0)
    inner, x = build(), images()
    model = cleaned(inner)
    check_model(model)
    q, z = model.posterior(x), torch.randn(6, 3, generator=seeded())
    assert torch.equal(q.mean, inner.posterior(model.clean(x)).mean)
    assert (q.mean != inner.posterior(x).mean).all()
    assert torch.equal(model.decode(z), model.clean(inner.decode(z)))
    assert model.decode(z).shape == x.shape
    assert torch.equal(model.log_prior(z), inner.log_prior(z))
    assert torch.equal(model.log_likelihood(x, z), inner.log_likelihood(x, z))
    check_images(reconstruct(model, x))
    assert elbo(model, x, samples=4, generator=seeded()).isfinite().all()
    if isinstance(inner, VAE):
        with pytest.raises(ValueError, match="it is in training mode"):
            reconstruct(cleaned(inner.train()), x)


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_an_attack_on_a_cleaned_encoder_stays_in_its_ball_and_beats_one_that_does_not_know_the_cleaner(eps):
    inner, x = LinearGaussian(), images(32)
    model = cleaned(inner)
    search = {"eps": eps, "steps": 20, "restarts": 2}
    knowing, blind = (encoder.attack(m, x, generator=seeded(), **search) for m in (model, inner))
    for found in (knowing, blind):
        assert (found.adversarial - x).abs().max() <= eps + 1e-6
        assert found.adversarial.min() >= 0
        assert found.adversarial.max() <= 1
    moved = encoder.loss(model, x)(blind.adversarial, torch.arange(32))
    assert (knowing.loss >= moved).all()
    assert knowing.loss.mean() > 1.2 * moved.mean()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: purify.passes(LinearGaussian(), x, samples=0), "samples: a whole number"),
        (lambda x: purify.passes(LinearGaussian(), x + 1), "x: pixels"),
        (lambda x: purify.elbo_ascent(LinearGaussian(), x, eps=0.1, samples=0), "samples: a whole number"),
        (lambda x: purify.elbo_ascent(LinearGaussian(), x, eps=-0.1), "eps: finite and ≥ 0"),
        (lambda x: purify.defended(Three(), lambda x: x, draws=0), "draws: a whole number"),
        (lambda x: purify.defended(nn.Softmax(1).eval(), lambda x: x.flatten(1))(x), "it gives probabilities"),
        (lambda x: purify.diffused(tiny(), x), "t: the step to add noise up to"),
        (lambda x: purify.diffused(tiny(), x, 41), "t: "),
        (lambda x: purify.diffused(tiny().train(), x, 5), "model: it is in training mode"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(images())


def test_a_net_in_training_mode_is_found_behind_a_defence():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="training mode"):
        purify.defended(net, lambda x: x)
