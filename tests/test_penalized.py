"""Penalised attacks against optimality conditions, closed forms and scipy; and the interpolation beside them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from tests.oracles import LinearGaussian, seeded
from tests.test_lbfgs import scipys
from vaenb.attacks import encoder
from vaenb.attacks.penalized import attack, interpolation, penalty_grid
from vaenb.models import VAE, seatbelt

DOUBLE = torch.float64


class Linear(LinearGaussian):
    """The oracle in double precision. The mean of x + d is that of x, plus gain·d; the gain's rows are orthogonal."""

    def __init__(self):
        super().__init__()
        self.q, self.scale, self.w = self.q.double(), self.scale.double(), self.w.double()
        self.gain = (self.posterior(torch.eye(16).double().view(16, 1, 4, 4)).mean - self.mean(0.0)).T

    def mean(self, grey):
        return self.posterior(torch.full((1, 1, 4, 4), grey, dtype=DOUBLE)).mean

    def gap(self, x, target):
        return self.posterior(target).mean - self.posterior(x).mean


def rand(n, seed=0, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(n, 1, 4, 4, generator=seeded(seed), dtype=DOUBLE)


def weights(*values):
    return torch.tensor(values, dtype=DOUBLE)


def small_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
    net[-1].weight.data.mul_(2)
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    return VAE(net, decoder, image_shape=(1, 4, 4), latent_dim=2).double().eval().requires_grad_(False)


def closed_form(gain, b, weight):
    """The minimum of ‖gain·d − b‖² + weight·‖d‖ for orthogonal rows: d lies in their span, and ‖d‖ is one root."""
    size = gain.norm(dim=1)

    def along(r):  # the coordinates of d, given that ‖d‖ = r
        return size * b / (size**2 + weight / (2 * r))

    if 2 * (size * b).norm() <= weight:
        return torch.zeros(gain.shape[1], dtype=DOUBLE)
    r = brentq(lambda r: (along(r).norm() - r).item(), 1e-12, 10) if weight else torch.inf
    return along(r) @ (gain / size[:, None])


def test_a_linear_encoders_attack_is_the_closed_form():
    model, x, target = Linear(), rand(4, 0, 0.4, 0.6), rand(4, 1, 0.4, 0.6)
    penalties = weights(0, 0.01, 0.05, 0.1, 0.2, 10)
    path = attack(model, x, target, penalties=penalties, divergence="means")
    assert path.adversarial.min() > 0
    assert path.adversarial.max() < 1  # no bound is in the way
    for weight, changed in zip(penalties.tolist(), path.adversarial, strict=True):
        expected = torch.stack([closed_form(model.gain, b, weight) for b in model.gap(x, target)])
        torch.testing.assert_close((changed - x).flatten(1), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(path.start, (model.gap(x, target) ** 2).sum(1))
    left = model.gap(path.adversarial.view(-1, 1, 4, 4), target.repeat(6, 1, 1, 1))
    torch.testing.assert_close(path.divergence, (left**2).sum(1).view(6, 4))
    torch.testing.assert_close(path.distance, (path.adversarial - x).flatten(2).norm(dim=2))


def test_the_farther_the_cheaper_and_the_nearer_the_dearer():
    model, x, target = Linear(), rand(4), rand(4, 1)
    path = attack(model, x, target, penalties=weights(0, *(2.0**c for c in range(-8, 3))), divergence="means")
    assert (path.distance.diff(dim=0) <= 1e-5).all()
    assert (path.divergence.diff(dim=0) >= -1e-8).all()
    assert (path.distance[0] > path.distance[5] + 0.01).all()
    assert (path.distance[-1] == 0).all()


@given(weight=st.floats(0.01, 0.9), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=10)
def test_the_optimality_conditions_hold_in_the_box(weight, seed):
    model, x, target = Linear(), rand(3, seed), rand(3, seed + 1).round()
    slope = 2 * (model.gap(x, target) @ model.gain).norm(dim=1).min().item()
    found = attack(model, x, target, penalties=weights(weight * slope), divergence="means", steps=300).adversarial[0]
    d = (found - x).flatten(1)
    gradient = -2 * (model.gap(found, target) @ model.gain) + weight * slope * d / d.norm(dim=1, keepdim=True)
    pixels, small = found.flatten(1), 1e-3
    inside = (pixels > 0) & (pixels < 1)
    assert gradient[inside].abs().max() < small
    assert (gradient[pixels == 0] > -small).all()
    assert (gradient[pixels == 1] < small).all()


def test_nothing_moves_where_the_penalty_exceeds_the_slope_and_something_where_it_does_not():
    model, x, target = Linear(), rand(1, 0, 0.2, 0.8), rand(1, 1)
    slope = 2 * (model.gap(x, target) @ model.gain).norm()
    path = attack(model, x, target, penalties=slope * weights(0.5, 0.98, 1.001, 1e6), divergence="means")
    assert (path.distance[:2] > 1e-3).all()
    assert (path.distance[0] > path.distance[1]).all()
    assert torch.equal(path.adversarial[2:], x.expand(2, 1, 1, 4, 4))
    assert (path.distance[2:] == 0).all()
    torch.testing.assert_close(path.divergence[2:], path.start.expand(2, 1))


@pytest.mark.parametrize("divergence", ["kl_reverse", "skl", "w2", "output"])
def test_the_path_stays_in_the_box_and_what_it_minimises_never_rises(divergence):
    model, x, target = small_net(), rand(5).round(), rand(5, 1)
    penalties = weights(0, 0.01, 0.1, 1, 2**20)
    path = attack(model, x, target, penalties=penalties, divergence=divergence, generator=seeded())
    assert path.adversarial.min() >= 0 and path.adversarial.max() <= 1
    assert (path.divergence + penalties[:, None] * path.distance <= path.start + 1e-9).all()
    assert (path.divergence[0] < path.start - 0.003).all()
    assert torch.equal(path.adversarial[-1], x)
    loss = encoder.loss(model, x, target=target, divergence=divergence, generator=seeded())
    every = torch.arange(5)
    torch.testing.assert_close(path.start, loss(x, every))
    torch.testing.assert_close(path.divergence[1], loss(path.adversarial[1], every))
    assert path.gradient_calls.shape == (5, 5)
    assert (path.gradient_calls[0] > 2).all()
    assert torch.equal(path.penalties, penalties)


def test_the_minima_are_as_low_as_scipys():
    model, x, target = small_net(), rand(5), rand(5, 1)
    delta = encoder.loss(model, x, target=target, divergence="kl_reverse")
    for weight in (0.02, 0.1, 0.3):
        path = attack(model, x, target, penalties=weights(weight), steps=300)

        def total(x_adv, i, weight=weight):
            return delta(x_adv, i) + weight * (x_adv - x[i]).flatten(1).norm(dim=1)

        ends, least = scipys(total, x, gtol=1e-7, ftol=0, maxiter=1000)
        ours = path.divergence[0] + weight * path.distance[0]
        torch.testing.assert_close(ours, least, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(path.adversarial[0], ends, rtol=0, atol=5e-3)
    assert (ours < path.start - 0.01).any()


def test_a_batch_of_penalties_and_pairs_equals_its_members():
    model = small_net()
    x = rand(3)
    target = rand(3, 1)
    penalties = weights(0, 0.03, 0.3)
    path = attack(model, x, target, penalties=penalties, steps=15)
    chunked = attack(model, x, target, penalties=penalties, steps=15, chunk=2)
    torch.testing.assert_close(chunked.adversarial, path.adversarial, rtol=0, atol=1e-6)
    torch.testing.assert_close(chunked.start, path.start)
    for k in range(3):
        for i in range(3):
            one = attack(model, x[[i]], target[i], penalties=penalties[[k]], steps=15)
            torch.testing.assert_close(one.adversarial[0, 0], path.adversarial[k, i], rtol=0, atol=1e-6)
            torch.testing.assert_close(one.divergence[0, 0], path.divergence[k, i], rtol=1e-5, atol=1e-8)


def test_a_name_is_a_target_and_float32_is_kept():
    model, x = small_net().float(), rand(2).float()
    named = attack(model, x, "black", penalties=torch.tensor([0, 1]), steps=5)
    given = attack(model, x, torch.zeros(1, 4, 4), penalties=torch.tensor([0.0, 1.0]), steps=5)
    assert torch.equal(named.adversarial, given.adversarial)
    assert named.adversarial.dtype == torch.float32


def test_layers_of_a_seatbelt_are_attacked():
    torch.manual_seed(0)
    model = seatbelt(image_shape=(1, 4, 4), latent_dim=2, layers=2, size=100, net="mlp").eval()
    x, target = rand(2).float(), rand(2, 1).float()
    lower, upper = (encoder.of_layers("kl_reverse", [i]) for i in (1, 2))
    for divergence in (lower, "output"):
        shared = {"target": target, "divergence": divergence, "generator": seeded()}
        path = attack(model, x, penalties=torch.tensor([0.0, 1e6]), steps=15, **shared)
        assert (path.divergence[0] < path.start).all()
        assert torch.equal(path.adversarial[1], x)
    measure = encoder.loss(model, x, target=target, divergence=lower)
    first, second = (attack(model, x, target, penalties=torch.zeros(1), divergence=d, steps=15) for d in (lower, upper))
    torch.testing.assert_close(first.divergence[0], measure(first.adversarial[0], torch.arange(2)))
    assert (first.divergence[0] < measure(second.adversarial[0], torch.arange(2))).all()


def test_the_documents_grid():
    grid = penalty_grid()
    assert grid.shape == (51,)
    assert grid[:2].tolist() == [0, 2**-20]
    assert grid[-1] == 2**20
    torch.testing.assert_close(grid[1:].log2().diff(), torch.full((49,), 40 / 49), rtol=0, atol=1e-4)
    assert penalty_grid(3).tolist() == [0, 2**-20, 1, 2**20]
    with pytest.raises(ValueError, match="count: a whole number ≥ 1 expected, got 1.5"):
        penalty_grid(1.5)


def test_the_interpolation_goes_the_given_way_straight_to_the_target_and_no_further():
    x, target = rand(4), rand(4, 1)
    full = (target - x).flatten(1).norm(dim=1)
    share = weights(0, 0.3, 1, 7)
    mixed = interpolation(x, target, share[:, None] * full)
    expected = x + share.clamp_max(1)[:, None, None, None, None] * (target - x)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close((mixed - x).flatten(2).norm(dim=2), share.clamp_max(1)[:, None] * full)
    torch.testing.assert_close(mixed[2], target)
    assert torch.equal(mixed[0], x)
    torch.testing.assert_close(interpolation(x, target, 0.3 * full), mixed[1])


def test_the_interpolation_of_an_image_with_itself_is_the_image_and_one_image_serves_all():
    x = rand(3)
    assert torch.equal(interpolation(x, x, weights(0, 1, torch.inf)), x)
    torch.testing.assert_close(interpolation(x, torch.ones(1, 4, 4), torch.full((3,), 100.0)), torch.ones_like(x))


def test_a_saturated_encoder_is_said_and_an_image_that_is_its_target_is_not_stuck():
    class Saturated(Linear):
        def posterior(self, x):
            inner = super().posterior(x)
            return type(inner)(torch.tanh(1e4 * inner.mean), inner.logvar)

    x = rand(3)
    target = torch.stack([1 - x[0], x[1], 1 - x[2]])
    with pytest.warns(UserWarning, match=r"2 of 3 inputs \(67%\)"):
        path = attack(Saturated(), x, target, penalties=weights(0, 0.1))
    assert path.stuck.tolist() == [True, False, True]
    assert torch.equal(path.adversarial[0], x)
    assert not attack(Linear(), x, target, penalties=weights(0, 0.1)).stuck.any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"penalties": weights(1, -0.1)}, r"penalties: weights ≥ 0 expected, got \[1.0, -0.1\]"),
        ({"penalties": weights(torch.nan)}, "penalties: NaN or infinite"),
        ({"penalties": torch.ones(1, 2)}, r"penalties: .* \(N,\), expected, got shape \(1, 2\)"),
        ({"penalties": torch.tensor(1.0)}, r"penalties: .* \(N,\), expected"),
        ({"penalties": [0.0, 1.0]}, r"penalties: a torch tensor \(N,\) expected, got list"),
        ({"divergence": "classifier"}, "classifier"),
        ({"target": None}, "target: black, white, noise, inverted or images expected, got None"),
        ({"model": small_net().train()}, "training mode"),
    ],
)
def test_bad_arguments_are_refused(wrong, says):
    good = {"model": Linear(), "x": rand(2), "target": torch.zeros(1, 4, 4), "penalties": torch.ones(2)}
    with pytest.raises((TypeError, ValueError), match=says):
        attack(**good | wrong)


@pytest.mark.parametrize("distance", [torch.ones(3), torch.tensor(1.0), weights(1, -1), weights(1, torch.nan)])
def test_bad_lengths_are_refused(distance):
    with pytest.raises(ValueError, match=r"distance: lengths ≥ 0 of shape \(2,\) or \(K, 2\) expected"):
        interpolation(rand(2), torch.zeros(1, 4, 4), distance)


def test_noise_is_no_target_of_the_control():
    with pytest.raises(ValueError, match="target: the attack's noise as images expected, got 'noise'"):
        interpolation(rand(2), "noise", torch.ones(2))
