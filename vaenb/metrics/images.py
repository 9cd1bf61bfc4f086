"""Similarity of two batches of images, one number for each pair.

    SSIM(a, b)    = mean over pixels of (2μ_aμ_b + c₁)(2σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))
    MS-SSIM(a, b) = SSIM_S^{w_S} · Π_{s<S} CS_s^{w_s},  CS the second factor of SSIM; each scale halves the image
    LPIPS(a, b)   = Σ_layers mean over positions of Σ_c w_c (φ̂_c(a) − φ̂_c(b))²,  φ̂ unit-length features of a network

Every function takes two batches (N, C, H, W) in [0, 1] with one or three channels and returns (N,), in float32 at least
and differentiable in both. SSIM: Wang et al. 2004. MS-SSIM: Wang et al. 2003. LPIPS: Zhang et al. 2018 (1801.03924).
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure, peak_signal_noise_ratio
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Similarity
from torchvision.models import SqueezeNet1_1_Weights

from vaenb.checks import check_channels, check_images, check_shape
from vaenb.precision import no_autocast, widened

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a data range of 1
_SCALE_WEIGHTS: tuple[float, ...] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, the finest scale first


class WeightsUnavailable(RuntimeError):
    """A network's weights are not on this machine, or their file can't be used."""


@no_autocast
def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over channels and pixels, in [0, 1]; smaller is more alike."""
    a, b = _pair(a, b)
    return (a - b).square().flatten(1).mean(1)


@no_autocast
def brightness(a: Tensor, b: Tensor) -> Tensor:
    """Mean of b over channels and pixels, in [0, 1]: what an attack towards black lowers; a is not looked at."""
    _, b = _pair(a, b)
    return b.flatten(1).mean(1)


@no_autocast
def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio −10 log₁₀ MSE in dB; larger is more alike, inf for equal images (no gradient)."""
    a, b = _pair(a, b)
    return peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))


@no_autocast
def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity in [−1, 1], 1 for equal images, with an 11×11 Gaussian window of σ = 1.5.

    Borders are reflected and count; channels are averaged. Images need six pixels a side. At equal images the gradient
    is 0: an attack on SSIM has to start at random.
    """
    a, b = _pair(a, b, smallest=6)
    # Two products with a banded matrix are the window: the gradient through torchmetrics' convolution costs nine times
    # that of a decoder.
    rows, columns = (_window(side).to(a) for side in a.shape[-2:])
    mean_a, mean_b, aa, bb, ab = (rows @ x @ columns.T for x in (a, b, a * a, b * b, a * b))
    means = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    covariances = ab - means
    variances = (aa - mean_a**2).clamp_min(0) + (bb - mean_b**2).clamp_min(0)
    similarity = (2 * means + _C1) * (2 * covariances + _C2) / ((squares + _C1) * (variances + _C2))
    return similarity.flatten(1).mean(1)


@no_autocast
def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity in [0, 1], 1 for equal images.

    The standard form (five scales, 11×11 window, σ = 1.5) needs 176 pixels a side. Smaller images, from 16 pixels on,
    get three scales and the same window shrunk to 7×7 (σ = 1.5·7/11 ≈ 0.95), which fits the 7×7 image that 28×28
    becomes; their weights are the first three published ones, renormalised. Values of the two forms are not comparable.
    A negative term, of anticorrelated images, counts as 0, since its fractional power would be NaN: so is the gradient.
    """
    a, b = _pair(a, b, smallest=16)
    # the Gaussian window follows from sigma; kernel_size only enters torchmetrics' check of the images' size
    if min(a.shape[-2:]) >= 176:
        weights, sigma, kernel_size = _SCALE_WEIGHTS, 1.5, 11
    else:
        weights = tuple(w / sum(_SCALE_WEIGHTS[:3]) for w in _SCALE_WEIGHTS[:3])
        sigma, kernel_size = 1.5 * 7 / 11, 3
    return multiscale_structural_similarity_index_measure(
        a,
        b,
        sigma=sigma,
        kernel_size=kernel_size,
        data_range=1.0,
        betas=weights,
        normalize="relu",
        reduction="none",
    )


class LPIPS(nn.Module):
    """Learned perceptual distance, a callable (a, b) → (N,): 0 for equal images, larger is less alike.

    The network is SqueezeNet's: distances of other nets are not comparable. Images are adapted by a convention: one
    channel is repeated to three, sides under 64 pixels are enlarged to 64 bilinearly, and [0, 1] is mapped to [−1, 1].
    The weights are frozen; the network follows the images' device and computes in its own precision, in float32 at
    least. Its backbone is read from torch.hub's folder of checkpoints. Raises WeightsUnavailable where it is not there
    and `download` is False, where the download fails, and where the file is not a plain state dict of that network.
    """

    def __init__(self, *, download: bool = False):
        super().__init__()
        self.net = _loaded(download)

    @no_autocast
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = _pair(a, b)
        dtype = widened(next(self.net.parameters())).dtype
        net = self.net.to(a.device, dtype)
        distance = net(_adapt(a).to(dtype), _adapt(b).to(dtype), normalize=True)  # (N, 1, 1, 1)
        return distance.flatten().to(a.dtype)


def _loaded(download: bool) -> nn.Module:
    """Build the frozen network on the published weights of its backbone."""
    url = SqueezeNet1_1_Weights.DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not download and not file.exists():
        raise WeightsUnavailable(
            f"LPIPS needs {file.name} in {file.parent}: give it download=True once, which gets it from {url}, or put "
            "the file there, or set TORCH_HOME to the folder whose hub/checkpoints holds it"
        )
    try:
        # torchmetrics would unpickle whatever the file holds: read it as plain data first, fetching it if asked to
        torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True, map_location="cpu")
        return Similarity(net_type="squeeze").net.requires_grad_(False).eval()
    except Exception as error:  # urlopen, torch.load and load_state_dict raise some ten kinds between them
        broken = f"{file} can't be used; delete it and give it download=True."
        missing = f"{url} could not be downloaded."
        raise WeightsUnavailable(
            f"LPIPS: {broken if file.exists() else missing} You can also put {file.name} into {file.parent} yourself. "
            f"The reason was {type(error).__name__}: {error}"
        ) from error


@cache
@torch.inference_mode(False)  # what is kept must serve a gradient later
def _window(side: int) -> Tensor:
    """An 11-tap Gaussian of σ = 1.5 over reflected borders, as a matrix (side, side)."""
    offsets = torch.arange(-5, 6)
    taps = torch.exp(-(offsets.double() ** 2) / (2 * 1.5**2))
    weights = (taps / taps.sum()).expand(side, -1)
    places = (torch.arange(side)[:, None] + offsets).abs()
    places = torch.where(places < side, places, 2 * (side - 1) - places)
    window = torch.zeros(side, side, dtype=torch.float64)
    return window.scatter_add_(1, places, weights)


def _adapt(x: Tensor) -> Tensor:
    x = x.expand(-1, 3, -1, -1)
    height, width = x.shape[-2:]
    if min(height, width) >= 64:
        return x
    size = (max(height, 64), max(width, 64))
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _pair(a: Tensor, b: Tensor, *, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Both batches in the finer of their precisions, float32 at least; what is no pair of images is refused."""
    check_images(a, "a")
    check_images(b, "b")
    check_shape(b, "b", a.shape, "as a")
    check_channels(a, "a and b")
    if min(a.shape[-2:]) < smallest:
        raise ValueError(f"a and b: at least {smallest} pixels a side expected, got shape {tuple(a.shape)}")
    dtype = torch.promote_types(widened(a).dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
