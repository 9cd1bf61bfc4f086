"""Similarity of two batches of images, one number for each pair.

    SSIM(a, b)    = mean over pixels of (2μ_aμ_b + c₁)(2σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))
    MS-SSIM(a, b) = SSIM_S^{w_S} · Π_{s<S} CS_s^{w_s},  CS the second factor of SSIM; each scale halves the image
    LPIPS(a, b)   = Σ_layers mean over positions of Σ_c w_c (φ̂_c(a) − φ̂_c(b))²,  φ̂ unit-length features of a network

Every function takes two batches (N, C, H, W) in [0, 1] with one or three channels and returns (N,), differentiable in
both. SSIM: Wang et al. 2004. MS-SSIM: Wang et al. 2003. LPIPS: Zhang et al. 2018 (1801.03924).
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
)
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import get_model_weights

from vaenb.checks import check_images

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a data range of 1
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, the finest scale first
_BACKBONES = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}


class WeightsUnavailable(RuntimeError):
    """The backbone of LPIPS is not on this machine, or its file can't be used."""


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over channels and pixels, in [0, 1]; smaller is more alike."""
    _check_pair(a, b)
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio −10 log₁₀ MSE in dB; larger is more alike.

    Equal images give inf, and their gradient is not defined (NaN): leave radius 0 out of a PSNR curve.
    """
    _check_pair(a, b)
    return peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity in [−1, 1], 1 for equal images, with an 11×11 Gaussian window of σ = 1.5.

    Borders are reflected and count; channels are averaged. Images need six pixels a side. The gradient at equal
    images is 0, the maximum: an attack on SSIM has to start at random.
    """
    _check_pair(a, b, smallest=6)
    # Two products with a banded matrix are the window: attacks on SSIM spend most of their time in the gradient of
    # this function, which through torchmetrics' convolution costs nine times that of a decoder.
    rows, columns = (_window(side).to(a) for side in a.shape[-2:])
    mean_a, mean_b, aa, bb, ab = (rows @ x @ columns.T for x in (a, b, a * a, b * b, a * b))
    means, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    variances = (aa - mean_a**2).clamp_min(0) + (bb - mean_b**2).clamp_min(0)
    similarity = (2 * means + _C1) * (2 * (ab - means) + _C2) / ((squares + _C1) * (variances + _C2))
    return similarity.flatten(1).mean(1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity in [0, 1], 1 for equal images.

    The standard form (five scales, 11×11 window, σ = 1.5) needs 176 pixels a side. Smaller images, from 16 pixels on,
    get three scales and the same window shrunk to 7×7 (σ = 1.5·7/11 ≈ 0.95), which fits the 7×7 image that 28×28
    becomes; their weights are the first three published ones, renormalised: .0711, .4530, .4760. Values of the two
    forms, and of papers with other windows, are not comparable.

    A negative term counts as 0 (`normalize="relu"`): its fractional power would be NaN. The value and its gradient
    are then 0, and an attack that starts where two images are anticorrelated learns nothing.
    """
    _check_pair(a, b, smallest=16)
    large = min(a.shape[-2:]) >= 176
    weights = _SCALE_WEIGHTS if large else tuple(w / sum(_SCALE_WEIGHTS[:3]) for w in _SCALE_WEIGHTS[:3])
    # the Gaussian window follows from sigma; kernel_size only enters torchmetrics' check of the images' size
    window = {"sigma": 1.5, "kernel_size": 11} if large else {"sigma": 1.5 * 7 / 11, "kernel_size": 3}
    return multiscale_structural_similarity_index_measure(
        a, b, **window, data_range=1.0, betas=weights, normalize="relu", reduction="none"
    )


class LPIPS(nn.Module):
    """Learned perceptual distance, a callable (a, b) → (N,): 0 for equal images, larger is less alike.

    `net` is "squeeze", "alex" or "vgg"; distances of different nets are not comparable. The networks expect natural
    images, so ours are adapted by a convention: one channel is repeated to three, images under 64 pixels a side are
    enlarged to 64 bilinearly, and [0, 1] is mapped to [−1, 1]. The weights are frozen; the network follows the
    images' device and computes in its own precision.

    The backbone is read from torch.hub's folder of checkpoints. Raises WeightsUnavailable where it is not there and
    `download` is False, where the download fails, and where the file is not a plain state dict of that network.
    """

    def __init__(self, net: str = "squeeze", *, download: bool = False):
        super().__init__()
        if net not in _BACKBONES:
            raise ValueError(f"net: one of {', '.join(_BACKBONES)} expected, got {net!r}")
        self.net = _load_network(net, download=download).requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        _check_pair(a, b)
        dtype = next(self.net.to(a.device).parameters()).dtype
        distance = self.net(_adapt(a).to(dtype), _adapt(b).to(dtype), normalize=True)  # (N, 1, 1, 1)
        return distance.flatten().to(a.dtype)


def _load_network(net: str, *, download: bool) -> nn.Module:
    weights = get_model_weights(_BACKBONES[net]).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not download and not file.exists():
        raise WeightsUnavailable(
            f"LPIPS({net!r}) needs {file.name} in {file.parent}, and it is not there. With a network, call "
            f"LPIPS({net!r}, download=True) once, which gets it from {weights.url}; without one, put the file there, "
            "or set TORCH_HOME to the folder whose hub/checkpoints holds it"
        )
    try:
        # torchmetrics would unpickle whatever the file holds: read it as plain data first, fetching it if asked to
        weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except Exception as error:  # urlopen, torch.load and load_state_dict raise some ten kinds between them
        broken = f"{file} can't be used; delete it and call with download=True."
        raise WeightsUnavailable(
            f"LPIPS({net!r}): {broken if file.exists() else f'{weights.url} could not be downloaded.'} You can also "
            f"put {file.name} into {file.parent} yourself. The reason was {type(error).__name__}: {error}"
        ) from error


@cache
@torch.inference_mode(False)  # what is kept must serve a gradient later
def _window(side: int) -> Tensor:
    """An 11-tap Gaussian of σ = 1.5 over reflected borders, as a matrix (side, side)."""
    taps = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    places = (torch.arange(side)[:, None] + torch.arange(-5, 6)).abs()
    places = torch.where(places < side, places, 2 * (side - 1) - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, (taps / taps.sum()).expand(side, -1))


def _adapt(x: Tensor) -> Tensor:
    size = [max(side, 64) for side in x.shape[-2:]]
    x = x.expand(-1, 3, -1, -1)
    return x if size == list(x.shape[-2:]) else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _check_pair(a: Tensor, b: Tensor, *, smallest: int = 1) -> None:
    check_images(a, "a")
    check_images(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b: two batches of one shape expected, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[1] not in (1, 3):
        raise ValueError(f"a and b: one or three channels expected (N, C, H, W), got shape {tuple(a.shape)}")
    if a.dtype != b.dtype or a.device != b.device:
        raise TypeError(f"a and b: one dtype and device expected, got {a.dtype}, {a.device} and {b.dtype}, {b.device}")
    if min(a.shape[-2:]) < smallest:
        raise ValueError(f"a and b: at least {smallest} pixels a side expected, got shape {tuple(a.shape)}")
