"""The Fréchet distance between two sets of images: of the Gaussians fitted to their features.

    d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

The square of the 2-Wasserstein distance between N(μ_a, Σ_a) and N(μ_b, Σ_b). With the features of the Inception
network it is FID (Heusel et al. 2017, 1706.08500); with another network's it is a number of that network's, so a
table or a figure names the network and the two sample sizes, and compares nothing across them.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vaenb.checks import check_images, check_latents
from vaenb.metrics.images import WeightsUnavailable

Features = Callable[[Tensor], Tensor]  # images (N, C, H, W) → (N, F)

_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance d² between the Gaussians fitted to features a (N, F) and b (M, F), as FID reports it.

    Computed in double precision with covariances over N − 1; sets smaller than F have singular ones, which is fine.
    It is biased upwards: two sets drawn from one N(0, I) are about F(F + 5)/4 · (1/N + 1/M) apart for N, M ≫ F, not 0.
    So compare only distances at equal sample sizes, and state them. Raises ValueError for fewer than two rows.
    """
    _check_features(a, "a")
    _check_features(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b: features of one network expected, got {a.shape[1]} and {b.shape[1]} dimensions")
    a, b = a.detach().double(), b.detach().to(a.device).double()
    # the eigenvalues of Σ_a Σ_b are the squared singular values of R_a R_bᵀ: no root of a nearly singular product
    root_a, root_b = _root(a), _root(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    distance = shift + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(distance.item(), 0.0)  # rounding may leave −1e-13 for equal sets


class FID:
    """Fréchet distance between two sets of images by a feature network, a callable (real, fake) → d².

    `features` maps images (N, C, H, W) in [0, 1] to (N, F), for example a trained classifier's `.features`; or it is
    "inception", the network of the published FIDs, with 2,048 features: torch-fidelity's copy of the TensorFlow one.
    It sees images rounded to 8 bits and resized to 299×299 as TensorFlow did, one channel repeated to three.
    `name` says which network it is, for a figure's label.

    Inception's weights are read from torch.hub's folder of checkpoints. Raises WeightsUnavailable where torch-fidelity
    is not installed, where the file is not there and `download` is False, where the download fails, and where the file
    is not a plain state dict of that network.
    """

    def __init__(self, features: Features | str, *, download: bool = False) -> None:
        if isinstance(features, str) and features != "inception":
            raise ValueError(f'features: a callable or "inception" expected, got {features!r}')
        if not callable(features) and features != "inception":
            raise TypeError(f'features: a callable or "inception" expected, got {type(features).__name__}')
        inception = features == "inception"
        self.network = _load_inception(download=download) if inception else features
        self.name = "inception" if inception else getattr(features, "__qualname__", type(features).__name__)

    def __call__(self, real: Tensor, fake: Tensor) -> float:
        """d² between two batches of images; `frechet_distance` has its bias and its limits."""
        return frechet_distance(self.features(real, name="real"), self.features(fake, name="fake"))

    @torch.no_grad()
    def features(self, x: Tensor, *, chunk: int = 256, name: str = "x") -> Tensor:
        """Features (N, F) of images x, `chunk` at a time: keep them where a set is compared more than once."""
        check_images(x, name)
        module = getattr(self.network, "__self__", self.network)  # of a bound method, such as classifier.features
        if isinstance(module, nn.Module) and module.training:
            raise ValueError("features: the network is in training mode; call its eval()")
        values = torch.cat([_rows(self.network(part), part, self.name) for part in x.split(chunk)])
        _check_features(values, f"features of {name}")
        return values


class _Inception(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images: one or three channels expected (N, C, H, W), got shape {tuple(x.shape)}")
        # rounded, as 8-bit k / 255 · 255 may fall just below k
        pixels = (x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        return self.net.to(x.device)(pixels)[0]


def _load_inception(*, download: bool) -> nn.Module:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(_INCEPTION).name
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise WeightsUnavailable(
            f'FID("inception") needs torch-fidelity, and it can\'t be imported ({error}): pip install torch-fidelity. '
            f"It also needs the weights, {file.name} in {file.parent}. Without them, use FID(classifier.features) with "
            "a classifier of your data, and say so beside the number"
        ) from error
    if not download and not file.exists():
        raise WeightsUnavailable(
            f'FID("inception") needs {file.name} in {file.parent}, and it is not there. With a network, call '
            f'FID("inception", download=True) once, which gets it from {_INCEPTION}; without one, put the file there, '
            "or set TORCH_HOME to the folder whose hub/checkpoints holds it"
        )
    try:
        # torch-fidelity would unpickle whatever the file holds: read it as plain data first, fetching it if asked to
        torch.hub.load_state_dict_from_url(_INCEPTION, check_hash=True, weights_only=True, map_location="cpu")
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file))
    except Exception as error:  # urlopen, torch.load and load_state_dict raise some ten kinds between them
        broken = f"{file} can't be used; delete it and call with download=True."
        raise WeightsUnavailable(
            f'FID("inception"): {broken if file.exists() else f"{_INCEPTION} could not be downloaded."} You can also '
            f"put {file.name} into {file.parent} yourself. The reason was {type(error).__name__}: {error}"
        ) from error
    return _Inception(net).eval()


def _root(x: Tensor) -> Tensor:
    """R (≤ F, F) with RᵀR the covariance of x (N, F)."""
    return torch.linalg.qr((x - x.mean(0)) / math.sqrt(len(x) - 1), mode="r").R


def _rows(values, x: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(x):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"features: {name} has to map {len(x)} images to ({len(x)}, F), got {got}; flatten(1) it")
    return values


def _check_features(x: Tensor, name: str) -> None:
    check_latents(x, name)
    if len(x) < 2:
        raise ValueError(f"{name}: at least two rows expected to fit a covariance, got shape {tuple(x.shape)}")
