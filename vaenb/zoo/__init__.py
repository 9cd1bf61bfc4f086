"""The zoo: reference models with a card each, by name, and the recipes that they and the notebooks train from."""

from vaenb.zoo.recipes import FIRST_SEED, Entry, recipe
from vaenb.zoo.shelf import AUDITS, audits, card, load, names, table

__all__ = ["AUDITS", "FIRST_SEED", "Entry", "audits", "card", "load", "names", "recipe", "table"]
