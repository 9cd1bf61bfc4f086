"""Models, and the contract by which everything else uses them."""

from vaenb.contract import LatentModel, NotDefined, Posterior, reconstruct
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.models.autoencoder import DAE, VAE, dae, vae
from vaenb.models.diffusion import DAED, DDGM, ddgm, denoiser
from vaenb.models.hierarchical import HierarchicalVAE, PathPosterior, hierarchical_vae
from vaenb.models.seatbelt import LayeredPosterior, Seatbelt, seatbelt

__all__ = [
    "DAE",
    "DAED",
    "DDGM",
    "VAE",
    "DiagonalGaussian",
    "HierarchicalVAE",
    "LatentModel",
    "LayeredPosterior",
    "NotDefined",
    "PathPosterior",
    "Point",
    "Posterior",
    "Seatbelt",
    "dae",
    "ddgm",
    "denoiser",
    "hierarchical_vae",
    "reconstruct",
    "seatbelt",
    "vae",
]
