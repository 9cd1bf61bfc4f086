"""Markov chains: Hamiltonian Monte Carlo, the posterior of an image, and how far to trust a chain."""
