"""Models, and the contract by which everything else uses them."""

from vaenb.models.autoencoder import VAE, vae
from vaenb.models.contract import DiagonalGaussian, LatentModel, Posterior, reconstruct
from vaenb.models.hierarchical import HierarchicalVAE, PathPosterior, hierarchical_vae

__all__ = [
    "VAE",
    "DiagonalGaussian",
    "HierarchicalVAE",
    "LatentModel",
    "PathPosterior",
    "Posterior",
    "hierarchical_vae",
    "reconstruct",
    "vae",
]
