"""Attackers who know the defence: true gradients, closed forms, and the ball."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import adaptive
from vaenb.defences.repair import repair
from vaenb.distributions import DiagonalGaussian
from vaenb.models import seatbelt, vae


def square(z, index):
    return (z**2).sum(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").double().eval()
    for p in model.parameters():
        p.data *= 1.5  # so that the posterior is not the prior
    return model


@pytest.fixture(scope="module")
def x():
    return torch.rand(3, 1, 8, 8, generator=seeded(), dtype=torch.double)


@pytest.fixture(scope="module")
def defence(model, x):
    return repair(model, x, warmup=20, num_samples=5, generator=seeded())


def expectation(model, x, defence, method="unrolled", loss=square, **changed):
    spec = {"transitions": 5, "leapfrog_steps": 3, "draws": 2, "generator": seeded(1)} | changed
    return adaptive.loss(model, x, loss, defence=defence, method=method, **spec)


def gradient(loss_fn, x, index=None):
    x = x.clone().requires_grad_()
    index = torch.arange(len(x)) if index is None else index
    return torch.autograd.grad(loss_fn(x, index).sum(), x)[0]


@pytest.mark.parametrize("transitions", [1, 6])
def test_the_unrolled_gradient_is_the_true_one_and_not_zero(model, x, defence, transitions):
    loss_fn = expectation(model, x, defence, transitions=transitions)
    exact = gradient(loss_fn, x)
    direction = torch.randn(x.shape, generator=seeded(2), dtype=torch.double)
    h = 1e-6
    index = torch.arange(3)
    with torch.no_grad():
        change = (loss_fn(x + h * direction, index) - loss_fn(x - h * direction, index)) / (2 * h)
    torch.testing.assert_close((exact * direction).flatten(1).sum(1), change, rtol=1e-5, atol=1e-7)
    assert (exact.flatten(1).abs().amax(1) > 1e-4).all()


def test_bpda_is_the_gradient_of_the_start_at_the_end_of_the_chain(model, x, defence):
    weights = torch.tensor([2.0, -1.0], dtype=torch.double)

    def linear(z, index):
        return z @ weights

    found = gradient(expectation(model, x, defence, "bpda", linear, draws=1), x)
    noise = torch.randn(1, 3, 2, generator=seeded(1), dtype=torch.double)[0]

    def start(x, index):
        q = model.posterior(x)
        return (q.mean + q.stddev * noise) @ weights

    torch.testing.assert_close(found, gradient(start, x))
    through = gradient(expectation(model, x, defence, "unrolled", linear, draws=1), x)
    assert (through - found).abs().max() > 0.1 * found.abs().max()


def test_through_a_long_chain_the_encoder_no_longer_matters():
    class Lying(LinearGaussian):
        def posterior(self, x):
            exact = super().posterior(x)
            return DiagonalGaussian(-2 * exact.mean, exact.logvar)

    model = Lying()
    x = torch.full((2, 1, 4, 4), 0.5)
    weights = torch.tensor([1.0, 2.0, -1.0])
    truth = gradient(lambda x, i: LinearGaussian.posterior(model, x).mean @ weights, x)
    defence = repair(model, x, warmup=0, num_samples=5, step_size=0.5, generator=seeded())

    def linear(z, index):
        return z @ weights

    spec = {"transitions": 60, "leapfrog_steps": 4, "draws": 8}
    exact, bpda = (gradient(expectation(model, x, defence, m, linear, **spec), x) for m in ("unrolled", "bpda"))
    assert (exact - truth).norm() < 0.1 * truth.norm()
    torch.testing.assert_close(bpda, -2 * truth, rtol=1e-4, atol=1e-5)  # wrong in sign: it believes the encoder


@pytest.mark.parametrize("probes", [100, 1600])
def test_spsa_estimates_the_gradient_with_the_error_of_theory(probes):
    weights = torch.randn(64, generator=seeded(), dtype=torch.double)
    x = torch.full((40, 1, 8, 8), 0.5).double()

    def value(x, index):
        return torch.tanh(x.flatten(1) @ weights / 10)

    truth = gradient(value, x).flatten(1)
    guess = gradient(lambda x, i: adaptive._spsa(value, x, i, probes, seeded(1)), x).flatten(1)
    error = ((guess - truth) ** 2).sum(1).mean() / (truth**2).sum(1).mean()
    assert error.item() == pytest.approx(63 / probes, rel=0.2)  # (dimensions − 1) / probes for random signs
    bound = 4 * (error / 40 * (truth[0] ** 2).sum() / 64) ** 0.5
    torch.testing.assert_close(guess.mean(0), truth[0], atol=bound, rtol=0)


def test_spsa_sees_values_alone_and_averages_its_pairs(model, x, defence):
    loss_fn = expectation(model, x, defence, "spsa", transitions=1)
    with torch.no_grad():
        exact = expectation(model, x, defence, "unrolled", transitions=1)(x, torch.arange(3))
        torch.testing.assert_close(loss_fn(x, torch.arange(3)), exact)
    assert (gradient(loss_fn, x).flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("method", adaptive.METHODS)
def test_the_randomness_is_common_and_each_image_has_its_own(model, x, defence, method):
    loss_fn, index = expectation(model, x, defence, method), torch.arange(3)
    with torch.no_grad():
        whole = loss_fn(x, index)
        assert torch.equal(whole, loss_fn(x, index))
        torch.testing.assert_close(loss_fn(x[[2, 0]], index[[2, 0]]), whole[[2, 0]])


@pytest.mark.parametrize("method", adaptive.METHODS)
def test_every_method_raises_the_loss_within_ball_and_box(model, x, defence, method):
    spec = {"transitions": 3, "leapfrog_steps": 2, "draws": 2, "generator": seeded(1)}
    clean = adaptive.loss(model, x, square, defence=defence, method=method, **spec)(x, torch.arange(3))
    spec |= {"generator": seeded(1), "steps": 8, "restarts": 1}
    result = adaptive.attack(model, x, square, eps=0.1, defence=defence, method=method, **spec)
    assert method == "bpda" or (result.loss > clean).all()  # bpda's gradient may point the wrong way
    assert ((result.adversarial - x).abs() <= 0.1 + 1e-9).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.gradient_calls == 8


def test_chunks_do_not_change_an_attack(model, x, defence):
    spec = {"eps": 0.1, "defence": defence, "transitions": 2, "leapfrog_steps": 2, "draws": 2, "steps": 3}
    whole = adaptive.attack(model, x, square, generator=seeded(), **spec)
    parts = adaptive.attack(model, x, square, generator=seeded(), chunk=2, **spec)
    torch.testing.assert_close(parts.loss, whole.loss)


def codes(model, x, count):
    return model.posterior(x).mean.detach(), torch.randn(count, 2, generator=seeded(3), dtype=torch.double)


def test_the_tilt_is_the_closed_form_for_a_bernoulli_decoder(model, x):
    z, candidates = codes(model, x, 6)
    tilt = adaptive.posterior_tilt(model, x, z, candidates, eps=0.1)
    with torch.no_grad():
        slope = model.logits(tilt.target) - model.logits(z)
        room = torch.where(slope > 0, (1 - x).clamp_max(0.1), x.clamp_max(0.1))
    torch.testing.assert_close(tilt.adversarial, x + room * slope.sign())
    torch.testing.assert_close(tilt.before - (room * slope.abs()).flatten(1).sum(1), tilt.margin)


@given(st.integers(0, 1000), st.floats(0, 0.3))
@settings(deadline=None, max_examples=20)
def test_no_other_change_in_the_ball_tilts_more(model, x, seed, eps):
    z, candidates = codes(model, x, 1)
    tilt = adaptive.posterior_tilt(model, x, z, candidates, eps=eps)
    other = (x + eps * (2 * torch.rand(x.shape, generator=seeded(seed), dtype=torch.double) - 1)).clamp(0, 1)

    def joint(x, z):
        return model.log_prior(z) + model.log_likelihood(x, z)

    assert (joint(other, z) - joint(other, tilt.target) >= tilt.margin - 1e-9).all()


def test_the_candidate_with_the_least_margin_is_taken_of_those_allowed(model, x):
    z, candidates = codes(model, x, 5)
    each = torch.stack([adaptive.posterior_tilt(model, x, z, c[None], eps=0.1).margin for c in candidates], 1)
    allowed = torch.rand(3, 5, generator=seeded()) < 0.6
    allowed[:, 0] = True
    tilt = adaptive.posterior_tilt(model, x, z, candidates, eps=0.1, allowed=allowed)
    torch.testing.assert_close(tilt.margin, each.masked_fill(~allowed, torch.inf).amin(1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "magic"}, "method: one of unrolled, bpda, spsa expected, got 'magic'"),
        ({"transitions": 0}, "transitions: a whole number ≥ 1 expected, got 0"),
        ({"x": torch.rand(2, 1, 8, 8, dtype=torch.double)}, "defence: the chains of `repair` for these 2 images"),
        ({"model": vae(image_shape=(1, 8, 8), latent_dim=5, net="mlp").double().eval()}, "3 images and this model"),
    ],
)
def test_what_the_attacker_cannot_use_is_named(model, x, defence, wrong, says):
    with pytest.raises(ValueError, match=says):
        expectation(**{"model": model, "x": x, "defence": defence} | wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"allowed": torch.zeros(3, 4, dtype=torch.bool)}, "allowed: .* at least one candidate"),
        ({"allowed": torch.ones(3, 1)}, r"allowed: bools \(3, 4\)"),
        ({"eps": -1.0}, "eps: finite and ≥ 0 expected, got -1"),
        ({"z": torch.zeros(2, 2)}, r"z: a code for each image, .* \(3, 2\), expected, got \(2, 2\)"),
        ({"model": vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp")}, "training mode"),
    ],
)
def test_what_cannot_be_tilted_is_named(model, x, wrong, says):
    z, candidates = codes(model, x, 4)
    with pytest.raises(ValueError, match=says):
        adaptive.posterior_tilt(**{"model": model, "x": x, "z": z, "candidates": candidates, "eps": 0.1} | wrong)


def test_a_rejected_trajectory_that_blew_up_leaves_the_gradient_of_the_others():
    torch.manual_seed(0)
    layered = seatbelt(image_shape=(1, 8, 8), latent_dim=1, layers=3, size=9, net="mlp").eval()
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    steps = torch.tensor([0.1, 0.1, 100.0])  # the third chain's trajectories end nowhere, and it stays at its start
    chains = repair(layered, x, warmup=0, num_samples=4, step_size=steps, generator=seeded())
    assert torch.equal(chains.last[2], chains.start[2])
    found = gradient(expectation(layered, x, chains, transitions=2), x)
    start = gradient(expectation(layered, x, chains, "bpda", transitions=2), x)
    assert found.isfinite().all() and not torch.equal(found[0], start[0])
    torch.testing.assert_close(found[2], start[2])


def test_a_tilt_has_a_radius_for_each_image(model, x):
    z, candidates = codes(model, x, 1)
    each = adaptive.posterior_tilt(model, x, z, candidates, eps=torch.tensor([0.0, 0.1, 0.2]))
    assert torch.equal(each.adversarial[0], x[0])
    alone = adaptive.posterior_tilt(model, x, z, candidates, eps=0.2)
    torch.testing.assert_close(each.margin[2], alone.margin[2])


@pytest.mark.parametrize("method", ["unrolled", "bpda"])
def test_the_attackers_chains_are_the_defences_in_the_callers_autocast_too(model, x, method):
    small = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    images = x.float()
    chains = repair(small, images, warmup=20, num_samples=5, generator=seeded())
    loss_fn = expectation(small, images, chains, method)
    plain = loss_fn(images, torch.arange(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss_fn(images, torch.arange(3)), plain)


def test_bpda_needs_no_likelihood_with_a_gradient_in_the_image():
    torch.manual_seed(0)
    counted = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    whole = counted.log_likelihood
    counted.log_likelihood = lambda x, z: whole(x.detach(), z)
    images = torch.rand(3, 1, 8, 8, generator=seeded())
    chains = repair(counted, images, warmup=20, num_samples=5, generator=seeded())
    assert gradient(expectation(counted, images, chains, "bpda"), images).any()
