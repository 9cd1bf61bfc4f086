"""The forward KL: which posterior it finds, which weights each half of the loss reaches, and what its targets are."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import binary_cross_entropy_with_logits

import vaenb.models.forward_kl
from tests.oracles import seeded
from vaenb.checkpoints import trained
from vaenb.data import load
from vaenb.defences.repair import repair
from vaenb.distributions import DiagonalGaussian
from vaenb.metrics.likelihood import elbo, iwae
from vaenb.models import VAE
from vaenb.models.forward_kl import TARGETS, ForwardKLVAE, forward_kl_vae
from vaenb.models.likelihoods import (
    Gaussian,
)

SMALL = {"image_shape": (1, 8, 8), "latent_dim": 3, "net": "mlp", "width": 0.05}
CONV = {"image_shape": (1, 16, 16), "latent_dim": 3, "net": "conv001", "width": 0.1}  # has BatchNorm


@dataclass(frozen=True)
class Linear(Gaussian):
    """N(logits, σ²): with a linear decoder the posterior is known."""

    def mean(self, logits):
        return logits

    def log_prob(self, x, logits):
        return Normal(logits, self.sigma).log_prob(x).flatten(1).sum(1)


PRECISION = torch.tensor([[3.0, 2.0], [2.0, 4.0]])  # of p(z|x) below
SIGMA, S, B = PRECISION.inverse(), 0.5, 0.3
W = torch.zeros(4, 2)
W[:2] = S * torch.linalg.cholesky(PRECISION - torch.eye(2)).T  # so that I + WᵀW/s² = Λ


def linear(variance, kind=ForwardKLVAE, shift=0.0, **settings):
    """p(x|z) = N(Wz + b, s²I), with an encoder that is `shift` off the posterior's means and has these variances."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    shapes = {"image_shape": (1, 2, 2), "latent_dim": 2}
    model = kind(encoder=encoder, decoder=decoder, likelihood=Linear(sigma=S), **shapes, **settings)
    gain = SIGMA @ W.T / S**2
    with torch.no_grad():
        decoder[0].weight.copy_(W), decoder[0].bias.fill_(B)
        encoder[1].weight.copy_(torch.cat([gain, torch.zeros(2, 4)]))
        encoder[1].bias.copy_(torch.cat([shift - gain.sum(1) * B, variance.log()]))
    return model


def images(n, g):
    """Draws of p(x)."""
    x = torch.randn(n, 2, generator=g) @ W.T + B + S * torch.randn(n, 4, generator=g)
    return x.view(-1, 1, 2, 2)


def encoder_trained(model, batch_size, steps=100):
    g = seeded()
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.losses(images(batch_size, g), None, g)["loss"].backward()
        optimizer.step(), schedule.step()
    return model


def built(**config):
    torch.manual_seed(0)
    return forward_kl_vae(**config)


@pytest.fixture
def record(monkeypatch):
    """The codes and images of every log p(x|z) that was asked for, and the states of every chain."""
    seen, likelihood, transition = (
        {"x": [], "z": [], "states": []},
        VAE.log_likelihood,
        vaenb.models.forward_kl.transition,
    )

    def spied(self, x, z):
        seen["x"].append(x), seen["z"].append(z)
        return likelihood(self, x, z)

    def moved(*arguments):
        result = transition(*arguments)
        seen["states"].append(result[0].z)
        return result

    monkeypatch.setattr(VAE, "log_likelihood", spied)
    monkeypatch.setattr(vaenb.models.forward_kl, "transition", moved)
    return seen


@pytest.mark.parametrize(("targets", "samples", "batch_size"), [("wake", 64, 128), ("hmc", 4, 256)], ids=TARGETS)
def test_the_forward_kl_finds_the_means_and_the_variances_of_a_correlated_posterior(targets, samples, batch_size):
    elbos = 1 / PRECISION.diagonal()
    model = encoder_trained(linear(elbos, shift=0.4, targets=targets, samples=samples), batch_size)
    x = images(500, seeded(1))
    q = model.posterior(x)
    torch.testing.assert_close((q.stddev**2).mean(0), SIGMA.diagonal(), rtol=0.07, atol=0)  # .5, .375
    exact = (x.flatten(1) - B) @ (SIGMA @ W.T / S**2).T
    assert (q.mean - exact).abs().max() < 0.15


def test_the_elbo_finds_smaller_variances():
    model = encoder_trained(linear(SIGMA.diagonal(), VAE, shift=0.4), batch_size=512)
    variance = model.posterior(images(500, seeded(1))).stddev ** 2
    torch.testing.assert_close(variance.mean(0), 1 / PRECISION.diagonal(), rtol=0.03, atol=0)  # .33, .25


@pytest.mark.parametrize("targets", TARGETS)
def test_each_half_of_the_loss_has_its_own_weights(targets):
    model, x = (
        built(targets=targets, likelihood="learned_gaussian", **SMALL),
        torch.rand(5, 1, 8, 8, generator=seeded(9)),
    )
    losses = model.losses(x, None, seeded())
    theta = [*model.decoder.parameters(), *model.likelihood.parameters()]
    phi = list(model.encoder.parameters())
    gradients = {
        (name, whose): torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True)
        for name in ("nll", "forward_kl", "loss")
        for whose, weights in (("theta", theta), ("phi", phi))
    }
    assert all(g is None for g in gradients["nll", "phi"] + gradients["forward_kl", "theta"])
    for half, whose in (("nll", "theta"), ("forward_kl", "phi")):
        assert all(torch.equal(a, b) for a, b in zip(gradients["loss", whose], gradients[half, whose], strict=True))
    assert not losses["kl"].requires_grad


@pytest.mark.parametrize("targets", TARGETS)
def test_the_decoders_gradient_is_that_of_the_negative_elbo(targets, record):
    model, x = built(targets=targets, **SMALL), torch.rand(5, 1, 8, 8, generator=seeded(9))
    losses = model.losses(x, None, seeded())
    losses["loss"].backward()
    z, q = record["z"][-1], model.posterior(x)
    bound = binary_cross_entropy_with_logits(model.decoder(z), x, reduction="sum") / 5
    bound = bound + torch.distributions.kl_divergence(Normal(q.mean, q.stddev), Normal(0, 1)).sum() / 5
    torch.testing.assert_close(losses["nll"] + losses["kl"], bound)
    expected = torch.autograd.grad(bound, list(model.decoder.parameters()))
    for p, gradient in zip(model.decoder.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def encoder_gradients_agree(model, forward_kl, expected):
    torch.testing.assert_close(forward_kl, expected)
    phi = list(model.encoder.parameters())
    for a, b in zip(torch.autograd.grad(forward_kl, phi), torch.autograd.grad(expected, phi), strict=True):
        torch.testing.assert_close(a, b)


def test_wake_is_the_weighted_log_density_of_draws():
    K, N = 7, 5
    model, x = built(samples=K, **SMALL), torch.rand(N, 1, 8, 8, generator=seeded(9))
    losses = model.losses(x, None, seeded())
    q = Normal(model.posterior(x).mean, model.posterior(x).stddev)
    z = (q.mean + q.stddev * torch.randn(K * N, 3, generator=seeded()).view(K, N, 3)).detach()
    log_p = torch.stack([-binary_cross_entropy_with_logits(model.decoder(c), x, reduction="none") for c in z])
    log_w = log_p.sum((2, 3, 4)) + Normal(0, 1).log_prob(z).sum(2) - q.log_prob(z).sum(2)
    w = (log_w.exp() / log_w.exp().sum(0)).detach()
    torch.testing.assert_close(losses["ess"], (1 / (w**2).sum(0)).mean())
    encoder_gradients_agree(model, losses["forward_kl"], -(w * q.log_prob(z).sum(2)).sum(0).mean())


def test_hmc_is_the_log_density_of_the_chains_ends(record):
    model, x = built(targets="hmc", samples=4, **SMALL), torch.rand(5, 1, 8, 8, generator=seeded(9))
    losses = model.losses(x, None, seeded())
    q, z = model.posterior(x), record["states"][-1]
    assert len(record["states"]) == 4 and not torch.equal(z, record["states"][0])
    encoder_gradients_agree(model, losses["forward_kl"], -Normal(q.mean, q.stddev).log_prob(z).sum(1).mean())


def test_of_the_exact_posterior_every_draw_counts_alike():
    model = linear(torch.ones(2), samples=9)
    with torch.no_grad():
        model.decoder[0].weight.zero_()  # then p(z|x) = p(z)
        model.encoder[1].weight.zero_(), model.encoder[1].bias.zero_()
    losses = model.losses(images(50, seeded()), None, seeded())
    assert losses["ess"].item() == pytest.approx(9, rel=1e-5)
    assert losses["forward_kl"].item() == pytest.approx(2 * 1.4189, abs=0.2)  # the entropy of N(0, I)


def test_of_a_far_posterior_one_draw_is_all_there_is():
    model = linear(SIGMA.diagonal(), samples=9)
    with torch.no_grad():
        model.encoder[1].bias[:2] += 100
    assert model.losses(images(50, seeded()), None, seeded())["ess"].item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("targets", TARGETS)
def test_batchnorm_moves_once_and_by_the_codes_of_the_elbo(targets, record):
    model, x = built(targets=targets, samples=2, **CONV).train(), torch.rand(8, 1, 16, 16, generator=seeded(9))
    twin = built(**CONV).train()
    model.losses(x, None, seeded())
    twin.decoder(record["z"][-1])
    assert all(m.training for m in model.modules())
    for part in (model.decoder, model.encoder):
        assert {v.item() for k, v in part.state_dict().items() if "tracked" in k} == {1}
    for name, value in twin.decoder.state_dict().items():
        torch.testing.assert_close(model.decoder.state_dict()[name], value)


@pytest.mark.parametrize("targets", TARGETS)
def test_the_targets_of_an_image_do_not_depend_on_the_others(targets):
    def first_gradient(x):
        model = built(targets=targets, samples=3, **CONV).train()
        outputs = model.encoder.eval()(x)
        model.posterior = lambda _: DiagonalGaussian(*outputs.chunk(2, 1))
        return torch.autograd.grad(model.losses(x, None, seeded())["forward_kl"], outputs)[0][0]

    x = torch.rand(4, 1, 16, 16, generator=seeded())
    torch.testing.assert_close(first_gradient(x), first_gradient(torch.cat([x[:1], 1 - x[1:]])))


@pytest.mark.parametrize("targets", TARGETS)
def test_the_decoder_trains_again_after_an_error(targets, monkeypatch):
    def broken(*_):
        raise RuntimeError("no decoder today")

    model, x = built(targets=targets, **CONV).train(), torch.rand(4, 1, 16, 16, generator=seeded(9))
    monkeypatch.setattr(model.decoder, "forward", broken)
    with pytest.raises(RuntimeError, match="no decoder today"):
        model.losses(x, None, seeded())
    assert all(m.training for m in model.modules())


def test_the_step_size_is_learnt_in_training_and_left_alone_at_rest():
    model, x = built(targets="hmc", samples=2, **SMALL), torch.rand(8, 1, 8, 8, generator=seeded(9))
    model.step_size.fill_(1e-3)
    rate = model.train().losses(x, None, seeded())["accept_rate"].item()
    assert rate > 0.99 and model.step_size.item() == pytest.approx(1e-3 * 2.71828 ** (0.5 * (rate - 0.8)))
    first, second = (model.eval().losses(x, None, seeded()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "step_size" not in model.state_dict()


@pytest.mark.parametrize(("targets", "more"), [("wake", {"ess"}), ("hmc", {"accept_rate"})], ids=TARGETS)
def test_trained_models_come_from_the_store_and_meet_the_contract(targets, more, tmp_path):
    data = load("digits", split="train", limit=64)
    config = {"targets": targets, "samples": 2, **SMALL}
    settings = {"epochs": 2, "batch_size": 32, "progress": False}
    (model, history), (same, _) = (
        trained(forward_kl_vae, config, data, folder=tmp_path / name, **settings) for name in "ab"
    )
    (stored, _) = trained(forward_kl_vae, config, data, folder=tmp_path / "a", **settings)
    assert set(history.epochs[0]) == {"loss", "nll", "kl", "forward_kl"} | more
    assert history.epochs[1]["loss"] < history.epochs[0]["loss"]
    for other in (same, stored):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert stored.targets == targets and not stored.training
    x = data.float()[:8]
    assert (iwae(stored, x, samples=64, generator=seeded()) >= elbo(stored, x, generator=seeded()) - 1).all()
    assert repair(stored, x, num_samples=1, warmup=1).last.shape == (8, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": "dream"}, "targets: one of wake, hmc expected, got 'dream'"),
        ({"samples": 1}, "samples: a whole number ≥ 2 expected, got 1"),
        ({"samples": 4.0}, "samples: a whole number ≥ 2 expected, got 4.0"),
        ({"beta": 4.0}, r"regularizer: kl with beta=1, .* got KL\(beta=4.0\)"),
        ({"regularizer": "mmd"}, r"regularizer: kl with beta=1, .* got MMD\(beta=1.0\)"),
        ({"net": "resnet"}, "net: one of"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        forward_kl_vae(**{**SMALL, **change})
