"""Attacks: an objective and a ball over one engine (`pgd`)."""
