"""The recipes of the zoo's models.

The notebooks' paper runs train from them, too: the zoo's model is the first training run of the evidence.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vaenb import data, files
from vaenb.data import ImageSet
from vaenb.models import vae
from vaenb.models.classifier import cnn_classifier, mlp_classifier
from vaenb.training import Recipe, complete

FIRST_SEED = 100  # of the training runs that count
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "vae": vae,
    "cnn_classifier": cnn_classifier,
    "mlp_classifier": mlp_classifier,
}  # a card names one: it is data, and no name of it is imported


@dataclass(frozen=True)
class Entry:
    """How a model comes about: a builder of BUILDERS with its arguments, the data, and how it is trained."""

    builder: str
    arguments: dict
    training: Recipe  # without seed and validation images
    statistic: str  # of `quality.STATISTICS`, beside the loss in the gate
    data: str = "mnist"
    size: int = 32  # pixels a side
    held_out: int = 5_000  # the last training images, for gates and tuning

    @property
    def build(self) -> Callable[..., nn.Module]:
        return BUILDERS[self.builder]

    @property
    def description(self) -> dict:
        """All that is decided about the model, as plain values: what its card has, and is compared with."""
        about = {
            "builder": self.builder,
            "arguments": self.arguments,
            "training": complete({**self.training, "seed": FIRST_SEED}),
            "statistic": self.statistic,
            "data": self.data,
            "size": self.size,
            "held out": self.held_out,
        }
        return files.plainly(about)

    def images(self, folder: Path | str | None = None) -> tuple[ImageSet, ImageSet]:
        """The images to train on, and the last `held_out` ones, which no model sees; `folder` as for `data.load`."""
        every = data.load(self.data, split="train", size=self.size, folder=folder)
        cut = len(every) - self.held_out
        return every.take(slice(cut)), every.take(slice(cut, None))


def _vae(net: str, latent_dim: int, likelihood: str, regularizer: str = "kl", beta: float = 1.0) -> dict:
    """The arguments of a VAE of MNIST."""
    return {
        "image_shape": (1, 32, 32),
        "latent_dim": latent_dim,
        "net": net,
        "likelihood": likelihood,
        "regularizer": regularizer,
        "beta": beta,
    }


_DIGITS = {"image_shape": (1, 32, 32), "classes": 10}
_PASSES_001: Recipe = {"epochs": 10, "batch_size": 64}  # the document's batches

RECIPES: dict[str, Entry] = {
    # document 000's net, and one without convolutions
    "mnist/cnn": Entry("cnn_classifier", _DIGITS, {"epochs": 6}, "accuracy"),
    # document 001's, KLD at β = 1
    "mnist/kld": Entry("vae", _vae("conv001", 10, "gaussian"), _PASSES_001, "latent attack"),
    # document 002a's
    "mnist/vae": Entry("vae", _vae("conv002a", 64, "bernoulli"), {"epochs": 8}, "encoder attack"),
    # document 001's others
    "mnist/mmd": Entry("vae", _vae("conv001", 10, "gaussian", "mmd", 100.0), _PASSES_001, "latent attack"),
    "mnist/swt": Entry("vae", _vae("conv001", 10, "gaussian", "sw", 100.0), _PASSES_001, "latent attack"),
    "mnist/kld-beta4": Entry("vae", _vae("conv001", 10, "gaussian", "kl", 4.0), _PASSES_001, "latent attack"),
    "mnist/kld-beta10": Entry("vae", _vae("conv001", 10, "gaussian", "kl", 10.0), _PASSES_001, "latent attack"),
    "mnist/mlp": Entry("mlp_classifier", _DIGITS, {"epochs": 10}, "accuracy"),
}  # in the order in which they are built


def recipe(name: str) -> Entry:
    """Give a model's recipe. Raises ValueError for an unknown name, with one that is like it."""
    if name not in RECIPES:
        raise ValueError(f"name: a model of the zoo expected, got {name!r}{hint(name, list(RECIPES))}")
    return RECIPES[name]


def hint(name: str, known: list[str]) -> str:
    """Say which known name is like this one, and which there are."""
    close = difflib.get_close_matches(str(name), known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; there are {', '.join(known) or 'none'}"
