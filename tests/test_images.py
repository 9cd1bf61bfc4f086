"""Image similarities against scipy, closed forms and the lpips package."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.models import get_model

from vaenb.metrics.images import LPIPS, WeightsUnavailable, ms_ssim, mse, psnr, ssim

CHECKPOINT = "squeezenet1_1-b8a52dc0.pth"


def pair(n=3, c=1, side=28, *, seed=0, noise=0.3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    a = F.interpolate(torch.rand(n, c, 7, 7, generator=g, dtype=dtype), (side, side), mode="bilinear")
    return a, (a + noise * torch.randn(a.shape, generator=g, dtype=dtype)).clamp(0, 1)


def scipy_ssim_maps(a, b, sigma, radius):
    def blur(x):
        return gaussian_filter(x, sigma, radius=radius, mode="mirror")

    mean_a, mean_b = blur(a), blur(b)
    va, vb = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    contrast = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
    return luminance * contrast, contrast


def scipy_ms_ssim(a, b):
    weights, value = np.array([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001), 1.0
    for weight in weights[:2]:
        _, contrast = scipy_ssim_maps(a, b, 1.5 * 7 / 11, 3)
        value *= contrast[3:-3, 3:-3].mean() ** weight
        a, b = halved(a), halved(b)
    full, _ = scipy_ssim_maps(a, b, 1.5 * 7 / 11, 3)
    return value * full.mean() ** weights[2]


def halved(x):
    return x.reshape(len(x) // 2, 2, -1, 2).mean((1, 3))


@pytest.mark.parametrize("c", [1, 3])
def test_ssim_agrees_with_scipy(c):
    a, b = pair(c=c)
    channels = zip(a.flatten(0, 1).numpy(), b.flatten(0, 1).numpy(), strict=True)
    expected = [scipy_ssim_maps(p, q, 1.5, 5)[0].mean() for p, q in channels]
    np.testing.assert_allclose(ssim(a, b), np.reshape(expected, (len(a), c)).mean(1), rtol=1e-10)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("shape", [(6, 6), (6, 9), (7, 40), (28, 28), (33, 12), (64, 64)])
def test_ssim_and_its_gradient_are_those_of_torchmetrics_convolution(shape, c):
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, c, *shape, generator=g, dtype=torch.float64)
    b[0] = (a[0] + 0.02 * b[0]).clamp(0, 1)  # nearly equal, unlike, and flat
    b[2] = 0.5
    a, b = a.requires_grad_(), b.requires_grad_()
    theirs = structural_similarity_index_measure(a, b, sigma=1.5, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(a, b), theirs, rtol=1e-10, atol=1e-12)
    weights = torch.rand(3, generator=g, dtype=torch.float64)
    gradients = [torch.autograd.grad(value @ weights, (a, b)) for value in (ssim(a, b), theirs)]
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-12)


def test_ssim_in_float32_keeps_four_digits_and_its_dtype():
    a, b = pair(c=3, side=32)
    torch.testing.assert_close(ssim(a.float(), b.float()).double(), ssim(a, b), rtol=1e-4, atol=0)
    assert ssim(a.float(), b.float()).dtype == torch.float32


def test_ssim_has_a_gradient_after_a_call_in_inference_mode():
    a, b = pair(side=29)  # a size that no other test asks for
    with torch.inference_mode():
        ssim(a, b)
    ssim(a.requires_grad_(), b).sum().backward()
    assert a.grad.abs().max() > 0


def test_ssim_of_two_constant_images_is_the_luminance_term():
    a, b = torch.full((1, 1, 12, 12), 0.2, dtype=torch.float64), torch.full((1, 1, 12, 12), 0.6, dtype=torch.float64)
    assert ssim(a, b).item() == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-9)


@pytest.mark.parametrize("side", [16, 28, 32, 64])
def test_ms_ssim_agrees_with_scipy_at_three_scales(side):
    a, b = pair(side=side)
    expected = [scipy_ms_ssim(x[0], y[0]) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(ms_ssim(a, b), expected, rtol=1e-6)


def test_ms_ssim_of_large_images_is_the_standard_five_scales():
    a, b = pair(n=1, side=176)
    value, x, y = 1.0, a[0, 0].numpy(), b[0, 0].numpy()
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        _, contrast = scipy_ssim_maps(x, y, 1.5, 5)
        value *= contrast[5:-5, 5:-5].mean() ** weight
        x, y = halved(x), halved(y)
    full, _ = scipy_ssim_maps(x, y, 1.5, 5)
    assert ms_ssim(a, b).item() == pytest.approx(value * full.mean() ** 0.1333, rel=1e-6)


def test_ms_ssim_of_anticorrelated_images_is_zero_with_a_finite_gradient():
    a, _ = pair()
    b = (1 - a).requires_grad_()
    value = ms_ssim(a, b)
    value.sum().backward()
    assert value.tolist() == [0, 0, 0]
    assert b.grad.abs().max() == 0


def test_mse_and_psnr_of_a_known_difference():
    a, b = torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), 0.5)
    b[0] += 0.1
    b[1, :, :4] += 0.3
    assert mse(a, b).tolist() == pytest.approx([0.01, 0.045])
    assert psnr(a, b).tolist() == pytest.approx([20.0, -10 * math.log10(0.045)], abs=1e-4)
    black, white = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    assert mse(black, white).item() == 1 and psnr(black, white).item() == pytest.approx(0, abs=1e-6)


def test_equal_images():
    a, _ = pair()
    assert mse(a, a).tolist() == [0, 0, 0]
    assert psnr(a, a).tolist() == [math.inf] * 3
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1])
    assert ms_ssim(a, a).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("metric", [mse, psnr, ssim, ms_ssim])
def test_a_metric_is_symmetric_and_a_batch_equals_its_members(metric):
    a, b = pair(n=4, c=3, side=32)
    together = metric(a, b)
    assert together.shape == (4,)
    assert torch.allclose(together, metric(b, a), rtol=1e-6)
    assert torch.allclose(together, torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(4)]), rtol=1e-9)


@pytest.mark.parametrize("metric", [mse, psnr, ssim, ms_ssim])
def test_the_gradient_in_both_inputs_is_that_of_finite_differences(metric):
    a, b = (0.1 + 0.8 * x for x in pair(n=2, side=16))
    da, db = (torch.autograd.functional.vjp(metric, (a, b), torch.ones(2, dtype=a.dtype)))[1]
    direction = pair(n=2, side=16, seed=1)[1]
    for change, gradient in (((direction, 0), da), ((0, direction), db)):
        plus, minus = (metric(a + s * change[0], b + s * change[1]).sum() for s in (1e-5, -1e-5))
        assert (gradient * direction).sum().item() == pytest.approx((plus - minus).item() / 2e-5, rel=1e-4)


@pytest.mark.parametrize("metric", [ssim, ms_ssim])
def test_more_noise_is_less_similar(metric):
    clean, noise = pair(n=8)[0], pair(n=8, noise=0.05)[1]
    assert (metric(clean, noise) > metric(clean, pair(n=8, noise=0.4)[1])).all()


GREY = torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("metric", "a", "b", "message"),
    [
        (ssim, GREY, torch.rand(3, 1, 8, 8), "b: .*as a, expected"),
        (ssim, torch.rand(2, 2, 8, 8), torch.rand(2, 2, 8, 8), "one or three channels"),
        (ssim, GREY * 255, GREY * 255, "divide by 255"),
        (ssim, GREY, GREY * math.nan, "^b: NaN"),
        (ssim, GREY[..., :5], GREY[..., :5], "at least 6 pixels a side expected"),
        (ssim, GREY[..., :5, :], GREY[..., :5, :], "at least 6 pixels a side expected"),
        (ms_ssim, torch.rand(1, 1, 16, 15), torch.rand(1, 1, 16, 15), "at least 16 pixels a side expected"),
        (ms_ssim, torch.rand(1, 1, 15, 16), torch.rand(1, 1, 15, 16), "at least 16 pixels a side expected"),
    ],
)
def test_bad_pairs_are_refused_at_the_door(metric, a, b, message):
    with pytest.raises(ValueError, match=message):
        metric(a, b)


# LPIPS: the net is compared with random backbone weights, so that no download is needed


def random_backbone():
    """A state dict of the backbone as torchvision names it; the classifier, which LPIPS never reads, takes no space."""
    with torch.device("meta"):
        shapes = {name: w.shape for name, w in get_model("squeezenet1_1", weights=None).state_dict().items()}
    g = torch.Generator().manual_seed(0)
    weights = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    for name in (n for n in shapes if n.startswith("features")):
        noise = torch.randn(shapes[name], generator=g)
        weights[name] = 0.1 * noise if noise.ndim == 1 else noise * math.sqrt(2 / noise[0].numel())
    return weights


@pytest.fixture(scope="module")
def random_home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(random_backbone(), folder / CHECKPOINT)
    return folder.parent.parent


@pytest.fixture
def torch_home(random_home, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(random_home))
    return random_home


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def reference():
    """The lpips package's own network, with the backbone that stands in TORCH_HOME."""
    package = pytest.importorskip("lpips")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision with `pretrained=`, deprecated
        for draw in ("normal_", "kaiming_normal_", "kaiming_uniform_"):  # seconds for weights we replace anyway
            patch.setattr(nn.init, draw, lambda tensor, *args, **kwargs: tensor)
        model = package.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    weights = torch.load(Path(torch.hub.get_dir()) / "checkpoints" / CHECKPOINT, weights_only=True)
    backbone = [w for name, w in weights.items() if name.startswith("features")]
    for parameter, w in zip(model.net.parameters(), backbone, strict=True):
        parameter.data.copy_(w)
    return model


def enlarged(x):
    return F.interpolate(x.repeat(1, 3 // x.shape[1], 1, 1), (64, 64), mode="bilinear", align_corners=False)


def test_lpips_value_and_gradient_agree_with_the_lpips_package(torch_home):
    a, b = (x.requires_grad_() for x in pair(n=2, side=28, dtype=torch.float32))
    ours, theirs = LPIPS()(a, b), reference()(2 * enlarged(a) - 1, 2 * enlarged(b) - 1).flatten()
    assert ours.shape == (2,)
    assert torch.allclose(ours, theirs, rtol=1e-4)
    mine, other = (torch.cat(torch.autograd.grad(value.sum(), (a, b))) for value in (ours, theirs))
    assert other.norm() > 1e-3
    assert (mine - other).norm() < 1e-3 * other.norm()


def test_lpips_with_the_real_weights_agrees_with_the_lpips_package():
    file = Path(torch.hub.get_dir()) / "checkpoints" / CHECKPOINT
    if not file.exists():
        pytest.skip(f"{file} is not at hand")
    a, b = pair(c=3, side=64, dtype=torch.float32)
    ours = LPIPS()(a, b)
    assert torch.allclose(ours, reference()(2 * a - 1, 2 * b - 1).flatten(), rtol=1e-4)
    assert (LPIPS()(a, pair(c=3, side=64, noise=0.05, dtype=torch.float32)[1]) < ours).all()


def test_lpips_repeats_one_channel_and_enlarges_small_sides_only(torch_home):
    lpips, (a, b) = LPIPS(), pair(n=2, side=32, dtype=torch.float32)
    assert torch.allclose(lpips(a, b), lpips(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))
    assert torch.allclose(lpips(a, b), lpips(enlarged(a), enlarged(b)))
    wide = [F.pad(x, (0, 64)) for x in (a, b)]  # 32×96
    tall = [F.interpolate(x, (64, 96), mode="bilinear") for x in wide]
    assert torch.allclose(lpips(*wide), lpips(*tall))


def test_lpips_of_equal_images_is_zero_symmetric_and_a_batch_equals_its_members(torch_home):
    lpips, (a, b) = LPIPS(), pair(n=4, c=3, side=32, dtype=torch.float32)
    assert lpips(a, a).tolist() == [0] * 4
    assert torch.allclose(lpips(a, b), lpips(b, a), rtol=1e-4)
    assert torch.allclose(lpips(a, b), torch.cat([lpips(a[i : i + 1], b[i : i + 1]) for i in range(4)]), rtol=1e-4)


def test_lpips_is_frozen_never_trains_and_keeps_the_images_dtype(torch_home):
    lpips, (a, b) = LPIPS().train(), pair(n=2, side=32)
    assert not any(p.requires_grad for p in lpips.parameters())
    assert torch.equal(lpips(a, b), lpips(a, b))  # its dropout stays off
    assert lpips(a, b).dtype == torch.float64


def test_lpips_refuses_what_is_not_a_pair_of_images(torch_home):
    lpips = LPIPS()
    with pytest.raises(ValueError, match="divide by 255"):
        lpips(torch.full((1, 3, 64, 64), 255.0), torch.zeros(1, 3, 64, 64))


def test_missing_weights_are_named_and_never_fetched_by_surprise(empty_home, no_network):
    with pytest.raises(WeightsUnavailable) as error:
        LPIPS()
    for part in (CHECKPOINT, str(empty_home / "hub" / "checkpoints"), "download=True", "TORCH_HOME"):
        assert part in str(error.value)
    assert not no_network


def test_a_failed_download_gives_the_reason(empty_home, no_network):
    with pytest.raises(WeightsUnavailable, match="squeezenet1_1-b8a52dc0.pth .*no route to host"):
        LPIPS(download=True)
    assert len(no_network) == 1
    assert not list(empty_home.rglob("*.pth*"))


@pytest.fixture
def squeeze_file(empty_home):
    file = empty_home / "hub" / "checkpoints" / CHECKPOINT
    file.parent.mkdir(parents=True)
    return file


class Payload:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_weights_file_is_data_and_never_code(squeeze_file, tmp_path):
    torch.save({"features.0.weight": Payload(tmp_path / "executed")}, squeeze_file)
    with pytest.raises(WeightsUnavailable, match="can't be used; delete it"):
        LPIPS()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(content, squeeze_file):
    squeeze_file.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="can't be used; delete it"):
        LPIPS()


def test_another_networks_weights_are_refused(squeeze_file):
    torch.save({"features.0.weight": torch.zeros(1)}, squeeze_file)
    with pytest.raises(WeightsUnavailable, match="Missing key"):
        LPIPS()
