"""Models, and the contract by which everything else uses them."""

from vaenb.models.autoencoder import DAE, VAE, dae, vae
from vaenb.models.contract import DiagonalGaussian, LatentModel, NotDefined, Point, Posterior, reconstruct
from vaenb.models.hierarchical import HierarchicalVAE, PathPosterior, hierarchical_vae

__all__ = [
    "DAE",
    "VAE",
    "DiagonalGaussian",
    "HierarchicalVAE",
    "LatentModel",
    "NotDefined",
    "PathPosterior",
    "Point",
    "Posterior",
    "dae",
    "hierarchical_vae",
    "reconstruct",
    "vae",
]
