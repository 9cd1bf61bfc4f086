"""Training: `fit` minimises `model.losses(x, labels, generator)["loss"]` as a `Recipe` says."""

from vaenb.training.fitting import History, TrainingInterrupted, fit
from vaenb.training.recipe import DEFAULTS, Recipe, complete, named

__all__ = [
    "DEFAULTS",
    "History",
    "Recipe",
    "TrainingInterrupted",
    "complete",
    "fit",
    "named",
]
