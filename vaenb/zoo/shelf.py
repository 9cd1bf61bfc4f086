"""The zoo's files: for each model its weights, float16 safetensors, and beside them its card, JSON."""

import json
from pathlib import Path
from typing import Any

import torch

from vaenb import files, tensorfile
from vaenb.tensorfile import DamagedCheckpoint
from vaenb.zoo.recipes import BUILDERS, RECIPES, hint

WEIGHTS = Path(__file__).parent / "weights"
AUDITS = Path(__file__).parent / "audits.json"  # written by `vaenb zoo audit`
_COLUMNS = ("model", "net", "latents", "penalty", "data")
_QUALITY = {"ELBO": ".1f", "KL": ".1f", "SSIM": ".3f", "accuracy": ".3f", "MSE": ".4f"}  # and a column for each
_AUDITED = {  # a column for each of these measures of the audit
    "decoder by spreads": "decoder by spreads: AADDC",
    "decoder by distance": "decoder by distance: AADDC",
    "encoder": "encoder: AADDC",
    "repaired": "repair: attacked image, repaired",
    "clean, HMC": "repair: clean image through HMC",
}


def names() -> list[str]:
    """The models that are there, in the order of their recipes and, without one, of their names."""
    there = []
    for path in WEIGHTS.glob("*/*.json"):
        there.append(f"{path.parent.name}/{path.stem}")
    order = list(RECIPES)
    return sorted(there, key=lambda name: (order.index(name) if name in order else len(order), name))


def paths(name: str) -> tuple[Path, Path]:
    """Where a model's weights and its card are, or would be."""
    return WEIGHTS / f"{name}.safetensors", WEIGHTS / f"{name}.json"


_AGAIN = "install vaenb again, or in a clone take both from git"


def card(name: str) -> dict:
    """Read a model's card: recipe, data with digests, quality on 1,000 test images, gate, date, versions, digest.

    Raises ValueError for an unknown name and for a damaged card.
    """
    there = names()
    if name not in there:
        if name in RECIPES:
            raise ValueError(f"name: {name} has a recipe but is not built yet; `vaenb zoo build {name}` makes it")
        raise ValueError(f"name: a model of the zoo expected, got {name!r}{hint(name, there)}")
    _, path = paths(name)
    return files.read_json(path, dict)


def load(name: str, device: torch.device | str = "cpu") -> Any:
    """Give a model of the zoo in evaluation mode, in float32: a `VAE`, or a `Classifier`.

    Raises ValueError for an unknown name, FileNotFoundError where the weights are not there, and DamagedCheckpoint
    where they are damaged or not those that the card describes.
    """
    about = card(name)
    path, _ = paths(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, though its card is; {_AGAIN}")
    if files.digest(path) != about["digest"]:
        raise DamagedCheckpoint(f"{path} is not the file of its card: one was altered; {_AGAIN}")
    return read(path, about["recipe"]).to(device)


def read(path: Path, described: dict) -> Any:
    """Read a model of this recipe's description from its weights, as `load` does."""
    tensors, notes = tensorfile.read(path)
    if json.loads(notes.get("recipe", "null")) != described:
        raise DamagedCheckpoint(f"{path} is of another recipe than its card; {_AGAIN}")
    model = _untrained(described)
    tensorfile.check_names_and_shapes(path, tensors, model.state_dict(), type(model).__name__)
    model.load_state_dict(tensors)  # widens the weights to the model's float32
    return model.to(memory_format=torch.channels_last).eval()


def _untrained(described: dict) -> Any:
    build = BUILDERS[described["builder"]]
    with torch.random.fork_rng(devices=[]):  # its random weights are thrown away
        return build(**described["arguments"])


def audits() -> dict[str, dict]:
    """The audits of the zoo's models by name: data, settings, and each measure's effect, low and high.

    One that is older than the model's weights is left out. Raises ValueError for a damaged file.
    """
    if not AUDITS.is_file():
        return {}
    found = {}
    for name, audit in files.read_json(AUDITS, dict).items():
        if name in names() and card(name)["digest"] == audit["digest"]:
            found[name] = audit
    return found


def table() -> str:
    """The leaderboard: every model with its quality on 1,000 test images and its audit, as a Markdown table.

    The ELBO and the KL from the prior are in nats; ELBOs of different likelihoods are not comparable. The audit's
    columns are areas under SSIM (AADDC), and the SSIM after HMC: larger is more robust.
    """
    head = [*_COLUMNS, *_QUALITY, *_AUDITED]
    lines = [head, ["---"] * len(head)]
    audited = audits()
    for name in names():
        measures = audited.get(name, {}).get("measures", {})
        lines.append(_row(card(name)) + _audited(measures))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _audited(measures: dict) -> list[str]:
    cells = []
    for measure in _AUDITED.values():
        cells.append(f"{measures[measure][0]:.2f}" if measure in measures else "–")
    return cells


def _row(about: dict) -> list[str]:
    made, quality = about["recipe"], about["quality"]
    arguments = made["arguments"]
    named = arguments.get("regularizer", "tc on top")
    penalty = f"{arguments['beta']:g} · {named}" if "beta" in arguments else "–"
    each = f"{arguments['layers']} × " if "layers" in arguments else ""
    latents = f"{each}{arguments.get('latent_dim', '–')}"
    images = f"{made['data']}, {made['size']} × {made['size']}"
    row = [about["name"], arguments.get("net", made["builder"]), latents, penalty, images]
    for what, shape in _QUALITY.items():
        row.append(format(quality[what], shape) if what in quality else "–")
    return row
