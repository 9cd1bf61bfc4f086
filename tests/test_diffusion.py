"""Diffusion models against the papers' formulas, with networks that are the exact predictors of known data."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp
from torch import nn

from tests.oracles import seeded
from vaenb import checkpoints
from vaenb.checkpoints import trained
from vaenb.data import load
from vaenb.models import DAED, DDGM, ddgm, denoiser
from vaenb.models.diffusion import cosine, linear, snr
from vaenb.models.unet import UNet
from vaenb.training import fit

SHAPE = (1, 8, 8)
SMALL = {"image_shape": SHAPE, "steps": 40, "channels": 8}


class Exact(nn.Module):
    """E[ε | x_t] where every pixel of the data is N(mean, std²) in [−1, 1] units; it notes what it was asked."""

    def __init__(self, levels, mean=0.1, std=0.2):
        super().__init__()
        self.levels, self.mean, self.std, self.asked = levels, mean, std, []

    def forward(self, x, t):
        self.asked.append((x, (t * (len(self.levels) - 1)).round().long()))
        level = self.levels[self.asked[-1][1]].to(x.dtype)[:, None, None, None]
        return (1 - level).sqrt() * (x - level.sqrt() * self.mean) / (level * self.std**2 + 1 - level)


def exact(levels, **data) -> DDGM:
    return DDGM(Exact(levels, **data), levels, image_shape=SHAPE)


def exact_denoiser(beta_1, **data) -> DDGM:
    return exact(torch.tensor([1, 1 - beta_1], dtype=torch.float64), **data)


def awake(model: nn.Module) -> nn.Module:
    """Weights as if trained: a new U-Net predicts zeros."""
    for k, weight in enumerate(model.parameters()):
        weight.data += 0.1 * torch.randn(weight.shape, generator=seeded(k), dtype=weight.dtype)
    return model.eval()


def images(n=3, shape=SHAPE):
    return torch.rand(n, *shape, generator=seeded(3))


def noise(n=3, seed=4):
    return torch.randn(n, *SHAPE, generator=seeded(seed))


@pytest.fixture(autouse=True)
def new_networks_are_always_the_same():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return awake(ddgm(**SMALL))


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train", limit=256)


# The schedules


@pytest.mark.parametrize("T", [21, 200, 1000])
def test_linear_is_the_product_of_evenly_rising_betas_scaled_by_a_thousandth(T):
    betas = np.linspace(1e-4, 0.02, T) * 1000 / T
    reference = np.concatenate([[1], np.cumprod(1 - betas)])
    np.testing.assert_allclose(linear(T).numpy(), reference, rtol=1e-9)
    ours = 1 - linear(T)[1:] / linear(T)[:-1]
    assert (ours[-1] / ours[0]).item() == pytest.approx(200)
    assert linear(T, start=1e-3)[1].item() == pytest.approx(1 - 1 / T)


def test_linear_of_a_thousand_steps_ends_where_ho_et_al_end():
    assert linear(1000)[-1].item() == pytest.approx(4.04e-5, rel=2e-3)
    assert linear(1000)[1].item() == pytest.approx(0.9999)


@pytest.mark.parametrize("T", [50, 1000])
def test_cosine_is_the_squared_cosine_until_beta_reaches_its_bound(T):
    level = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    reference = [level(t / T) / level(0) for t in range(T)]
    np.testing.assert_allclose(cosine(T)[:-1].numpy(), reference, rtol=1e-9)
    assert (1 - cosine(T)[-1] / cosine(T)[-2]).item() == pytest.approx(0.999)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_first_replaces_the_first_beta_alone(schedule):
    plain, other = schedule(100), schedule(100, first=0.1)
    assert other[1].item() == pytest.approx(0.9)
    torch.testing.assert_close(other[1:] / other[1], plain[1:] / plain[1])


@pytest.mark.parametrize("T", [100, 1000, 4000])
def test_a_tenth_of_the_way_leaves_most_of_the_signal(T):
    left = math.exp(-(0.1 * 0.1 + 19.9 * 0.1**2 / 2))  # exp −∫β of the linear schedule in continuous time
    assert snr(linear(T))[T // 10].item() == pytest.approx(left / (1 - left), rel=0.1)
    assert snr(cosine(T))[T // 10].item() == pytest.approx(34.9, rel=1e-2)
    assert snr(linear(T))[0] == math.inf and (snr(cosine(T)).diff() < 0).all()


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(21, 3000),
    schedule=st.sampled_from([linear, cosine]),
    first=st.one_of(st.none(), st.floats(1e-6, 0.99)),
)
def test_every_schedule_falls_from_one_and_stays_above_zero(T, schedule, first):
    levels = schedule(T, first=first)
    assert len(levels) == T + 1 and levels.dtype == torch.float64
    assert levels[0] == 1 and levels[-1] > 0 and (levels.diff() < 0).all()
    assert DDGM(nn.Identity(), levels, image_shape=SHAPE).steps == T


# The way to noise


@pytest.mark.parametrize("t", [0, 1, 17, 40])
def test_noised_has_the_mean_and_variance_of_the_direct_draw(net, t):
    x = images(1).expand(20_000, -1, -1, -1)
    x_t, level = net.noised(x, t, generator=seeded()), linear(40)[t].item()
    torch.testing.assert_close(x_t.mean(0), math.sqrt(level) * (2 * x[0] - 1), rtol=0, atol=0.03)
    torch.testing.assert_close(x_t.var(0), torch.full(SHAPE, 1 - level), rtol=0.06, atol=1e-9)
    torch.testing.assert_close(net.dimmed(x[:1], t), math.sqrt(level) * (2 * x[:1] - 1))


def test_steps_taken_one_after_another_are_the_direct_draw_in_distribution():
    model, x, g = exact(linear(60)), torch.full((300, *SHAPE), 0.8), np.random.default_rng(0)
    chain = np.full(x.numel(), 0.6)
    for beta in (np.linspace(1e-4, 0.02, 60) * 1000 / 60)[:25]:
        chain = np.sqrt(1 - beta) * chain + np.sqrt(beta) * g.standard_normal(chain.shape)
    assert ks_2samp(chain, model.noised(x, 25, generator=seeded()).flatten()).pvalue > 0.05
    assert ks_2samp(chain, model.noised(x, 26, generator=seeded()).flatten()).pvalue < 1e-3


def test_each_image_may_have_its_own_step(net):
    x, steps = images(), torch.tensor([0, 5, 40])
    together = net.noised(x, steps, generator=seeded())
    for i, t in enumerate(steps.tolist()):
        torch.testing.assert_close(together[i], net.noised(x, t, generator=seeded())[i])


# The loss


def test_the_loss_of_the_exact_predictor_is_the_variance_that_x_t_leaves_to_the_noise():
    model = exact(linear(25))
    x = ((1.1 + 0.2 * torch.randn(20_000, *SHAPE, generator=seeded(1))) / 2).clamp(0, 1)
    loss = model.losses(x, torch.zeros(len(x)), seeded())["loss"]
    steps = model.net.asked[0][1]
    levels = linear(25)[steps]
    left = levels * 0.04 / (levels * 0.04 + 1 - levels)
    assert loss.item() == pytest.approx(left.mean().item(), rel=0.01)
    counts = steps.bincount(minlength=26)
    assert counts[0] == 0 and chisquare(counts[1:]).pvalue > 0.05  # every step from 1 to T alike


def test_a_new_network_predicts_zeros_so_that_its_loss_is_the_noise_itself():
    loss = ddgm(**SMALL).losses(images(500), torch.zeros(500), seeded())["loss"]
    assert loss.item() == pytest.approx(1, abs=0.02)


def test_a_few_epochs_lower_the_loss_of_a_ddgm_and_of_a_denoiser(digits):
    for model in (ddgm(**SMALL), denoiser(image_shape=SHAPE, beta_1=0.2, channels=8)):
        history = fit(model, digits, epochs=3, batch_size=32, lr=1e-2, ema=0.99, progress=False)
        assert history.epochs[0]["loss"] < 1.1 and history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]


# The way back, one step


@pytest.mark.parametrize("t", [2, 20, 60])
def test_an_ancestral_step_is_the_posterior_of_ho_et_al(t):
    """q(x_{t−1} | x_t, x_0) = N(μ̃, β̃), their equations 6 and 7, at the x_0 of a point mass."""
    betas = np.linspace(1e-4, 0.02, 60) * 1000 / 60
    now, before, beta, x_0 = np.prod(1 - betas[:t]), np.prod(1 - betas[: t - 1]), betas[t - 1], 0.4
    mean = (math.sqrt(before) * beta * x_0 + math.sqrt(1 - beta) * (1 - before) * noise()) / (1 - now)
    variance = (1 - before) / (1 - now) * beta
    step = exact(linear(60), mean=x_0, std=0.0).reverse(noise(), t, t - 1, generator=seeded())
    torch.testing.assert_close(step, mean + math.sqrt(variance) * noise(seed=0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_over_many_is_that_of_song_et_al(eta):
    """Their equation 12 with the σ of equation 16, for a predicted noise of .5 everywhere."""
    high, low = linear(60)[12].item(), linear(60)[3].item()
    model = DDGM(lambda_net(lambda x: torch.full_like(x, 0.5)), linear(60), image_shape=SHAPE)
    x = 0.3 * noise().clamp(-1, 1)
    image = (x - math.sqrt(1 - high) * 0.5) / math.sqrt(high)
    sigma = eta * math.sqrt((1 - low) / (1 - high)) * math.sqrt(1 - high / low)
    mean = math.sqrt(low) * image + math.sqrt(1 - low - sigma**2) * 0.5
    step = model.reverse(x, 12, 3, evaluations=1, eta=eta, generator=seeded())
    assert image.abs().max() < 1
    torch.testing.assert_close(step, mean + sigma * noise(seed=0), rtol=0, atol=1e-5)


def test_a_guess_outside_the_box_is_clipped_before_it_is_used():
    model = DDGM(lambda_net(torch.zeros_like), linear(60), image_shape=SHAPE)
    x = torch.full((2, *SHAPE), 3.0)
    high, low = linear(60)[30].item(), linear(60)[29].item()
    rest = (3 - math.sqrt(high)) / math.sqrt(1 - high)
    expected = math.sqrt(low) + math.sqrt(1 - low) * rest
    torch.testing.assert_close(model.reverse(x, 30, 29, eta=0.0), torch.full_like(x, expected))
    assert torch.equal(model.denoise(x, 30, evaluations=1), torch.ones_like(x))


def lambda_net(function) -> nn.Module:
    class Net(nn.Module):
        def forward(self, x, t):
            return function(x)

    return Net()


# The way back, whole walks


@pytest.mark.parametrize(("eta", "least"), [(1.0, 0.96), (0.0, 0.98)])
def test_a_thousand_steps_from_noise_end_in_the_distribution_of_the_data(eta, least):
    x = 2 * exact(linear(1000)).sample(256, eta=eta, generator=seeded()) - 1
    assert x.mean().item() == pytest.approx(0.1, abs=0.005)
    assert least * 0.04 < x.var().item() / 0.983 < 1.02 * 0.04  # steps of finite size lose 2 to 4 %
    assert abs(((x - x.mean()) / x.std()).pow(4).mean().item() - 3) < 0.15  # a Gaussian's


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("evaluations", [None, 1, 2, 7, 39, 40, 1000])
def test_all_walks_end_at_a_point_mass(evaluations, eta):
    model = exact(linear(40), mean=0.4, std=0.0)
    found = model.denoise(noise().double(), 40, evaluations=evaluations, eta=eta, generator=seeded())
    torch.testing.assert_close(found, torch.full_like(found, 0.7))
    assert len(model.net.asked) == min(evaluations or 40, 40)


def test_the_calls_of_a_short_walk_are_evenly_spaced():
    model = exact(linear(40))
    model.reverse(noise(), 40, 0, evaluations=8)
    assert [t[0].item() for _, t in model.net.asked] == [40, 34, 29, 23, 18, 12, 7, 1]
    model.reverse(noise(), 11, 0, evaluations=3)
    assert [t[0].item() for _, t in model.net.asked[8:]] == [11, 6, 1]
    assert all((t == t[0]).all() and len(t) == 3 for _, t in model.net.asked)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_walk_calls_the_network_so_often_each_time_at_an_earlier_step(data):
    t = data.draw(st.integers(1, 40))
    s, evaluations = data.draw(st.integers(0, t - 1)), data.draw(st.integers(1, 50))
    model = exact(linear(40))
    model.reverse(noise(1), t, s, evaluations=evaluations, eta=0.0)
    steps = [step.item() for _, step in model.net.asked]
    assert len(steps) == min(evaluations, t - s) and steps[0] == t and steps[-1] > s
    assert sorted(set(steps), reverse=True) == steps


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_walk_in_two_parts_is_the_whole(net, eta):
    whole = net.reverse(noise(), 12, generator=seeded(), eta=eta)
    g = seeded()
    parts = net.reverse(net.reverse(noise(), 12, 5, generator=g, eta=eta), 5, generator=g, eta=eta)
    assert torch.equal(whole, parts) and whole.abs().max() <= 1
    torch.testing.assert_close(net.denoise(noise(), 12, generator=seeded(), eta=eta), (whole + 1) / 2)


def test_ddim_draws_nothing_and_a_batch_is_its_members(net):
    g = seeded()
    state, batch = g.get_state(), net.denoise(noise(), 20, evaluations=5, eta=0.0, generator=g)
    assert torch.equal(g.get_state(), state)
    alone = torch.cat([net.denoise(x, 20, evaluations=5, eta=0.0) for x in noise().split(1)])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_a_walk_is_differentiable_in_its_start():
    model = awake(DDGM(UNet((1, 4, 4), channels=8, blocks=1), linear(40), image_shape=(1, 4, 4))).double()
    x = 0.1 * torch.randn(1, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    for eta in (0.0, 1.0):
        walk = lambda x: model.reverse(x, 4, evaluations=2, eta=eta, generator=seeded())  # noqa: B023, E731
        assert walk(x).abs().max() < 1  # nothing is clipped
        assert torch.autograd.gradcheck(walk, x.requires_grad_(), atol=1e-6)


def test_samples_are_images_and_seeds_repeat_them(net):
    draw = lambda seed, **walk: net.sample(5, evaluations=4, generator=seeded(seed), **walk)  # noqa: E731
    one = draw(0)
    assert one.shape == (5, *SHAPE) and one.min() >= 0 and one.max() <= 1 and one.std() > 0.1
    assert torch.equal(one, draw(0)) and not torch.equal(one, draw(1)) and not one.requires_grad
    torch.testing.assert_close(draw(0, eta=0.0, chunk=2), draw(0, eta=0.0), rtol=0, atol=1e-3)


def test_step_zero_is_the_image_already(net):
    x = images()
    torch.testing.assert_close(net.denoise(net.noised(x, 0), 0), x)


# DAED


@settings(max_examples=40, deadline=None)
@given(beta_1=st.floats(1e-6, 0.98), schedule=st.sampled_from([linear, cosine]))
def test_the_switch_is_at_the_step_with_the_denoisers_level(beta_1, schedule):
    levels = schedule(100)
    switch = DAED(exact(levels), exact_denoiser(beta_1)).switch
    assert switch == 1 + np.argmin(np.abs(levels.numpy()[1:] - (1 - beta_1)))


def test_the_first_kept_beta_leads_from_the_step_after_the_switch_to_the_denoisers_level():
    levels, beta_1, x_0 = linear(60), 0.1, 0.4
    model = DAED(exact(levels, mean=x_0, std=0.0), exact_denoiser(beta_1, mean=x_0, std=0.0))
    t = model.switch + 1
    image = model.denoise(noise(), t, generator=seeded())
    now = levels[t].item()
    beta = 1 - now / (1 - beta_1)
    mean = (math.sqrt(1 - beta_1) * beta * x_0 + math.sqrt(1 - beta) * beta_1 * noise()) / (1 - now)
    ((x_1, told),) = model.first.net.asked
    variance = beta_1 / (1 - now) * beta
    torch.testing.assert_close(x_1, mean + math.sqrt(variance) * noise(seed=0), rtol=0, atol=1e-5)
    assert (told == 1).all() and [step[0].item() for _, step in model.ddgm.net.asked] == [t]
    torch.testing.assert_close(image, torch.full_like(image, 0.7))


def test_the_ddgms_own_steps_begin_at_the_denoisers_level_and_end_at_the_data():
    levels, x_0 = linear(60), 0.4
    model = DAED(exact(levels, mean=x_0, std=0.0), exact_denoiser(0.1))
    x_1 = math.sqrt(0.9) * x_0 + math.sqrt(0.1) * noise()  # as the exact network expects it at ᾱ = .9 only
    near = levels[model.switch].item()
    told = (x_1 - math.sqrt(near) * x_0) / math.sqrt(1 - near)
    image = ((x_1 - math.sqrt(0.1) * told) / math.sqrt(0.9)).clamp(-1, 1)
    found = model.by_own_steps(x_1, evaluations=1)
    torch.testing.assert_close(found, (image + 1) / 2, rtol=0, atol=1e-5)
    walked = model.by_own_steps(x_1, generator=seeded())
    assert [t[0].item() for _, t in model.ddgm.net.asked[1:]] == list(range(model.switch, 0, -1))
    torch.testing.assert_close(walked, torch.full_like(walked, 0.7))


def test_at_a_level_of_the_schedule_its_own_steps_are_the_ddgms(net):
    switch = 7
    model = DAED(net, exact_denoiser(1 - net.alpha_bar[switch].item()))
    assert model.switch == switch
    for calls in (None, 1, 3):
        walk = {"evaluations": calls, "generator": seeded()}
        own = model.by_own_steps(noise(), **walk)
        torch.testing.assert_close(own, net.denoise(noise(), switch, **walk | {"generator": seeded()}))


def test_a_misspelt_word_is_refused_by_a_daed_as_by_a_ddgm():
    net = exact(linear(40))
    for model in (net, DAED(net, exact_denoiser(0.1))):
        with pytest.raises(TypeError, match="etta"):
            model.denoise(noise(), 40, etta=0.0)


def test_on_a_schedule_with_this_beta_a_daed_is_the_ddgm_and_the_denoiser_in_turn():
    part = awake(ddgm(**SMALL, first=0.15))
    last = awake(denoiser(image_shape=SHAPE, beta_1=0.15, channels=8))
    model = DAED(part, last)
    assert model.switch == 1
    expected = last.denoise(part.reverse(noise(), 40, 1, generator=seeded()), 1)
    torch.testing.assert_close(model.denoise(noise(), 40, generator=seeded()), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beta_1", [0.05, 0.2])
def test_a_daed_of_exact_predictors_gives_the_distribution_of_the_data_after_one_denoising(beta_1):
    model = DAED(exact(linear(1000)), exact_denoiser(beta_1))
    images = 2 * model.sample(256, generator=seeded()) - 1
    variance = (1 - beta_1) * 0.04 + beta_1
    x_1 = torch.cat([x for x, _ in model.first.net.asked])
    assert x_1.mean().item() == pytest.approx(math.sqrt(1 - beta_1) * 0.1, abs=0.005)
    assert x_1.var().item() == pytest.approx(variance, rel=0.03)
    # E[x | x_1], the one step's guess, has less variance than x: the share that x_1 explains.
    assert images.mean().item() == pytest.approx(0.1, abs=0.005)
    assert images.var().item() == pytest.approx(0.04 * (1 - beta_1) * 0.04 / variance, rel=0.03)


def test_the_calls_of_both_networks_count_and_seeds_repeat():
    model = DAED(exact(linear(40)), exact_denoiser(0.1))
    one = model.sample(3, evaluations=6, generator=seeded())
    assert len(model.ddgm.net.asked) == 5 and len(model.first.net.asked) == 1
    assert torch.equal(one, model.sample(3, evaluations=6, generator=seeded()))
    assert one.shape == (3, *SHAPE) and one.min() >= 0 and one.max() <= 1


def test_a_denoiser_takes_off_what_the_best_one_can():
    """E|x̂ − x|² of the exact predictor is the posterior's variance, s²β₁ / ((1 − β₁)s² + β₁), a quarter in pixels."""
    model = exact_denoiser(0.1)
    x = ((1.1 + 0.2 * torch.randn(1000, *SHAPE, generator=seeded(1))) / 2).clamp(0, 1)
    error = (model.denoise(model.noised(x, 1, generator=seeded()), 1) - x).square().mean()
    assert error.item() == pytest.approx(0.25 * 0.04 * 0.1 / (0.9 * 0.04 + 0.1), rel=0.02)


# The network


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("side", [4, 7, 8, 14, 16, 28, 32])
def test_a_unet_gives_the_shape_of_its_images_zeros_at_first_and_each_image_its_own(side, colors):
    x, t = images(2, (colors, side, side)), torch.tensor([0.1, 0.9])
    model = UNet((colors, side, side), channels=8, blocks=1)
    assert model(x, t).shape == x.shape and (model(x, t) == 0).all()
    together = awake(model)(x, t)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert together.std() > 0.05


def test_a_unet_uses_the_time_all_pixels_and_all_its_weights():
    model = awake(UNet((1, 16, 16), channels=8, blocks=2))
    x = images(1, (1, 16, 16)).requires_grad_()
    early, late = (model(x, torch.tensor([t])) for t in (0.01, 0.9))
    assert (early - late).abs().max() > 0.01
    early[0, 0, 0, 0].backward()
    assert (x.grad != 0).all() and all(p.grad.any() for p in model.parameters())
    assert all(p.grad.flatten(1).any(1).all() for p in model.parameters() if p.ndim > 1)  # each channel's


def test_a_unet_is_as_wide_and_as_deep_as_asked():
    count = lambda **size: sum(p.numel() for p in UNet((1, 16, 16), **size).parameters())  # noqa: E731
    assert 3.5 < count(channels=32, blocks=1) / count(channels=16, blocks=1) < 4.2
    assert 1.5 < count(channels=16, blocks=2) / count(channels=16, blocks=1) < 2
    layers = [UNet((1, side, side), channels=8, blocks=1).state_dict() for side in (4, 28, 32)]
    shrinks, attentions = ([sum(n in k for k in names) for names in layers] for n in ("shrink", "qkv.weight"))
    assert shrinks == [0, 4, 6]  # weight and bias of 28 → 14 → 7 and of 32 → 16 → 8 → 4
    assert attentions == [3, 3, 5]  # down and up where the side is at most 8, and between


def test_trained_diffusion_models_come_back_from_the_store(digits, tmp_path, monkeypatch):
    run = lambda: trained(ddgm, SMALL, digits, epochs=1, ema=0.9, folder=tmp_path, progress=False)  # noqa: E731
    model, history = run()
    monkeypatch.setattr(checkpoints, "fit", lambda *a, **k: pytest.fail("trained again"))
    again, history_again = run()
    assert history == history_again and len(list(tmp_path.glob("ddgm-*.safetensors"))) == 1
    assert torch.equal(model.alpha_bar, again.alpha_bar)
    one, other = (m.sample(2, evaluations=3, generator=seeded()) for m in (model, again))
    assert torch.equal(one, other)


# Bad input


@pytest.mark.parametrize(
    ("call", "says"),
    {
        "one step": (lambda: linear(1), "steps: a whole number ≥ 2"),
        "half a step": (lambda: cosine(2.5), "steps: a whole number ≥ 2"),
        "β_T of 1": (lambda: linear(20), r"steps=20.*|expected, as β_t is scaled"),
        "falling β": (lambda: linear(100, start=0.02, end=1e-4), "0 < start ≤ end"),
        "no β": (lambda: linear(100, start=0.0), "0 < start ≤ end"),
        "first 0": (lambda: linear(100, first=0.0), "first: the share of noise"),
        "first NaN": (lambda: cosine(100, first=math.nan), "first: the share of noise"),
        "β₁ 0": (lambda: denoiser(image_shape=SHAPE, beta_1=0.0), "beta_1: the share of noise"),
        "schedule": (
            lambda: ddgm(image_shape=SHAPE, steps=50, schedule="sine"),
            "schedule: one of linear, cosine expected, got 'sine'",
        ),
        "levels from .9": (lambda: exact(torch.tensor([0.9, 0.5])), "fall from ᾱ_0 = 1"),
        "rising levels": (lambda: exact(torch.tensor([1.0, 0.5, 0.6])), "fall from ᾱ_0 = 1"),
        "start": (
            lambda: ddgm(**SMALL, schedule="cosine", start=1e-3),
            "start: only with schedule='linear', got 0.001",
        ),
        "levels of NaN": (lambda: exact(torch.tensor([1.0, math.nan])), "fall from ᾱ_0 = 1"),
        "levels to 0": (lambda: exact(torch.tensor([1.0, 0.0])), "stay above 0"),
        "no square": (lambda: UNet((1, 8, 16), channels=8, blocks=1), "image_shape: square"),
        "a side of 3": (lambda: UNet((1, 3, 3), channels=8, blocks=1), "image_shape: .* sides of at least 4 pixels"),
        "two numbers": (
            lambda: UNet((8, 8), channels=8, blocks=1),
            r"image_shape: \(C, H, W\) .* expected, got \(8, 8\)",
        ),
        "12 channels": (lambda: UNet(SHAPE, channels=12, blocks=1), "channels: a positive multiple of 8"),
        "no block": (lambda: UNet(SHAPE, channels=8, blocks=0), "blocks: a whole number ≥ 1"),
    }.values(),
)
def test_what_cannot_be_built_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    {
        "step 41": (lambda m: m.noised(images(), 41), "t: a whole number from 0 to 40 expected, got 41"),
        "half a step": (lambda m: m.noised(images(), 1.5), "t: a whole number from 0 to 40"),
        "float steps": (lambda m: m.noised(images(), torch.ones(3)), "t: whole steps from 0 to 40"),
        "two steps": (lambda m: m.noised(images(), torch.ones(2, dtype=int)), "one for each of 3 images"),
        "steps of 41": (lambda m: m.noised(images(), torch.tensor([1, 41, 0])), "t: whole steps from 0 to 40"),
        "pixels of 2": (lambda m: m.noised(2 * images(), 3), "x: pixels in"),
        "back from 0": (lambda m: m.reverse(noise(), 0), "t: a whole number from 1 to 40"),
        "back from 41": (lambda m: m.reverse(noise(), 41), "t: a whole number from 1 to 40"),
        "forward": (lambda m: m.reverse(noise(), 3, 3), "s: a whole number from 0 to 2 expected, got 3"),
        "to −1": (lambda m: m.reverse(noise(), 3, -1), "s: a whole number from 0 to 2"),
        "eta 1.1": (lambda m: m.denoise(noise(), 3, eta=1.1), "eta: 0"),
        "eta NaN": (lambda m: m.denoise(noise(), 3, eta=math.nan), "eta: 0"),
        "no call": (lambda m: m.denoise(noise(), 3, evaluations=0), "evaluations: a whole number ≥ 1"),
        "true": (lambda m: m.noised(images(), True), "t: a whole number from 0 to 40 expected, got True"),
        "true and false": (lambda m: m.noised(images(2), torch.tensor([True, False])), "t: whole steps"),
        "another side": (lambda m: m.denoise(images(2, (1, 4, 4)), 3), r"x: a batch \(N, 1, 8, 8\) expected, got"),
        "no batch": (lambda m: m.denoise(noise()[0], 3), r"x: states \(N, C, S, S\) expected, got shape \(1, 8, 8\)"),
        "an empty batch": (lambda m: m.denoise(noise()[:0], 3), "x: the batch is empty"),
        "NaN": (lambda m: m.denoise(noise() * math.nan, 3), "x: NaN or infinite"),
        "no sample": (lambda m: m.sample(0), "count: a whole number ≥ 1"),
        "no chunk": (lambda m: m.sample(1, chunk=0), "chunk: a whole number ≥ 1"),
    }.values(),
)
def test_what_cannot_be_walked_is_refused(net, call, says):
    with pytest.raises(ValueError, match=says):
        call(net)


def test_states_of_whole_numbers_are_refused(net):
    with pytest.raises(TypeError, match="x: floats expected, got torch.int64"):
        net.denoise(torch.zeros(1, *SHAPE, dtype=int), 3)


@pytest.mark.parametrize(
    ("call", "says"),
    {
        "two DDGMs": (lambda m: DAED(m, m), "first: a denoiser, a model of one step"),
        "other colours": (
            lambda m: DAED(m, denoiser(image_shape=(3, 8, 8), beta_1=0.1, channels=8)),
            "first: a denoiser",
        ),
        "all noise": (lambda m: DAED(m, exact_denoiser(1 - 1e-7)), "as much noise as all 40 steps"),
        "the switch": (lambda m: short(m).denoise(noise(), short(m).switch), "t: a whole number from .* to 40"),
        "step 41": (lambda m: short(m).denoise(noise(), 41), "t: a whole number from .* to 40 expected, got 41"),
        "step 20.0": (lambda m: short(m).denoise(noise(), 20.0), "t: a whole number from"),
        "no call": (lambda m: short(m).sample(1, evaluations=0), "evaluations: a whole number ≥ 2"),
        "one call": (lambda m: short(m).sample(1, evaluations=1), "evaluations: a whole number ≥ 2"),
        "no sample": (lambda m: short(m).sample(0), "count: a whole number ≥ 1"),
        "NaN": (lambda m: short(m).denoise(noise() * math.nan, 40), "x: NaN or infinite"),
    }.values(),
)
def test_what_is_no_daed_is_refused(net, call, says):
    with pytest.raises(ValueError, match=says):
        call(net)


def short(model) -> DAED:
    return DAED(model, exact_denoiser(0.1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_levels_keep_their_precision_and_samples_have_the_weights(dtype):
    model = ddgm(image_shape=(1, 8, 8), steps=100, channels=8)
    levels = model.alpha_bar.clone()
    model.to(dtype).eval()
    assert model.alpha_bar.dtype == torch.float64 and torch.equal(model.alpha_bar, levels)
    assert model.sample(2, evaluations=2).dtype == dtype
