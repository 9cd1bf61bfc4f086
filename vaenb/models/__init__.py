"""Models, and the contract by which everything else uses them."""

from vaenb.contract import LatentModel, NotDefined, Posterior, reconstruct
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.models.autoencoder import VAE, DeterministicAE, deterministic_ae, vae
from vaenb.models.diffusion import DAED, DDGM, ddgm, denoiser
from vaenb.models.hierarchical import HierarchicalVAE, hierarchical_vae
from vaenb.models.seatbelt import Seatbelt, seatbelt

__all__ = [
    "DAED",
    "DDGM",
    "VAE",
    "DeterministicAE",
    "DiagonalGaussian",
    "HierarchicalVAE",
    "LatentModel",
    "NotDefined",
    "Point",
    "Posterior",
    "Seatbelt",
    "ddgm",
    "denoiser",
    "deterministic_ae",
    "hierarchical_vae",
    "reconstruct",
    "seatbelt",
    "vae",
]
