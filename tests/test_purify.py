"""Cleaners on a model whose reconstruction is known, and attackers who see through them."""

import pytest
import torch
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb import purify
from vaenb.attacks import classifier as attacks
from vaenb.metrics.likelihood import elbo
from vaenb.models import reconstruct


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
    errors = [
        (purify.passes(model, x, samples=s, generator=seeded()) - target).square().mean().sqrt() for s in (1, 100)
    ]
    assert 8 < errors[0] / errors[1] < 12


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
        assert (found - x).abs().max() <= eps + 1e-6 and found.min() >= 0 and found.max() <= 1
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
    clean, x = purify.straight_through(lambda x: x.round().detach()), images().requires_grad_()
    assert torch.equal(clean(x), x.detach().round())
    weights = torch.rand(x.shape, generator=seeded(2))
    (gradient,) = torch.autograd.grad((weights * clean(x)).sum(), x)
    assert torch.equal(gradient, weights)


def test_who_knows_the_cleaner_beats_it_more_than_who_does_not():
    model, f, x = LinearGaussian(), Three(), images(64)
    labels = attacks.predict(f, reconstruct(model, x))
    classify = purify.defended(f, lambda x: purify.passes(model, x, generator=seeded(3)), draws=4)
    # The classifier alone is fooled off the model's plane, which the pass projects onto: transfer fails.
    blind, knowing = (
        attacks.attack(g, x, labels, eps=0.1, steps=20, generator=seeded()).adversarial for g in (f, classify)
    )
    after = [(attacks.predict(classify, a) == labels).float().mean() for a in (blind, knowing)]
    assert after[1] < after[0] - 0.1


def test_bad_input_is_refused():
    model, f, x = LinearGaussian(), Three(), images()
    with pytest.raises(ValueError, match="samples: a whole number"):
        purify.passes(model, x, samples=0)
    with pytest.raises(ValueError, match="samples: a whole number"):
        purify.elbo_ascent(model, x, eps=0.1, samples=0)
    with pytest.raises(ValueError, match="eps: finite and ≥ 0"):
        purify.elbo_ascent(model, x, eps=-0.1)
    with pytest.raises(ValueError, match="draws: a whole number"):
        purify.defended(f, lambda x: x, draws=0)
    with pytest.raises(ValueError, match="x: pixels"):
        purify.passes(model, x + 1)
    with pytest.raises(ValueError, match="it gives probabilities"):
        purify.defended(nn.Softmax(1), lambda x: x.flatten(1))(x)
