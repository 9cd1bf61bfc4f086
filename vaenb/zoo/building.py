"""Making the zoo anew: train from the full data, ask the gate, measure what will be loaded, write weights and card."""

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from vaenb import data, files, tensorfile
from vaenb.checkpoints import Converged, converged, trained
from vaenb.data import ImageSet
from vaenb.training import Recipe
from vaenb.zoo import shelf
from vaenb.zoo.quality import STATISTICS, quality
from vaenb.zoo.recipes import FIRST_SEED, RECIPES, recipe


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
        "versions": _versions(),
    }
    return put(model, about, test)


def put(model: nn.Module, about: dict, test: ImageSet) -> dict:
    """Write a model's weights in float16, then its card with the quality of what `load` gives. The card is given."""
    weights, path = shelf.paths(about["name"])
    tensorfile.write(weights, _halved(model), {"recipe": json.dumps(about["recipe"])})
    stored = shelf.read(weights, about["recipe"])
    about = about | {"quality": quality(stored, test), "digest": files.digest(weights)}
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


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("vaenb", "torch"):
        versions[name] = metadata.version(name)
    return versions


def page() -> str:
    """The zoo's page of the documentation."""
    total = sum(path.stat().st_size for path in shelf.WEIGHTS.rglob("*") if path.is_file())
    return _PAGE.format(table=shelf.table(), size=total / 1e6, folder=_shown(shelf.WEIGHTS))


def _shown(folder: Path) -> str:
    root = files.project_folder()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


_PAGE = """# The zoo

Reference models that come with the package, trained with seed 100 and stored in float16. Where a claim's cells name
such a model, it is the first training run of that claim's evidence. Together they take {size:.1f} MB.

{table}

ELBO (nats an image, the bound at β = 1), KL (the nats that a code may tell of its image), SSIM of image and
reconstruction, and accuracy were measured on the first 1,000 test images, with the weights as they are stored. ELBOs
are comparable between models of the same likelihood only: that of `mnist/vae` is Bernoulli, those of document 001's
models are Gaussian. A deterministic autoencoder (`mmd-dae`, `swt-dae`) has none. MSE is what a diffusion model leaves
of the noise of a tenth of its steps; document 002b's denoisers (`dae-0.1`) have one step. A model whose KL is 0 tells
nothing: `mnist/kld-beta10` draws the same picture for every digit. It is here as a warning, since nothing is harder to
attack.

The last five columns come from the standard audit ([your own model](your-model.md)) on 300 test images, 16 of them
attacked: areas under the SSIM that an attack leaves (of the decoder by two yardsticks, of the encoder), and the SSIM to
the clean reconstruction of attacked and of clean images after HMC. Larger is more robust. Read them beside the SSIM: a
model that shows little has little to lose. `vaenb zoo audit` measures what is missing, into `vaenb/zoo/audits.json`,
which every audit page shows as its reference; a model that is built anew loses its audit until then.

## Load one

```python
from vaenb import zoo

model = zoo.load("mnist/kld")  # in evaluation mode, float32
zoo.card("mnist/kld")["gate"]  # has it converged?
```

A model's card says how it was trained, on which data, how it came through the gate *converged*, and with which
versions. The gate looks at the loss, and at how far a third more passes move a statistic. That of document 002a's
models, MS-SSIM under an attack on the encoder, spread from .57 to .65 over five training runs of `mnist/vae`. So two
runs can differ by .13, and a move within that says nothing of the passes.
A file that is damaged or that does not belong to its card is refused.

## Add one

1. Add an entry to `RECIPES` in `vaenb/zoo/recipes.py`: the builder with its arguments, the data, the passes, and the
   statistic that the gate watches beside the loss.
2. Run `vaenb zoo build NAME`. It trains on the full data (`VAENB_DATA`), and once more with four thirds of the passes.
   Both trainings are kept in the checkpoint store (`VAENB_CACHE`), so a build that was stopped goes on.
3. Where the gate fails nothing is written: give the recipe more passes, and run it again.
4. Run `vaenb zoo audit NAME`.
5. Commit the two files in `{folder}`, `vaenb/zoo/audits.json` and this page.

Without names `vaenb zoo build` makes the models that are missing and those whose recipe has changed.
"""
