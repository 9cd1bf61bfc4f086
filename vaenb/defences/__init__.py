"""Defences: HMC repair, purification, a refitted encoder, adversarial training."""
