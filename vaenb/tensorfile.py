"""Tensors and notes in one safetensors file with a checksum: data, never code, and replaced only when whole."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from vaenb import files


class DamagedCheckpoint(RuntimeError):
    """A file of tensors that is not what was written: truncated, altered, or another format."""


def write(path: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Write tensors of any device with notes beside them; the file takes `path`'s place when it is complete.

    The same content gives the same bytes.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    digest = _digest(plain, notes)
    files.write(path, _in_order(to_safetensors(plain, notes | {"digest": digest})))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header in alphabetic order: the library's own order of notes is left to chance.

    A file is the length of the header (8 bytes, little-endian), the header (JSON, filled up with spaces to a multiple
    of 8 bytes), and the tensors, whose places the header counts from its own end.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write` wrote.

    Raises FileNotFoundError, or DamagedCheckpoint when the file is truncated, altered, or a pickle, which is never
    opened because it could run code.
    """
    tensors, notes = _opened(path)
    digest = notes.pop("digest", None)
    if digest is None:
        raise DamagedCheckpoint(f"{path} has no checksum, so it was not written by vaenb")
    if digest != _digest(tensors, notes):
        raise DamagedCheckpoint(f"{path} is damaged: its content does not match the checksum written with it")
    return tensors, notes


def _opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def check_names_and_shapes(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    """Refuse tensors of a file that are not those of `what`, a network or a training. Raises DamagedCheckpoint."""
    if _shapes(tensors) != _shapes(wanted):
        raise DamagedCheckpoint(f"{path} does not fit this {what}: names or shapes of the weights differ")


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _digest(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
