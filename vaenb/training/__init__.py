"""Training: `fit` minimises `model.losses(x, labels, generator)["loss"]` as a `Recipe` says."""

from vaenb.training.fitting import SAVE_EVERY, History, TrainingInterrupted, fit
from vaenb.training.recipe import DEFAULTS, Recipe, TrainingData, complete, named

__all__ = [
    "DEFAULTS",
    "SAVE_EVERY",
    "History",
    "Recipe",
    "TrainingData",
    "TrainingInterrupted",
    "complete",
    "fit",
    "named",
]
