"""Making the zoo anew: train from the full data, ask the gate, measure what will be loaded, write weights and card."""

import json
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import torch
from torch import nn

from vaenb import data, files, tensorfile
from vaenb.checkpoints import LARGEST_GAIN, gain, lengthened
from vaenb.data import ImageSet
from vaenb.training import Recipe
from vaenb.zoo import shelf
from vaenb.zoo.quality import STATISTICS, quality
from vaenb.zoo.recipes import FIRST_SEED, RECIPES, recipe

_PAGE = Path(__file__).with_name("page.md")


class NotConverged(RuntimeError):
    """A recipe of the zoo failed its gate."""

    def __init__(self, name: str, numbers: dict[str, float]) -> None:
        told = ", ".join(f"{key} {number:.4g}" for key, number in numbers.items())
        super().__init__(f"{name} can't go into the zoo; lengthen its recipe in vaenb/zoo/recipes.py: {told}")


def stale() -> list[str]:
    """The models that are missing, or whose recipe has changed since."""
    found = []
    for name, entry in RECIPES.items():
        try:
            shelf.load(name)
            fresh = shelf.card(name)["recipe"] == entry.description
        except (OSError, ValueError, tensorfile.DamagedCheckpoint):  # not there, or damaged
            fresh = False
        if not fresh:
            found.append(name)
    return found


def build(name: str, *, progress: bool = True) -> dict:
    """Train a model of RECIPES and put it on the shelf: give its card.

    The gate: 4/3 of the passes gain less than .003 nats a pixel on the validation images, and move the statistic by
    less than half its margin, or by less than two runs of one length differ by. Both trainings are in the checkpoint
    store: what was stopped goes on. Raises NotConverged, ValueError for an unknown name, DatasetUnavailable, and
    OSError where the zoo can't be written.
    """
    entry = recipe(name)
    watched = STATISTICS[entry.statistic]
    lessons, held_out = entry.images()
    test = data.load(entry.data, split="test", size=entry.size)
    training: Recipe = {**entry.training, "seed": FIRST_SEED, "validation": held_out}
    (model, history), (longer, more) = lengthened(entry.build, entry.arguments, lessons, progress=progress, **training)
    numbers: dict[str, float] = {"epochs": len(history.epochs), "longer": len(more.epochs)}
    numbers["loss"] = history.epochs[-1]["validation_loss"]
    numbers["longer loss"] = more.epochs[-1]["validation_loss"]
    numbers["gain in nats a pixel"] = gain(model, history, more, lessons)
    numbers["allowed gain"] = LARGEST_GAIN
    numbers["statistic"] = watched.measure(model, held_out)
    numbers["longer statistic"] = watched.measure(longer, held_out)
    numbers["allowed"] = watched.margin / 2
    if watched.runs_differ:
        numbers["runs differ by"] = watched.runs_differ
    moved = abs(numbers["longer statistic"] - numbers["statistic"])
    little = moved < max(watched.margin / 2, watched.runs_differ)
    if not (little and numbers["gain in nats a pixel"] < LARGEST_GAIN):  # NaN is not
        raise NotConverged(name, numbers)
    about = {
        "name": name,
        "recipe": entry.description,
        "data": {"train": lessons.digest, "validation": held_out.digest, "test": test.digest},
        "gate": {"statistic": watched.words, "passed": True, "numbers": numbers},
        "made": datetime.now(UTC).date().isoformat(),
        "versions": files.versions("vaenb", "torch"),
    }
    return put(model, about, test)


def put(model: nn.Module, about: dict, test: ImageSet) -> dict:
    """Write a model's weights in float16, then its card with the quality of what `load` gives. The card is given."""
    weights, path = shelf.paths(about["name"])
    part = weights.with_suffix(".part")
    tensorfile.write(part, _halved(model), {"recipe": json.dumps(about["recipe"])})
    stored = shelf.read(part, about["recipe"])
    about = about | {"quality": quality(stored, test), "digest": files.digest(part)}
    part.replace(weights)  # with its card right after: one without the other is damage
    files.write_json(path, about)
    return about


def _halved(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights in float16; counts stay whole numbers."""
    halved = {}
    for name, value in model.state_dict().items():
        halved[name] = value.half() if value.is_floating_point() else value
        if not halved[name].isfinite().all():
            raise ValueError(f"{name}: numbers up to 65504, the most that float16 holds, expected, got {value.max()}")
    return halved


def page() -> str:
    """The zoo's page of the documentation."""
    total = sum(path.stat().st_size for path in shelf.WEIGHTS.rglob("*") if path.is_file())
    page = Template(_PAGE.read_text(encoding="utf-8"))
    return page.substitute(table=shelf.table(), size=f"{total / 1e6:.1f}", folder=_shown(shelf.WEIGHTS))


def write_page() -> None:
    """Write docs/zoo.md, in a checkout of this project only: elsewhere a file of that name is somebody's own."""
    root = files.project_folder()
    if (root / "figures" / "plan.json").is_file():
        files.write(root / "docs" / "zoo.md", page())


def _shown(folder: Path) -> str:
    root = files.project_folder()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
