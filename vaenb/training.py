"""Training, and the checkpoint store.

`fit` minimises `model.losses(x, labels, generator)["loss"]` with Adam. `trained` is `fit` behind a store: the weights
for one description (builder, its arguments, data, fit settings, seed) are computed once and read from then on.
"""

import hashlib
import inspect
import json
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from vaenb import files
from vaenb.data import ImageSet

# Raise when `fit` gives other weights for the same description, as it does, too, when a default of `vae` changes that
# a builder passes on as **config: older checkpoints are then not found any more.
_FORMAT = 1


@dataclass(frozen=True)
class History:
    """Mean statistics of every finished epoch (the keys of `model.losses`), and whether training was interrupted."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False


class TrainingInterrupted(KeyboardInterrupt):
    """`trained` was stopped by Ctrl-C or the kernel's stop; `model` and `history` are what it had by then."""

    def __init__(self, model: nn.Module, history: History) -> None:
        super().__init__(f"training stopped after {len(history.epochs)} epochs; the model is usable but not stored")
        self.model, self.history = model, history


class DamagedCheckpoint(RuntimeError):
    """A model file that is not what was written: truncated, altered, or another format."""


def fit(
    model: nn.Module,
    data: ImageSet,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    ema: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `model` in place with Adam and leave it in evaluation mode.

    Where the model has `further_losses(x, generator)`, each loss that it yields after a batch gets a step of its own:
    weights that a loss does not reach stay as they are. With `ema`, such as .9999, the model is left with the moving
    average of its weights (the history's losses are of the weights themselves): after batch 1 they are copied, after
    batch n + 1 the average keeps min(ema, (1 + n)/(10 + n)) of itself, so that a short training is not held back by
    its beginning. BatchNorm's running statistics are not averaged: they stay those of the weights themselves.

    `data` lies on the model's device. Batches are permutations of it drawn from `seed`; an incomplete last batch is
    left out. The same model, data, settings and seed give the same weights on one machine's CPU at one thread count, if
    all that the model draws comes from the generator it is given (dropout draws from torch's global one).
    Ctrl-C or a kernel's stop ends training after the step at hand: the weights stay usable and the history says
    `interrupted`; a second Ctrl-C stops at once. Raises FloatingPointError when the loss is no longer finite.
    """
    _check_fit(model, data, epochs, batch_size, lr, ema)
    device = data.images.device
    generator = torch.Generator(device).manual_seed(seed)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    batch_size = min(batch_size, len(data))
    steps = len(data) // batch_size
    history = History()
    further = getattr(model, "further_losses", lambda x, generator: ())
    # once a second: a notebook's front end that reads only at a cell's end keeps 1000 messages and loses the rest
    bar = tqdm(total=epochs * steps, leave=False, disable=not progress, mininterval=1)
    with _training(model) as stopped, _averaging(model, ema) as average, bar:
        for epoch in range(epochs):
            totals: dict[str, Tensor] = {}
            order = torch.randperm(len(data), generator=generator, device=device)[: steps * batch_size]
            for index in order.split(batch_size):
                x = data.float(index).contiguous(memory_format=torch.channels_last)
                losses = model.losses(x, data.labels[index], generator)
                _step(optimizer, losses["loss"])
                for loss in further(x, generator):
                    _step(optimizer, loss)
                average()
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0) + value.detach()
                bar.update()
                if stopped:
                    return History(history.epochs, interrupted=True)
            means = {name: (total / steps).item() for name, total in totals.items()}
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(
                    f"epoch {epoch + 1}: the loss is not finite ({means}); try a smaller lr than {lr}"
                )
            history.epochs.append(means)
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
    return history


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


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
    device = data.images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
        if ema is not None:  # a description without it names the models from before there was an average
            settings["ema"] = ema
        return _trained(build, config, data, settings, folder, progress)


def _trained(build, config, data, settings, folder, progress) -> tuple[nn.Module, History]:
    model = build(**config).to(data.images.device)
    description = _describe(build, config, data, settings)
    key = hashlib.sha256(description.encode()).hexdigest()[:16]
    path = _store(folder) / f"{build.__name__}-{key}.safetensors"
    with _locked(path):
        if path.exists():
            try:
                return model, load_weights(model, path, description=description)
            except DamagedCheckpoint as damage:
                warnings.warn(f"{damage}; training it again", stacklevel=3)
        history = fit(model, data, **settings, progress=progress)
        if history.interrupted:
            raise TrainingInterrupted(model, history)
        try:
            save_weights(model, path, description=description, history=history)
        except OSError as reason:
            warnings.warn(f"the trained model could not be stored in {path.parent} ({reason})", stacklevel=3)
    return model, history


def save_weights(model: nn.Module, path: Path | str, *, description: str = "", history: History | None = None) -> None:
    """Write the weights and how they came about as safetensors, replacing `path` only when the file is complete."""
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"description": description, "history": json.dumps((history or History()).epochs)}
    files.write(path, to_safetensors(tensors, {**metadata, "digest": _digest(tensors, metadata)}))


def load_weights(model: nn.Module, path: Path | str, *, description: str | None = None) -> History:
    """Read weights written by `save_weights` into `model`, in evaluation mode, and return their history.

    Raises FileNotFoundError, or DamagedCheckpoint when the file is truncated, altered, for another model, or a pickle,
    which is never opened because it could run code. The model is changed only if all is well.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as reason:
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"PK" or start[:1] == b"\x80":
            raise DamagedCheckpoint(
                f"{path} is a pickle, not safetensors; a pickle can run code and is not opened"
            ) from None
        raise DamagedCheckpoint(f"{path} is damaged: it is not a complete safetensors file ({reason})") from reason
    digest = metadata.pop("digest", None)
    if digest != _digest(tensors, metadata):
        raise DamagedCheckpoint(f"{path} is damaged: its content does not match the checksum written with it")
    if description is not None and metadata.get("description") != description:
        raise DamagedCheckpoint(f"{path} holds another model: {metadata.get('description')}")
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if expected != {name: tuple(value.shape) for name, value in tensors.items()}:
        raise DamagedCheckpoint(
            f"{path} does not fit this {type(model).__name__}: names or shapes of the weights differ"
        )
    model.load_state_dict(tensors)
    model.to(memory_format=torch.channels_last).eval()
    return History(json.loads(metadata["history"]))


def _check_fit(model: nn.Module, data: ImageSet, epochs: int, batch_size: int, lr: float, ema: float | None) -> None:
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: a whole number ≥ 1 expected, got {value!r}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr: a positive learning rate expected, got {lr!r}")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(
            f"ema: what the average of the weights keeps at a step, between 0 and 1, expected, got {ema!r}"
        )
    if len(data) == 0:
        raise ValueError("data: the image set is empty")
    device = next(model.parameters()).device
    if device != data.images.device:
        raise ValueError(f"data: it is on {data.images.device} and the model on {device}; use data.to({str(device)!r})")


def _describe(build: Callable, config: dict, data: ImageSet, settings: dict) -> str:
    """Everything that is decided about the weights, defaults included, as one line of JSON."""
    call = inspect.signature(build).bind(**config)
    call.apply_defaults()
    what = {"format": _FORMAT, "build": _name(build), "config": call.arguments, "data": data.digest, **settings}
    try:
        return json.dumps(what, sort_keys=True)
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
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaenb" / "models"
    return Path(folder or os.environ.get("VAENB_CACHE") or default)


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        sha.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
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


@contextmanager
def _averaging(model: nn.Module, ema: float | None) -> Iterator[Callable[[], None]]:
    """Yield what takes the weights at hand into their moving average; at the end the model gets the average."""
    if ema is None:
        yield lambda: None
        return

    def blend(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(ema, (1 + int(count)) / (10 + int(count))))

    average = AveragedModel(model, multi_avg_fn=blend)
    try:
        yield lambda: average.update_parameters(model)
    finally:
        model.load_state_dict(average.module.state_dict())


@contextmanager
def _training(model: nn.Module) -> Iterator[list]:
    """Put the model in training mode, and in evaluation mode at the end, however it ends.

    Collects the first SIGINT instead of raising in the middle of an optimiser step; the second one raises.
    """
    stopped: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)

    def note(signum, frame) -> None:
        stopped.append(signum)
        signal.signal(signal.SIGINT, before)

    if in_main:
        signal.signal(signal.SIGINT, note)
    try:
        model.train()
        yield stopped
    finally:
        model.eval()
        if in_main:
            signal.signal(signal.SIGINT, before)
