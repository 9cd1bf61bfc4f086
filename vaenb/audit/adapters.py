"""Models of other libraries behind the four methods: `wrap` for two functions, and on it diffusers and pythae.

The libraries are optional and imported when they are asked for. Weights in half precision are widened to float32: the
same function, without the rounding that an attack's small steps would drown in.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from vaenb import files
from vaenb.checks import NotDefined, check_choice, check_number
from vaenb.contract import LatentModel
from vaenb.distributions import DiagonalGaussian, Point, standard_normal

_GAUSSIAN = ("VAE", "BetaVAE", "BetaTCVAE", "FactorVAE", "DisentangledBetaVAE", "INFOVAE_MMD", "IWAE", "CIWAE", "MIWAE")
_DETERMINISTIC = ("AE", "RAE_L2", "RAE_GP", "WAE_MMD", "VQVAE")
_BEYOND = 0.05  # outside of 0…1, in which a pixel is not yet called cut off


class Wrapped:
    """An encoder and a decoder as functions, in their own shapes and range of pixels, as a LatentModel."""

    def __init__(self, encode: Callable, decode: Callable, low: float, high: float, likelihood: str, sigma: float):
        self.encode, self.decoder = encode, decode
        self.low, self.width = low, high - low
        self.likelihood, self.sigma = likelihood, sigma
        self.shape: torch.Size | None = None  # of a code, once an image was encoded
        self.deterministic = False

    @property
    def assumed(self) -> str:
        """What stands for a likelihood, for the report."""
        if self.likelihood == "none":
            return "no likelihood"
        return f"gaussian, σ = {self.sigma:g}" if self.likelihood == "gaussian" else self.likelihood

    def posterior(self, x: Tensor) -> DiagonalGaussian | Point:
        found = self.encode(self.low + self.width * x)
        self.deterministic = isinstance(found, Tensor)
        if isinstance(found, Tensor):
            self.shape = found.shape[1:]
            return Point(found.flatten(1))
        if not _is_pair(found):
            got = tuple(map(_kind, found)) if isinstance(found, tuple) else _kind(found)
            raise ValueError(
                f"encode: a tensor, or (mean, log variance), two of one shape, expected, got {got}; "
                "for a distribution return (d.mean, 2 * d.stddev.log())"
            )
        mean, logvar = found
        self.shape = mean.shape[1:]
        return DiagonalGaussian(mean.flatten(1), logvar.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        if self.shape is None:
            raise ValueError("decode: the codes' shape is known once an image was encoded; call posterior(x) first")
        return self._unclipped(z).clamp(0, 1)

    def _unclipped(self, z: Tensor) -> Tensor:
        assert self.shape is not None
        return (self.decoder(z.view(-1, *self.shape)) - self.low) / self.width

    @torch.no_grad()
    def cut_off(self, x: Tensor) -> float:
        """The share of the pixels of reconstructions that lie outside of `pixels` and are cut off: many of logits."""
        images = self._unclipped(self.posterior(x).mean)
        return ((images < -_BEYOND) | (images > 1 + _BEYOND)).float().mean().item()

    def log_prior(self, z: Tensor) -> Tensor:
        if self.deterministic:
            raise NotDefined("an autoencoder without a posterior's variance has no prior")
        return standard_normal(z).log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        if self.likelihood == "none":
            raise NotDefined("this model has no likelihood; give wrap one that is close to its training loss")
        images = self.decode(z)
        if self.likelihood == "bernoulli":
            return -F.binary_cross_entropy(images, x, reduction="none").flatten(1).sum(1)
        return Normal(images, self.sigma, validate_args=False).log_prob(x).flatten(1).sum(1)


def wrap(
    encode: Callable[[Tensor], Any],
    decode: Callable[[Tensor], Tensor],
    *,
    pixels: tuple[float, float] = (0.0, 1.0),
    likelihood: str = "gaussian",
    sigma: float = 0.1,
) -> LatentModel:
    """Make a LatentModel of two functions of a trained network in evaluation mode.

    `encode(images)` gives (mean, log variance), or one tensor for an autoencoder without a posterior, of any shape;
    `decode` takes codes of that shape. Both see images in `pixels`, such as (−1, 1); what a decoder gives beyond is cut
    off. p(z) is N(0, I), p(x|z) on pixels in 0…1 `likelihood`: gaussian of `sigma`, bernoulli, or none.
    """
    check_choice("likelihood", likelihood, ("gaussian", "bernoulli", "none"))
    check_number("sigma", sigma, "a positive standard deviation", above=0)
    low, high = pixels
    if not low < high:
        raise ValueError(f"pixels: (black, white) with black < white expected, got {pixels!r}")
    return Wrapped(encode, decode, low, high, likelihood, sigma)


def from_diffusers(net: Any, *, sigma: float = 0.1) -> LatentModel:
    """Adapt an autoencoder of diffusers, or the folder that its save_pretrained wrote; images in −1…1 inside.

    AutoencoderKL and its like have no likelihood of their own: a Gaussian of `sigma` is assumed. AutoencoderTiny,
    VQModel and others without `latent_dist` are autoencoders without densities. Raises ModuleNotFoundError without
    diffusers, ValueError for what has no encode and decode.
    """
    if isinstance(net, (str, Path)):
        net = _read_diffusers(Path(net))
    if not callable(getattr(net, "encode", None)) or not callable(getattr(net, "decode", None)):
        raise ValueError(f"model: an autoencoder of diffusers with encode and decode expected, got {_kind(net)}")
    net = net.float().eval()

    def encode(images: Tensor) -> Any:
        found = net.encode(images)
        if not hasattr(found, "latent_dist"):
            return found.latents
        return found.latent_dist.mean, found.latent_dist.logvar

    def decode(codes: Tensor) -> Tensor:
        return net.decode(codes).sample

    return wrap(encode, decode, pixels=(-1.0, 1.0), sigma=sigma)


def _read_diffusers(folder: Path) -> Any:
    diffusers = _library("diffusers")
    kind = _config(folder / "config.json", "a folder that save_pretrained wrote").get("_class_name", "")
    if not hasattr(diffusers, kind):
        raise ValueError(f"{folder}: a model of this version of diffusers expected, got {kind or 'none'!r}")
    if not hasattr(getattr(diffusers, kind), "encode"):
        raise ValueError(f"{folder}: an autoencoder with encode and decode expected, got {kind}")
    return getattr(diffusers, kind).from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)


def from_pythae(net: Any) -> LatentModel:
    """Adapt a model of pythae, or the folder that its trainer saved it in (…/final_model); pixels in 0…1.

    The likelihood is that of its loss: bce is Bernoulli, mse a Gaussian of σ = 1. Autoencoders (AE, RAE, WAE, VQVAE)
    have none. A folder with networks of one's own (encoder.pkl) is a pickle, which runs code: read only one's own.
    Raises ModuleNotFoundError without pythae, ValueError for models with another prior or posterior.
    """
    if isinstance(net, (str, Path)):
        net = _read_pythae(Path(net))
    name = getattr(net, "model_name", "")
    if name not in _GAUSSIAN + _DETERMINISTIC:
        known = ", ".join(_GAUSSIAN + _DETERMINISTIC)
        got = name or _kind(net)
        raise ValueError(f"model: one of pythae's {known} expected, got {got}; vaenb.audit.wrap takes any")
    net = net.float().eval()
    if name in _DETERMINISTIC:
        return wrap(lambda images: net.encoder(images).embedding, _pythae_decoder(net), likelihood="none")

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        found = net.encoder(images)
        return found.embedding, found.log_covariance

    loss = getattr(net.model_config, "reconstruction_loss", "mse")
    return wrap(encode, _pythae_decoder(net), likelihood="bernoulli" if loss == "bce" else "gaussian", sigma=1.0)


def _pythae_decoder(net: Any) -> Callable[[Tensor], Tensor]:
    """The decoder, of a VQ-VAE behind its codebook, whose gradient goes straight through."""

    def decode(codes: Tensor) -> Tensor:
        if net.model_name == "VQVAE":
            maps = codes.view(len(codes), 1, 1, -1) if codes.ndim == 2 else codes
            codes = net.quantizer(maps.permute(0, 2, 3, 1)).quantized_vector.reshape(codes.shape)
        return net.decoder(codes).reconstruction

    return decode


def _read_pythae(folder: Path) -> Any:
    models = _library("pythae.models")
    _config(folder / "model_config.json", "the final_model folder of pythae's trainer")
    return models.AutoModel.load_from_folder(str(folder))


def _config(path: Path, what: str) -> dict:
    if not path.is_file():
        below = sorted(path.parent.glob(f"**/{path.name}"))
        hint = f"; did you mean {below[-1].parent}?" if below else ""
        raise FileNotFoundError(f"{path} is not there; {what} expected{hint}")
    return files.read_json(path, dict)


def _library(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{package} is not installed; pip install {package}, or 'vaenb[audit]'") from error


def _kind(net: Any) -> str:
    return f"{type(net).__name__} {tuple(net.shape)}" if isinstance(net, Tensor) else type(net).__name__


def _is_pair(found: Any) -> bool:
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return False
    mean, logvar = found
    return isinstance(mean, Tensor) and isinstance(logvar, Tensor) and mean.shape == logvar.shape
