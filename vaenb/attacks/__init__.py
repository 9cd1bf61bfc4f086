"""Attacks: an objective and a ball over one engine (`pgd`), or an objective alone over another (`lbfgs`)."""
