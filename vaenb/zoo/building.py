"""Making the zoo anew: train from the full data, ask the gate, measure what will be loaded, write weights and card."""

import json
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import torch
from torch import nn

from vaenb import data, files, tensorfile
from vaenb.checkpoints import Converged, converged, trained
from vaenb.data import ImageSet
from vaenb.training import Recipe
from vaenb.zoo import shelf
from vaenb.zoo.quality import STATISTICS, quality
from vaenb.zoo.recipes import FIRST_SEED, RECIPES, recipe

_PAGE = Path(__file__).with_name("page.md")


class NotConverged(RuntimeError):
    """A recipe of the zoo failed its gate; `found` has the numbers."""

    def __init__(self, name: str, found: Converged) -> None:
        super().__init__(f"{name} can't go into the zoo; lengthen its recipe in vaenb/zoo/recipes.py: {found}")
        self.found = found


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

    Both trainings of the gate are in the checkpoint store: what was stopped goes on. Raises NotConverged, ValueError
    for an unknown name, DatasetUnavailable, and OSError where the zoo can't be written.
    """
    entry = recipe(name)
    watched = STATISTICS[entry.statistic]
    lessons, held_out = entry.images()
    test = data.load(entry.data, split="test", size=entry.size)
    training: Recipe = {**entry.training, "seed": FIRST_SEED, "validation": held_out}
    model, _ = trained(entry.build, entry.arguments, lessons, progress=progress, **training)
    gate = converged(
        entry.build,
        entry.arguments,
        lessons,
        statistic=lambda found: watched.measure(found, held_out),
        margin=watched.margin,
        runs_differ=watched.runs_differ,
        progress=progress,
        **training,
    )
    if not gate.passed:
        raise NotConverged(name, gate)
    about = {
        "name": name,
        "recipe": entry.description,
        "data": {"train": lessons.digest, "validation": held_out.digest, "test": test.digest},
        "gate": {"statistic": watched.words, "passed": gate.passed, "numbers": gate.numbers},
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


def _shown(folder: Path) -> str:
    root = files.project_folder()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
