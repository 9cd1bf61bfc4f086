"""The checkpoint store: `trained` is `fit` behind a store, and `lengthened` asks it for a longer training, too.

The weights for one description (builder, its arguments, data, recipe) are computed once and read from then on. A file
holds data and never code, and is replaced only when its successor is whole. Beside it grows the file of a training
under way, `.state`, with which the same call goes on.
"""

import hashlib
import inspect
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import torch
from filelock import FileLock, Timeout
from torch import nn

from vaenb import files, spent, tensorfile
from vaenb.data import ImageSet
from vaenb.tensorfile import DamagedCheckpoint
from vaenb.training import History, Recipe, TrainingInterrupted, complete, fit, named

# Raise when `fit` gives other weights for the same description, as it does, too, when a default of `vae` changes that
# a builder passes on as **config: older checkpoints are then not found any more.
_FORMAT = 3

LARGEST_GAIN = 0.003  # nats a pixel, of a recipe that has converged


def trained(
    build: Callable[..., nn.Module],
    config: dict,
    data: ImageSet,
    *,
    folder: Path | str | None = None,
    progress: bool = True,
    **recipe: Unpack[Recipe],
) -> tuple[nn.Module, History]:
    """Return `build(**config)` trained on `data`, from the checkpoint store if it is there.

    The recipe is that of `training.fit`. The weights are initialised from its `seed`, too, and the global random state
    is left as it was. `folder` is the store: by default `$VAENB_CACHE`, else vaenb/models in the user's cache folder. A
    damaged file is named in a warning and trained again; two processes that ask for the same model train it once.

    Ctrl-C raises TrainingInterrupted, which carries the model: what would have followed does not run on a half-trained
    one. The same call then goes on from there, as it does after a kill from what was kept in the last minute, and ends
    with the weights of a training that was never stopped.
    """
    full = complete(recipe)
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        torch.default_generator.manual_seed(int(full["seed"]))
        if data.device.type == "cuda":
            torch.cuda.manual_seed(int(full["seed"]))
        model = build(**config).to(data.device)
        description = _describe(build, config, data, full)
        key = hashlib.sha256(description.encode()).hexdigest()[:16]
        path = store(folder) / f"{build.__name__}-{key}.safetensors"
        with _locked(path):
            history = _stored(model, path, description)
            if history is None:
                state = path.with_suffix(".state")
                history = fit(model, data, state=state, progress=progress, **full)
                if history.interrupted:
                    raise TrainingInterrupted(model, history, kept=state.exists())
                _store_finished(model, path, state, description, history)
    return model, history


def _stored(model: nn.Module, path: Path, description: str) -> History | None:
    """Load the model from its file; None, where there is no whole one."""
    if not path.exists():
        return None
    try:
        history = load_weights(model, path, description=description)
        spent.read_back(history.seconds)
        return history
    except DamagedCheckpoint as damage:
        warnings.warn(f"{damage}; training it again", stacklevel=3)
        return None


def _store_finished(model: nn.Module, path: Path, state: Path, description: str, history: History) -> None:
    try:
        save_weights(model, path, description=description, history=history)
        state.unlink(missing_ok=True)  # not before: a full disk or a kill would cost the whole training
    except OSError as reason:
        warnings.warn(f"the trained model could not be stored in {path.parent} ({reason})", stacklevel=3)


def save_weights(model: nn.Module, path: Path | str, *, description: str = "", history: History | None = None) -> None:
    """Write the weights and how they came about as safetensors, replacing `path` only when the file is complete."""
    history = history or History()
    notes = {"description": description, "history": json.dumps(history.epochs), "precision": history.precision}
    notes["seconds"] = str(history.seconds)
    tensorfile.write(Path(path), model.state_dict(), notes)


def load_weights(model: nn.Module, path: Path | str, *, description: str | None = None) -> History:
    """Read weights written by `save_weights` into `model`, in evaluation mode, and return their history.

    Raises FileNotFoundError, or DamagedCheckpoint when the file is truncated, altered, for another model, or a pickle,
    which is never opened because it could run code. The model is changed only if all is well.
    """
    path = Path(path)
    tensors, notes = tensorfile.read(path)
    if description is not None and notes.get("description") != description:
        raise DamagedCheckpoint(f"{path} holds another model: {notes.get('description')}")
    tensorfile.check_names_and_shapes(path, tensors, model.state_dict(), type(model).__name__)
    if not {"history", "precision"} <= set(notes):
        raise DamagedCheckpoint(f"{path} was not written by `save_weights`: it says nothing of the training")
    history = History(
        json.loads(notes["history"]), precision=notes["precision"], seconds=float(notes.get("seconds", 0))
    )
    model.load_state_dict(tensors)
    model.to(memory_format=torch.channels_last).eval()
    return history


def gain(model: nn.Module, before: History, after: History, data: ImageSet) -> float:
    """How much lower the last validation loss of `after` is, in nats a pixel of the images.

    A loss is in nats an image, unless the model says how many `nats_a_pixel` it is worth.
    """
    fall = before.epochs[-1]["validation_loss"] - after.epochs[-1]["validation_loss"]
    return fall * getattr(model, "nats_a_pixel", 1 / math.prod(data.shape))


def lengthened(
    build: Callable[..., nn.Module], config: dict, data: ImageSet, *, progress: bool = True, **recipe: Unpack[Recipe]
) -> list[tuple[nn.Module, History]]:
    """A recipe's model as `trained` gives it, and one of 4/3 of its passes.

    Raises ValueError for a recipe without validation images.
    """
    full = complete(recipe)
    if full["validation"] is None:
        raise ValueError("validation: images, or a share of the data to hold out, expected, got None")
    found = []
    for passes in (full["epochs"], math.ceil(full["epochs"] * 4 / 3)):
        full["epochs"] = passes
        found.append(trained(build, config, data, progress=progress, **full))
    return found


def _describe(build: Callable, config: dict, data: ImageSet, recipe: Recipe) -> str:
    """Everything that is decided about the weights, defaults included, as one line of JSON."""
    call = inspect.signature(build).bind(**config)
    call.apply_defaults()
    what = {"format": _FORMAT, "build": code_name(build), "config": call.arguments, "data": data.digest, **recipe}
    what["validation"] = named(recipe["validation"])
    try:
        return json.dumps(what, sort_keys=True, default=files.plain)
    except TypeError as reason:
        raise TypeError(f"config: plain values expected (numbers, strings, lists), to be stored: {reason}") from None


def code_name(build: Callable) -> str:
    """Name a function or class; of one that may change, its file's (or notebook cell's) source counts, too.

    What that imports does not. Raises TypeError for one that is not at a module's top level, and where no source is.
    """
    build = inspect.unwrap(build)  # of decorators, whose file is another
    name = getattr(build, "__qualname__", "")
    if not name or "<" in name or inspect.ismethod(build):
        raise TypeError(f"build: a named function or class at a module's top level expected, got {build!r}")
    if build.__module__.startswith("vaenb."):
        return f"{build.__module__}.{name}"
    try:
        source = "".join(inspect.findsource(build)[0])
    except OSError:
        raise TypeError(f"build: {name} has no source that could be hashed; in a notebook, give a function") from None
    return f"{build.__module__}.{name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"


def store(folder: Path | str | None = None) -> Path:
    """The folder of the checkpoint store."""
    return files.expanded(folder or os.environ.get("VAENB_CACHE") or files.cache_folder("models"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the model's lock; where the store can't be written, go on without one, as nothing is written then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"another process is training this model; waiting for {path.name}", file=sys.stderr)
            lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()
