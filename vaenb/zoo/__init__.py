"""The zoo: reference models with a card each, by name, and the recipes that they and the notebooks train from."""

from vaenb.zoo.recipes import FIRST_SEED, Entry, recipe
from vaenb.zoo.shelf import card, load, names, table

__all__ = ["FIRST_SEED", "Entry", "card", "load", "names", "recipe", "table"]
