"""Attacks: a loss and a ball over one engine (`pgd`), or a loss alone over another (`lbfgs`)."""
