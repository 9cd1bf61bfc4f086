"""Rows of large tensors, a block at a time, so that memory does not grow with the number of images."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

BLOCK = 512  # images encoded at a time, whatever `chunk` is: the draws must not depend on it


def in_blocks(function: Callable[..., Tensor], *tensors: Tensor, size: int = BLOCK) -> Tensor:
    """Join what `function` gives for each block of `size` rows of tensors (N, …): one row for each of theirs."""
    found = []
    for block in zip(*(x.split(int(size)) for x in tensors), strict=True):
        values = function(*block)
        if values.ndim == 0 or len(values) != len(block[0]):
            raise ValueError(f"one row for each of {len(block[0])} expected, got shape {tuple(values.shape)}")
        found.append(values)
    return torch.cat(found)


def joined(parts: list) -> Any:
    """Put together what was found for the chunks of a batch: dataclasses of tensors with a row for each input."""
    whole = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        whole[field.name] = torch.cat(values) if isinstance(values[0], Tensor) else values[0]  # what all have alike
    return type(parts[0])(**whole)
