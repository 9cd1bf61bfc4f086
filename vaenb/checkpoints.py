"""The checkpoint store: `trained` is `fit` behind a store.

The weights for one description (builder, its arguments, data, fit settings, seed) are computed once and read from then
on. A file holds data and never code, and is replaced only when its successor is whole.
"""

import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from vaenb import files
from vaenb.data import ImageSet
from vaenb.training import History, TrainingInterrupted, fit

# Raise when `fit` gives other weights for the same description, as it does, too, when a default of `vae` changes that
# a builder passes on as **config: older checkpoints are then not found any more.
_FORMAT = 1


class DamagedCheckpoint(RuntimeError):
    """A model file that is not what was written: truncated, altered, or another format."""


def trained(
    build: Callable[..., nn.Module],
    config: dict,
    data: ImageSet,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    ema: float | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> tuple[nn.Module, History]:
    """Return `build(**config)` trained on `data`, from the checkpoint store if it is there.

    The weights are initialised from `seed`, too, and the global random state is left as it was. `folder` is the store:
    by default `$VAENB_CACHE`, else vaenb/models in the user's cache folder. A damaged file is named in a warning and
    trained again; two processes that ask for the same model train it once. Raises TrainingInterrupted, which carries
    the model: it is not stored, and what would have followed does not run on a half-trained one.
    """
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    if ema is not None:  # a description without it names the models from before there was an average
        settings["ema"] = ema
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        model = build(**config).to(data.device)
        description = _describe(build, config, data, settings)
        key = hashlib.sha256(description.encode()).hexdigest()[:16]
        path = _store(folder) / f"{build.__name__}-{key}.safetensors"
        with _locked(path):
            history = _stored(model, path, description)
            if history is None:
                history = fit(
                    model, data, epochs=epochs, batch_size=batch_size, lr=lr, ema=ema, seed=seed, progress=progress
                )
                _store_finished(model, path, description, history)
    return model, history


def _stored(model: nn.Module, path: Path, description: str) -> History | None:
    """Load the model from its file; None, where there is no whole one."""
    if not path.exists():
        return None
    try:
        return load_weights(model, path, description=description)
    except DamagedCheckpoint as damage:
        warnings.warn(f"{damage}; training it again", stacklevel=3)
        return None


def _store_finished(model: nn.Module, path: Path, description: str, history: History) -> None:
    if history.interrupted:
        raise TrainingInterrupted(model, history)
    try:
        save_weights(model, path, description=description, history=history)
    except OSError as reason:
        warnings.warn(f"the trained model could not be stored in {path.parent} ({reason})", stacklevel=3)


def save_weights(model: nn.Module, path: Path | str, *, description: str = "", history: History | None = None) -> None:
    """Write the weights and how they came about as safetensors, replacing `path` only when the file is complete."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    epochs = history.epochs if history else []
    metadata = {"description": description, "history": json.dumps(epochs)}
    digest = _digest(tensors, metadata)
    files.write(path, to_safetensors(tensors, metadata | {"digest": digest}))


def load_weights(model: nn.Module, path: Path | str, *, description: str | None = None) -> History:
    """Read weights written by `save_weights` into `model`, in evaluation mode, and return their history.

    Raises FileNotFoundError, or DamagedCheckpoint when the file is truncated, altered, for another model, or a pickle,
    which is never opened because it could run code. The model is changed only if all is well.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    digest = metadata.pop("digest", None)
    if digest != _digest(tensors, metadata):
        raise DamagedCheckpoint(f"{path} is damaged: its content does not match the checksum written with it")
    if description is not None and metadata.get("description") != description:
        raise DamagedCheckpoint(f"{path} holds another model: {metadata.get('description')}")
    if _shapes(model.state_dict()) != _shapes(tensors):
        kind = type(model).__name__
        raise DamagedCheckpoint(f"{path} does not fit this {kind}: names or shapes of the weights differ")
    model.load_state_dict(tensors)
    model.to(memory_format=torch.channels_last).eval()
    return History(json.loads(metadata["history"]))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and what is written beside them."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as reason:
        with path.open("rb") as opened:
            start = opened.read(2)
        if start == b"PK" or start[:1] == b"\x80":
            why = "is a pickle, not safetensors; a pickle can run code and is not opened"
        else:
            why = f"is damaged: it is not a complete safetensors file ({reason})"
        raise DamagedCheckpoint(f"{path} {why}") from reason


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _describe(build: Callable, config: dict, data: ImageSet, settings: dict) -> str:
    """Everything that is decided about the weights, defaults included, as one line of JSON."""
    call = inspect.signature(build).bind(**config)
    call.apply_defaults()
    what = {"format": _FORMAT, "build": _name(build), "config": call.arguments, "data": data.digest, **settings}
    try:
        return json.dumps(what, sort_keys=True, default=files.plain)
    except TypeError as reason:
        raise TypeError(f"config: plain values expected (numbers, strings, lists), to be stored: {reason}") from None


def _name(build: Callable) -> str:
    """Name a builder; of one that may change, its file's (or notebook cell's) source counts, not what that imports."""
    name = getattr(build, "__qualname__", "")
    if not name or "<" in name:
        raise TypeError(f"build: a named function or class at a module's top level expected, got {build!r}")
    if build.__module__.startswith("vaenb."):
        return f"{build.__module__}.{name}"
    source = "".join(inspect.findsource(build)[0])
    return f"{build.__module__}.{name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _store(folder: Path | str | None) -> Path:
    return files.expanded(folder or os.environ.get("VAENB_CACHE") or files.cache_folder("models"))


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the model's lock; where the store can't be written, go on without one, as nothing is written then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            print(f"another process is training this model; waiting for {path.name}")
            lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()
