"""What metrics are given: half precision, autocast, numpy's numbers, and tensors made in inference mode."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import LinearGaussian, seeded
from tests.test_ood import Module
from vaenb.metrics import (
    calibration,
    detection,
    diagnosis,
    distortion,
    diversity,
    frechet,
    images,
    likelihood,
    ood,
    slices,
)
from vaenb.metrics.consistency import consistency
from vaenb.metrics.expansion import second_order
from vaenb.models import vae

HALVES = [torch.float16, torch.bfloat16]
BRIGHT = (0.9 + 0.05 * torch.randn(4, 1, 28, 28, generator=seeded())).clamp(0, 1)
NOISY = (BRIGHT + 0.1 * torch.randn(BRIGHT.shape, generator=seeded(1))).clamp(0, 1)
LOGITS = 3 * torch.randn(50, 4, generator=seeded(2))
LABELS = torch.randint(4, (50,), generator=seeded(3))
FEATURES = torch.randn(50, 4, generator=seeded(4))
RADII = torch.linspace(0, 1, 5)
CURVE = torch.rand(5, 3, generator=seeded(5))
NATS = -500 - 10 * torch.rand(3, 4, generator=seeded(6))
X = torch.rand(6, 1, 4, 4, generator=seeded(7))
Z = torch.randn(6, 3, generator=seeded(8))


def leading_pixels(x: Tensor) -> Tensor:
    """A network of three features, or logits."""
    return 5 * x.flatten(1)[:, :3] - 2


def small_vae(dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    return vae(image_shape=(1, 28, 28), latent_dim=4, net="mlp", likelihood="gaussian").eval().to(dtype)


def plane(points: Tensor) -> slices.Slice:
    return slices.slice_through(lambda z: -(z**2).sum(1), points)


# Half precision and autocast


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("metric", [images.ssim, images.ms_ssim])
def test_an_image_is_like_itself_in_half_precision_and_under_autocast(metric, dtype):
    x = BRIGHT.to(dtype)
    torch.testing.assert_close(metric(x, x), torch.ones(4))
    with torch.autocast("cpu", dtype=dtype):
        assert metric(BRIGHT, BRIGHT).equal(metric(BRIGHT, BRIGHT.clone()))
        torch.testing.assert_close(metric(BRIGHT, BRIGHT), torch.ones(4))


METRICS = {
    "mse": (images.mse, BRIGHT, NOISY),
    "psnr": (images.psnr, BRIGHT, NOISY),
    "ssim": (images.ssim, BRIGHT, NOISY),
    "ms_ssim": (images.ms_ssim, BRIGHT, NOISY),
    "waic": (ood.waic, NATS),
    "typicality": (ood.typicality, NATS[0], NATS[1]),
    "compressed_bits": (ood.compressed_bits, NOISY),
    "bits_per_dim": (likelihood.bits_per_dim, NATS[0], BRIGHT),
    "spread": (distortion.spread, FEATURES),
    "aaddc_abs": (lambda r, v: distortion.aaddc_abs(r, v, better="higher"), RADII, CURVE),
    "scale_free": (lambda r, v: distortion.scale_free(r, v, unit=0.5, reach=1.0)[1], RADII, CURVE),
    "auroc": (detection.auroc, FEATURES[:, 0], FEATURES[:, 1]),
    "mahalanobis": (lambda f: detection.mahalanobis(f)(f), FEATURES),
    "vendi": (diversity.vendi, FEATURES),
    "frechet": (frechet.frechet_distance, FEATURES, FEATURES / 2),
    "features": (lambda x: frechet.features_of(leading_pixels, x), BRIGHT),
    "temperature": (lambda x: calibration.fit_temperature(x, LABELS).probabilities(x), LOGITS),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_half_precision_is_that_of_the_same_numbers_in_float32(name, dtype):
    metric, *arguments = METRICS[name]
    half = [argument.to(dtype) for argument in arguments]
    found, expected = metric(*half), metric(*[argument.float() for argument in half])
    torch.testing.assert_close(found, expected, rtol=1e-6 if name != "features" else 1e-2, atol=0)
    with torch.autocast("cpu", dtype=dtype):
        under = metric(*arguments)
    torch.testing.assert_close(under, metric(*arguments), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_probabilities_in_half_precision_are_probabilities(dtype):
    p = LOGITS.to(dtype).softmax(1)
    rounded = p.double() / p.double().sum(1, keepdim=True)
    assert calibration.brier(p, LABELS).dtype == torch.float32
    torch.testing.assert_close(
        calibration.brier(p, LABELS).double(), calibration.brier(rounded, LABELS), rtol=0, atol=0.02
    )
    assert calibration.ece(p, LABELS) == pytest.approx(calibration.ece(rounded, LABELS), abs=0.02)
    with pytest.raises(ValueError, match="logits: it gives probabilities"):
        calibration.fit_temperature(p, LABELS)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_gradient_passes_to_images_in_half_precision(dtype):
    half = BRIGHT.to(dtype).requires_grad_()
    images.ssim(half, NOISY.to(dtype)).sum().backward()
    plain = BRIGHT.to(dtype).float().requires_grad_()
    images.ssim(plain, NOISY.to(dtype).float()).sum().backward()
    torch.testing.assert_close(half.grad, plain.grad.to(dtype))


def test_under_autocast_a_model_is_measured_as_without():
    model, few = small_vae(), NOISY[:2]

    def measured() -> list[Tensor]:
        found = [
            likelihood.elbo(model, few, generator=seeded()),
            likelihood.iwae(model, few, generator=seeded()),
            ood.likelihood_regret(model, few, steps=2, generator=seeded()),
            detection.likelihood_path(model, few),
            consistency(leading_pixels, model, few, generator=seeded()).kl,
        ]
        return found + list(detection.signals(model, few, generator=seeded()).values())

    plain = measured()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = measured()
    assert all(a.equal(b) for a, b in zip(under, plain, strict=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_bound_of_a_half_precision_model_is_added_in_float32(dtype):
    model, x = small_vae(dtype), NOISY.to(dtype)
    expected = likelihood.elbo(small_vae(), NOISY, generator=seeded())
    found = likelihood.elbo(model, x, samples=64, generator=seeded())
    assert found.dtype == torch.float32 and likelihood.iwae(model, x).dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=6e-3, atol=0)
    signals = detection.signals(model, x, samples=64, generator=seeded())
    torch.testing.assert_close(-signals["negative_elbo"], expected, rtol=6e-3, atol=0)
    assert {value.dtype for value in signals.values()} == {torch.float32}


LINE = torch.stack([Z, -Z], 1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "measure",
    [
        ood.likelihood_regret,
        ood.hmc_regret,
        ood.bias_corrected,
        lambda m, x: likelihood.shortfall(m, x, x),
        lambda m, x: diagnosis.posterior_ratio(m, x, Z.to(x), -Z.to(x)),
        lambda m, x: diagnosis.likelihood_tilt(m, x, x, LINE.to(x)),
        lambda m, x: second_order(m, x, x),
        lambda m, x: distortion.dd_curve(m, Z.to(x), RADII, lambda m, z, eps: z, {"MSE": images.mse}),
        lambda m, x: plane(Z[:3].to(x)),
    ],
)
def test_what_half_precision_would_drown_is_refused(measure, dtype):
    class Cast(LinearGaussian):
        """It takes what it is given, and answers in its dtype."""

        def posterior(self, x):
            q = super().posterior(x.float())
            return type(q)(q.mean.to(x), q.logvar.to(x))

        def decode(self, z):
            return super().decode(z.float()).to(z)

        def log_likelihood(self, x, z):
            return super().log_likelihood(x.float(), z.float()).to(z)

    with pytest.raises(TypeError, match=r": float32 or float64 expected, got .*16, .* use model.float\(\)"):
        measure(Cast(), X.to(dtype))


# Numpy's numbers, and tensors made in inference mode

two, four = np.int64(2), np.int64(4)
LINEAR = LinearGaussian()
MEASURES = {
    "elbo": lambda x: likelihood.elbo(LINEAR, x, samples=two, generator=seeded()),
    "likelihood_regret": lambda x: ood.likelihood_regret(LINEAR, x, steps=two, chunk=four, generator=seeded()),
    "hmc_regret": lambda x: ood.hmc_regret(LINEAR, x, samples=two, num_samples=four, warmup=two, generator=seeded()),
    "second_order": lambda x: second_order(LINEAR, x, x, samples=four, chains=two, generator=seeded()).second,
    "path": lambda x: detection.likelihood_path(LINEAR, x),
    "consistency": lambda x: consistency(leading_pixels, LINEAR, x, samples=two, generator=seeded()).kl,
    "features": lambda x: frechet.features_of(leading_pixels, x),
    "curve": lambda x: distortion.measure_distortion(LINEAR.decode, Z, Z, {"MSE": images.mse}, chunk=four)["MSE"],
    "binned": lambda x: calibration.binned(x[:, 0, 0, 0], x[:, 0, 0, 0], bins=four).count,
}


@pytest.mark.parametrize("name", MEASURES)
def test_numpys_numbers_and_tensors_of_inference_mode_change_nothing(name):
    expected = MEASURES[name](X)
    with torch.inference_mode():
        made_there = X * 1
        torch.testing.assert_close(MEASURES[name](X), expected)
    torch.testing.assert_close(MEASURES[name](made_there), expected)


def test_numpys_small_numbers_do_not_overflow():
    def regret(kind):
        return ood.likelihood_regret(LINEAR, X, steps=kind(100), samples=kind(2), generator=seeded())

    for measure in (
        regret,
        lambda kind: calibration.binned(X[:, 0, 0, 0], X[:, 0, 0, 0], bins=kind(127)).count,
    ):
        torch.testing.assert_close(measure(np.int8), measure(int), rtol=0, atol=0, equal_nan=True)


def detached(wrapped):
    """A likelihood without a gradient in z, for one reason or another."""

    class Detached(Module):
        def log_likelihood(self, x, z):
            return wrapped(super().log_likelihood, x, z)

    return Detached().eval()


WITHOUT_GRADIENT = {
    "no_grad": lambda call, x, z: torch.no_grad()(call)(x, z),
    "detach": lambda call, x, z: call(x, z.detach()),
    "data of a trained decoder": lambda call, x, z: call(x, z.data) * torch.ones((), requires_grad=True),
}


@pytest.mark.parametrize("reason", WITHOUT_GRADIENT)
def test_a_likelihood_without_a_gradient_is_refused(reason):
    with pytest.raises(ValueError, match=r"log_likelihood: its gradient in z is needed; take torch\.no_grad"):
        ood.likelihood_regret(detached(WITHOUT_GRADIENT[reason]), X)


def test_hmc_regret_decodes_a_chunk_at_a_time():
    seen = []

    class Watched(LinearGaussian):
        def decode(self, z):
            seen.append(len(z))
            return super().decode(z)

    schedule = {"samples": 3, "num_samples": 2, "warmup": 2}
    parts = ood.hmc_regret(Watched(), X, chunk=4, generator=seeded(), **schedule)
    assert max(seen) == 4
    torch.testing.assert_close(parts, ood.hmc_regret(LINEAR, X, generator=seeded(), **schedule), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: distortion.measure_distortion(LINEAR.decode, Z, Z, {}, chunk=0), "chunk"),
        (lambda: ood.hmc_regret(LINEAR, X, chunk=0), "chunk"),
        (lambda: plane(Z[:3] * math.nan), "points"),
    ],
)
def test_a_bad_argument_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call()
