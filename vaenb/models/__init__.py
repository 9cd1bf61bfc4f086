"""Models, and the contract by which everything else uses them."""

from vaenb.models.autoencoder import VAE, vae
from vaenb.models.contract import DiagonalGaussian, LatentModel, Posterior, reconstruct

__all__ = ["VAE", "DiagonalGaussian", "LatentModel", "Posterior", "reconstruct", "vae"]
