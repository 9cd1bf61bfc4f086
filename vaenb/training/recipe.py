"""A recipe: how a model is trained, and on which part of its data."""

from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from torch import Tensor, nn

from vaenb.checks import check_choice, check_counts, check_number
from vaenb.distributions import seeded

_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # what torch calls a CPU's arithmetic in bfloat16


class TrainingData(Protocol):
    """What `fit` learns from: an ImageSet, or anything else that gives batches."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) in [0, 1] and what `model.losses` takes beside them, labels for one."""


class Recipe(TypedDict, total=False):
    """How a model is trained: what `fit` takes, and whoever calls it hands on."""

    epochs: int  # passes over the data
    batch_size: int
    lr: float  # the peak of the one-cycle rate, or the constant one
    schedule: str  # one-cycle or constant
    clip: float | None  # largest L2 norm of a step's gradient
    validation: TrainingData | float | None  # images, or a share of the data, whose loss is followed
    ema: float | None  # what the moving average of the weights keeps at a step
    precision: str  # float32, or bfloat16 for autocast
    seed: int


DEFAULTS: Recipe = {
    "batch_size": 128,
    "lr": 3e-3,
    "schedule": "one-cycle",
    "clip": None,
    "validation": None,
    "ema": None,
    "precision": "float32",
    "seed": 0,
}


def complete(recipe: Recipe) -> Recipe:
    """Check a recipe and fill in what it leaves out. Raises TypeError or ValueError."""
    unknown = sorted(set(recipe) - set(Recipe.__annotations__))
    if unknown or "epochs" not in recipe:
        known = ", ".join(Recipe.__annotations__)
        raise TypeError(f"a recipe: epochs, and of {known} what differs from the default, expected, got {[*recipe]}")
    full = Recipe(**{**DEFAULTS, **recipe})
    check_counts(epochs=full["epochs"], batch_size=full["batch_size"])
    check_number("lr", full["lr"], "a positive learning rate", above=0)
    check_choice("schedule", full["schedule"], ("one-cycle", "constant"))
    check_choice("precision", full["precision"], ("float32", "bfloat16"))
    seeded(full["seed"])
    ema, clip, validation = full["ema"], full["clip"], full["validation"]
    if ema is not None:
        check_number("ema", ema, "what the average keeps at a step, between 0 and 1,", above=0, below=1)
    if clip is not None:
        check_number("clip", clip, "None or a positive length of the gradient", above=0)
    if validation is not None and not hasattr(validation, "batch"):
        check_number("validation", validation, "images, or a share of the data in (0, 1),", above=0, below=1)
        full["validation"] = float(validation)  # numpy's, too
    full["epochs"], full["batch_size"] = int(full["epochs"]), int(full["batch_size"])  # numpy's may overflow
    return full


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bfloat16 where it would be emulated, slower than float32. Raises ValueError."""
    if precision == "float32":
        return
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = any(torch.cpu.get_capabilities().get(name) for name in _BF16)
    if not able:
        raise ValueError(f"precision: this {device.type} has no bfloat16 arithmetic; 'float32' expected")


def check_data(model: nn.Module, data: TrainingData, name: str = "data") -> None:
    """Refuse data that are empty or not where the model is. Raises ValueError."""
    if len(data) == 0:
        raise ValueError(f"{name}: the image set is empty")
    device = next(model.parameters()).device
    if device != data.device:
        raise ValueError(f"{name}: it is on {data.device} and the model on {device}; use {name}.to({str(device)!r})")


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the data, by their numbers (n,)."""

    data: TrainingData
    index: Tensor

    @property
    def device(self) -> torch.device:
        return self.data.device

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.data.batch(self.index[index])


def divided(data: TrainingData, validation: TrainingData | float | None) -> tuple[TrainingData, TrainingData | None]:
    """Give what is learnt from and what is held out; a share is drawn with seed 0, whatever the recipe's seed is."""
    if validation is None:
        return data, None
    if not isinstance(validation, (int, float)):
        return data, validation
    count = round(validation * len(data))
    if not 0 < count < len(data):
        raise ValueError(f"validation: {validation} of {len(data)} images holds out {count}; a larger set or share")
    order = torch.randperm(len(data), generator=seeded(0)).to(data.device)
    return Part(data, order[count:].sort().values), Part(data, order[:count].sort().values)


def named(data: TrainingData | float | None):
    """What tells data from others in a description: their digest where they have one, else how many they are."""
    if data is None or isinstance(data, (int, float)):
        return data
    return getattr(data, "digest", len(data))
