"""What took long to measure, kept beside the checkpoints: a run that was stopped goes on with its next model."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from vaenb import files, spent, tensorfile
from vaenb.checkpoints import code_name, store
from vaenb.tensorfile import DamagedCheckpoint

_FORMAT = 3  # raise when anything that measures gives other numbers: an attack, a metric, a model's methods


def kept(compute: Callable[[], dict[str, Tensor]], **about: Any) -> dict[str, Tensor]:
    """Give the tensors of `compute()`, or those that were kept of the same `about`.

    `about` holds all that they depend on: plain values, tensors, networks (by classes, settings and weights), and
    functions (by name, and by their source where they are not the package's). Of what has no name, such as a lambda,
    nothing is kept, nor where the store can't be written. A damaged file is named in a warning and computed again.
    """
    try:
        told = json.dumps([_FORMAT, torch.__version__, about], sort_keys=True, default=_plain)
    except TypeError:  # no name, or no source
        return compute()
    path = store() / f"measured-{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        try:
            tensors, notes = tensorfile.read(path)
            spent.read_back(float(notes.get("seconds", 0)))
            names = json.loads(notes["names"])  # a file has them in its own order
            return {name: tensors[name] for name in names}
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; it is measured again", stacklevel=2)
    begun = perf_counter()
    found = {name: value.detach().cpu().contiguous() for name, value in compute().items()}
    notes = {"about": told, "names": json.dumps(list(found)), "seconds": f"{perf_counter() - begun:.1f}"}
    try:
        tensorfile.write(path, found, notes)
    except OSError as reason:
        warnings.warn(f"what was measured could not be kept in {path.parent} ({reason})", stacklevel=2)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _digest({"": value})
    if isinstance(value, nn.Module):
        return _network(value)
    if isinstance(value, slice):
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [code_name(type(value)), {field.name: getattr(value, field.name) for field in fields(value)}]
    if callable(value):
        return code_name(value)
    return files.plain(value)


def _network(network: nn.Module) -> list:
    """All that a network's outputs hang on: classes and settings of its parts, weights, and buffers, stored or not."""
    parts = {}
    for name, part in network.named_modules():
        settings = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        parts[name] = [f"{type(part).__module__}.{type(part).__qualname__}", settings]
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return [code_name(type(network)), parts, _digest(tensors)]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
