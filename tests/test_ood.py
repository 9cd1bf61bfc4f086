"""Likelihood-based scores against closed forms of a linear model, plain encoders of files, and quadrature."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from tests.oracles import LinearGaussian, images, seeded
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian
from vaenb.metrics import ood
from vaenb.metrics.detection import auroc
from vaenb.metrics.expansion import second_order
from vaenb.metrics.likelihood import elbo
from vaenb.models import deterministic_ae, hierarchical_vae, seatbelt, vae

FAMILIES = ["bernoulli", "continuous_bernoulli", "gaussian", "learned_gaussian", "discretized_logistic"]


def small(net: str = "mlp", likelihood: str = "bernoulli", size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return vae(image_shape=(1, size, size), latent_dim=3, net=net, likelihood=likelihood).eval()


class Wrong(LinearGaussian):
    """Its q(z|x) is too far out and too wide, by known amounts."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        q = super().posterior(x)
        return DiagonalGaussian(q.mean + 0.5, q.logvar + 0.4)


class Module(nn.Module, LinearGaussian):
    """The linear model with an encoder that can be refitted, at first always at N(0.3, 1)."""

    def __init__(self):
        nn.Module.__init__(self)
        LinearGaussian.__init__(self)
        self.encoder = nn.Linear(16, 6)
        nn.init.zeros_(self.encoder.weight)
        self.encoder.bias.data = torch.tensor([0.3, 0.3, 0.3, 0.0, 0.0, 0.0])

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(*self.encoder(x.flatten(1)).chunk(2, dim=1))


def gap(model: LinearGaussian, x: Tensor) -> Tensor:
    """KL[q(z|x) ‖ p(z|x)], what the best q gains."""
    return model.posterior(x).kl(LinearGaussian.posterior(model, x)).detach()


# Regret


def test_an_exact_posterior_has_no_regret():
    regret = ood.likelihood_regret(LinearGaussian(), images(), generator=seeded())
    torch.testing.assert_close(regret, torch.zeros(6), rtol=0, atol=0.005)


def test_the_regret_of_a_wrong_posterior_is_its_kl():
    model, x = Wrong(), images(40)
    regret = ood.likelihood_regret(model, x, samples=256, generator=seeded())
    torch.testing.assert_close(regret, gap(model, x), rtol=0, atol=0.6)
    assert regret.mean().item() == pytest.approx(gap(model, x).mean().item(), abs=0.05)


@pytest.mark.parametrize("count, chunk", [(6, 1), (515, 100)])
def test_no_image_knows_of_another_and_chunks_change_nothing(count, chunk):
    def scored(chunk: int) -> Tensor:
        return ood.likelihood_regret(Wrong(), images(count), steps=3, samples=2, generator=seeded(), chunk=chunk)

    torch.testing.assert_close(scored(512), scored(chunk))


def test_a_seed_gives_the_same_again_and_another_does_not():
    def scored(seed: int) -> Tensor:
        return ood.likelihood_regret(small(), torch.full((2, 1, 16, 16), 0.7), steps=3, generator=seeded(seed))

    assert scored(0).equal(scored(0))
    assert not scored(0).equal(scored(1))


def test_what_a_vae_gains_does_not_depend_on_the_road():
    model, x = small(), torch.rand(3, 1, 16, 16, generator=seeded())
    short = ood.likelihood_regret(model, x, steps=60, lr=0.1, samples=64, generator=seeded())
    long = ood.likelihood_regret(model, x, steps=200, lr=0.2, samples=64, generator=seeded())
    torch.testing.assert_close(short, long, rtol=0.1, atol=0.1)
    with torch.no_grad():
        unchanged = ood.likelihood_regret(model, x, generator=seeded())
    assert not unchanged.requires_grad and (unchanged > 0).all()
    assert all(p.grad is None for p in model.parameters())


def test_a_hierarchy_is_sent_to_the_other_regret():
    torch.manual_seed(0)
    deep = hierarchical_vae(image_shape=(1, 16, 16), channels=8, groups=((2, 1), (4, 1), (8, 1))).eval()
    belt = seatbelt(image_shape=(1, 16, 16), latent_dim=3, layers=2, size=100, net="mlp").eval()
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    for model in (deep, belt):
        with pytest.raises(NotDefined, match="hmc_regret"):
            ood.likelihood_regret(model, x)


def test_a_deterministic_autoencoder_has_no_regret():
    model, x = deterministic_ae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval(), torch.rand(2, 1, 8, 8)
    for score in (ood.likelihood_regret, ood.hmc_regret):
        with pytest.raises(NotDefined):
            score(model, x)


@pytest.mark.parametrize("model", [LinearGaussian(), Wrong()])
def test_hmc_regret_is_the_difference_of_mean_joint_log_densities(model):
    x = images(30)
    p, q = LinearGaussian().posterior(x), model.posterior(x)
    expected = gap(model, x) + 0.5 * (q.logvar - p.logvar).sum(1)  # KL and difference of entropies
    found = ood.hmc_regret(model, x, num_samples=80, samples=100, generator=seeded())
    torch.testing.assert_close(found, expected, rtol=0, atol=1.2)
    assert found.mean().item() == pytest.approx(expected.mean().item(), abs=0.15)


REGRET = [ood.likelihood_regret]
SCORES = [*REGRET, ood.hmc_regret, ood.bias_corrected]


@pytest.mark.parametrize(
    ("scores", "wrong", "error", "says"),
    [
        (SCORES, {"x": torch.rand(2, 1, 16, 16) * 255}, ValueError, "x: "),
        (SCORES, {"model": object()}, TypeError, "model: "),
        (SCORES, {"samples": 0}, ValueError, "samples: "),
        (REGRET, {"steps": 0}, ValueError, "steps: "),
        (REGRET, {"lr": 0}, ValueError, "lr: "),
        (REGRET, {"lr": math.nan}, ValueError, "lr: "),
        (REGRET, {"lr": 1e4, "steps": 5}, ValueError, "lr: the ELBO of image"),
    ],
)
def test_bad_input_is_named(scores, wrong, error, says):
    arguments = {"model": small(), "x": torch.rand(2, 1, 16, 16)} | wrong
    for score in scores:
        with pytest.raises(error, match=f"^{says}"):
            score(**arguments)


def test_an_image_alone_and_a_constant_one_have_scores():
    x = torch.zeros(1, 1, 16, 16)
    for score in SCORES:
        found = score(small(), x, generator=seeded())
        assert found.shape == (1,) and found.isfinite().all() and not found.requires_grad


# Files


def encoded(pixels: np.ndarray, codec: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=codec, **ood.CODECS[codec][1])
    return file.getvalue()


def pixels_of(x: Tensor) -> list[np.ndarray]:
    rounded = (x * 255).round().byte()
    if x.shape[1] == 1:
        return list(rounded[:, 0].numpy())
    return list(rounded.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("codec", ood.codecs())
def test_bits_are_those_of_a_plain_lossless_file(monkeypatch, codec, channels):
    x = torch.rand(3, channels, 20, 20, generator=seeded()) ** 3
    monkeypatch.setattr(ood, "codecs", lambda: (codec,))
    files = [encoded(pixels, codec) for pixels in pixels_of(x)]
    assert ood.compressed_bits(x).tolist() == [8 * len(file) for file in files]
    for file, pixels in zip(files, pixels_of(x), strict=True):
        read = Image.open(io.BytesIO(file)).convert("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.array(read), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_file_counts_and_order_makes_images_short(channels):
    noise = torch.rand(1, channels, 32, 32, generator=seeded())
    x = torch.cat([torch.full_like(noise, 0.3), noise.round(), noise])
    bits = ood.compressed_bits(x)
    assert bits.tolist() == [8 * min(len(encoded(p, codec)) for codec in ood.codecs()) for p in pixels_of(x)]
    assert bits.diff().min() > 800 and bits.dtype == torch.float64
    assert bits[2] > 8 * noise.numel() > bits[1]  # 8 bits of noise cannot be packed
    assert "PNG" in ood.codecs()


def test_images_are_rounded_to_8_bits():
    x = torch.randint(256, (2, 1, 8, 8), generator=seeded()) / 255
    near = (x + 0.4 * (2 * torch.rand(x.shape, generator=seeded()) - 1) / 255).clamp(0, 1)
    assert ood.compressed_bits(near).equal(ood.compressed_bits(x)) and near.ne(x).any()
    with pytest.raises(ValueError, match="x: one or three channels"):
        ood.compressed_bits(torch.rand(2, 2, 8, 8))


def test_input_complexity_is_in_bits_and_a_constant_of_the_density_does_not_rank():
    x, nats = images(8), -torch.linspace(10, 300, 8)
    found = ood.input_complexity(nats, x)
    torch.testing.assert_close(found, -nats.double() / math.log(2) - ood.compressed_bits(x))
    density = ood.input_complexity(nats + x[0].numel() * math.log(256), x)
    torch.testing.assert_close(density, found - 8 * x[0].numel())
    assert auroc(density[:4], density[4:]) == auroc(found[:4], found[4:])


# Scores of log likelihoods


def test_waic_is_the_unbiased_variance_less_the_mean():
    nats = torch.randn(5, 7, generator=seeded(), dtype=torch.float64) * 3 - 100
    expected = nats.numpy().var(0, ddof=1) - nats.numpy().mean(0)
    np.testing.assert_allclose(ood.waic(nats), expected)
    torch.testing.assert_close(ood.waic(nats[:1].repeat(3, 1)), -nats[0])  # models that agree are one model
    with pytest.raises(ValueError, match=r"len\(log_likelihoods\): .* ≥ 2"):
        ood.waic(nats[:1])


def test_typicality_by_hand():
    train = torch.tensor([-110.0, -90.0, -100.0])
    assert ood.typicality(torch.tensor([-100.0, -90.0, -130.0]), train).tolist() == [0, 10, 30]


NATS = torch.tensor([-9.0, -8.0, -7.0])


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (lambda v: ood.waic(v.expand(2, *v.shape)), "log_likelihoods"),
        (lambda v: ood.typicality(v, NATS), "log_likelihood"),
        (lambda v: ood.typicality(NATS, v), "train_log_likelihood"),
        (lambda v: ood.input_complexity(v, images(3)), "log_likelihood"),
    ],
)
def test_log_likelihoods_that_are_none_are_refused(score, name):
    assert score(NATS).isfinite().all()
    for bad in (NATS * math.nan, NATS - math.inf, NATS[None], NATS[:0]):
        with pytest.raises(ValueError, match=f"^{name}: "):
            score(bad)


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_the_corrected_likelihood_is_what_a_perfect_reconstruction_has_more(likelihood):
    model = small(likelihood=likelihood, size=8)
    x = torch.randint(256, (5, 1, 8, 8), generator=seeded()) / 255
    found = ood.bias_corrected(model, x, samples=2, generator=seeded())
    bound = elbo(model, x, samples=2, generator=seeded())
    torch.testing.assert_close(found, model.likelihood.best_log_prob(x) - bound)
    assert (found > 0).all()


def test_the_correction_of_a_bernoulli_by_hand():
    model, x = small(), torch.rand(4, 1, 16, 16, generator=seeded())
    entropies = -(x * x.log() + (1 - x) * (1 - x).log()).sum((1, 2, 3))
    found = ood.bias_corrected(model, x, generator=seeded())
    torch.testing.assert_close(found, -entropies - elbo(model, x, generator=seeded()))


def test_a_model_without_the_best_log_prob_is_told_what_is_needed():
    with pytest.raises(NotDefined, match=r"model\.likelihood\.best_log_prob"):
        ood.bias_corrected(LinearGaussian(), images())


# The second order


def test_a_quadratic_log_density_is_its_expansion():
    model, x, y = LinearGaussian(), images(40) * 0.6, images(30, seed=1) * 0.5 + 0.3
    found = second_order(model, x, y, samples=6000, chains=300, warmup=30, generator=seeded())
    evidence = (model.log_evidence(y).mean() - model.log_evidence(x).mean()).item()
    covariance = model.w @ model.w.T + model.s**2 * torch.eye(16)
    hessian, delta = -covariance.inverse(), (y.mean(0) - x.mean(0)).flatten()
    spread = torch.cov(y.flatten(1).T, correction=0) - torch.cov(x.flatten(1).T, correction=0)
    gradient = hessian @ (x.mean(0) - model.b).flatten()
    assert found.first == pytest.approx((gradient @ delta).item(), abs=0.1)
    assert found.shift == pytest.approx((delta @ hessian @ delta / 2).item(), abs=0.1)
    assert found.second == pytest.approx((hessian @ spread).trace().item() / 2, abs=0.1)
    assert found.predicted == pytest.approx(evidence, abs=0.1)
    assert found.measured == pytest.approx(evidence, abs=1e-3)
    assert found.ess > 2000
    assert found.rhat == pytest.approx(1, abs=0.05)


def test_pixels_that_depend_on_each_other_given_z():
    mixing = torch.eye(16) + 0.3 * torch.randn(16, 16, generator=seeded(7))

    class Correlated(LinearGaussian):
        def posterior(self, x: Tensor) -> DiagonalGaussian:  # z does not matter
            return DiagonalGaussian(torch.zeros(len(x), 3), torch.zeros(len(x), 3))

        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            density = MultivariateNormal(torch.full((16,), 0.4), mixing @ mixing.T)
            return density.log_prob(x.flatten(1)) + 0 * z.sum(1)

    model, x, y = Correlated(), images(5), images(7, seed=1).square()
    found = second_order(model, x, y, samples=600, warmup=5, generator=seeded())
    assert found.predicted == pytest.approx(found.measured, rel=1e-3) and abs(found.second) > 0.1


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_it_is_the_expansion_of_the_likelihood_integrated_over_all_latents(likelihood):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 3, 3), latent_dim=2, net="mlp", likelihood=likelihood, width=0.01)
    model = model.eval().double().requires_grad_(False)
    model.decoder[-2].weight *= 20
    x = 0.1 + 0.8 * torch.rand(9, 1, 3, 3, generator=seeded(), dtype=torch.float64)
    y = 0.1 + 0.8 * torch.rand(9, 1, 3, 3, generator=seeded(1), dtype=torch.float64) ** 2
    found = second_order(model, x, y, samples=2000, chains=200, warmup=20, generator=seeded())
    line, x0 = torch.linspace(-5, 5, 101, dtype=torch.float64), x.mean(0).flatten()
    z = torch.cartesian_prod(line, line)

    def evidence(flat: Tensor) -> Tensor:
        many = flat.view(1, 1, 3, 3).expand(len(z), -1, -1, -1)
        return (model.log_likelihood(many, z) + model.log_prior(z)).logsumexp(0) + 2 * math.log(0.1)

    gradient = torch.autograd.functional.jacobian(evidence, x0)
    hessian = torch.autograd.functional.hessian(evidence, x0)
    delta = (y.mean(0) - x.mean(0)).flatten()
    spread = torch.cov(y.flatten(1).T, correction=0) - torch.cov(x.flatten(1).T, correction=0)
    size = 0.05 * hessian.norm().item()
    shift, second = delta @ hessian @ delta / 2, (hessian @ spread).trace() / 2
    measured = elbo(model, y).mean() - elbo(model, x).mean()
    assert found.first == pytest.approx((gradient @ delta).item(), abs=0.05 * gradient.norm().item())
    assert found.shift == pytest.approx(shift.item(), abs=size * delta.dot(delta).item())
    assert found.second == pytest.approx(second.item(), abs=size * spread.norm().item())
    assert found.measured == pytest.approx(measured.item(), rel=0.1, abs=0.5)


def test_a_bernoulli_is_nowhere_concave_and_a_set_against_itself_is_nothing():
    model, x = small(), torch.rand(5, 1, 16, 16, generator=seeded())
    wider = ((x - x.mean(0)) * 1.2 + x.mean(0)).clamp(0, 1)
    assert second_order(model, x * 0.8 + 0.1, wider, warmup=10, generator=seeded()).second > 0
    same = second_order(model, x, x, warmup=10, generator=seeded())
    assert (same.first, same.shift, same.second) == (0, 0, 0) and abs(same.measured) < 1


def test_the_second_order_needs_a_gradient_in_x_and_like_images():
    x, model = torch.rand(3, 1, 8, 8), small(size=8)
    whole = model.log_likelihood

    def rounded(x, z):
        if x.requires_grad:
            raise NotDefined("no gradient in x")
        return whole(x, z)

    model.log_likelihood = rounded
    with pytest.raises(NotDefined, match="no gradient in x"):
        second_order(model, x, x)
    for bad in (x[:, :, :4], x * 2, x[0], x * math.nan):
        with pytest.raises(ValueError, match="outside: "):
            second_order(model, x, bad)
    with pytest.raises(ValueError, match="chains"):
        second_order(model, x, x, chains=0)
