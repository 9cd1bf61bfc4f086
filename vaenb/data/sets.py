"""Loading a set by its name or its path."""

import difflib
import os
from dataclasses import replace
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from vaenb.data import sprites
from vaenb.data.folder import SPLITS, DatasetUnavailable, available, data_folder
from vaenb.data.imageset import ImageSet
from vaenb.data.public import PUBLIC, fetch, missing
from vaenb.data.readers import read_folder, read_npz

_COLORS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.uint8)


def load(
    name: str | Path,
    *,
    split: str = "train",
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    download: bool = True,
) -> ImageSet:
    """Load a set by name, or the images of a path (an .npz, or a folder of images, flat or one subfolder a class).

    `split` is train or test; a path is split 9:1, always the same way. `size` pads images that are up to 4 pixels
    smaller (28 → 32, with black) and resizes others bilinearly. `limit` draws at most so many images without
    replacement, by `seed`. `folder` is the data folder: by default `$VAENB_DATA`, else vaenb/data in the user's
    cache folder. Raises DatasetUnavailable for what can't be had, ValueError for bad arguments and bad files.
    """
    if not isinstance(name, (str, Path)):
        raise TypeError(f"name: the name or the path of a data set expected, got {type(name).__name__}")
    if split not in SPLITS:
        raise ValueError(f"split: {' or '.join(SPLITS)} expected, got {split!r}")
    for argument, value in {"size": size, "limit": limit}.items():
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{argument}: a whole number ≥ 1 expected, got {value!r}")
    if name == "sprites":
        images = _sprites(split, limit, seed)
    else:
        images = _limited(_load(name, split, size, data_folder(folder), download), limit, seed)
    return images if size is None else replace(images, images=_resized(images.images, size))


def _load(name: str | Path, split: str, size: int | None, folder: Path, download: bool) -> ImageSet:
    if isinstance(name, Path) or os.sep in name or name.endswith(".npz"):
        return _from_path(Path(name).expanduser(), split, size)
    if name == "digits":
        return _digits(split)
    file = folder / f"{name}_{split}.npz"
    if file.exists():
        return read_npz(file, name, split)
    if name == "color_mnist":
        return _color_mnist(_load("mnist", split, None, folder, download))
    if name not in PUBLIC and Path(name).is_dir():
        return _from_path(Path(name), split, size)
    if name not in PUBLIC:
        known = [*dict.fromkeys([*available(folder), *PUBLIC, "color_mnist"])]
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DatasetUnavailable(
            f"data set {name!r} is not known and {file} does not exist{hint}. Known: {', '.join(known)}, the path of "
            "an .npz or of a folder of images, or any <name>_<split>.npz in the data folder"
        )
    if not download:
        raise DatasetUnavailable(missing(name, file, "download=False"))
    return fetch(name, split, file)


def _digits(split: str) -> ImageSet:
    """scikit-learn's 1,797 real 8×8 handwritten digits: 1,437 for training and 360 for testing, stratified."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = train_test_split(pixels, bunch.target, test_size=360, stratify=bunch.target, random_state=0)
    images, labels = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts[SPLITS.index(split) :: 2])
    return ImageSet(images, labels.long(), "digits", split)


def _sprites(split: str, limit: int | None, seed: int) -> ImageSet:
    """20,000 sprites for training and 5,000 for testing, none in both; with a limit only those are drawn."""
    order = torch.randperm(sprites.COUNT, generator=torch.Generator().manual_seed(0))
    index = order[:20_000] if split == "train" else order[20_000:25_000]
    if limit is not None:
        index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:limit]]
    factors = sprites.sprite_factors(index)
    return ImageSet(
        sprites.render_sprites(index), factors[:, 0].long(), "sprites", split, factors, tuple(sprites.FACTORS)
    )


def _color_mnist(mnist: ImageSet) -> ImageSet:
    """MNIST in seven colours, one drawn for each image; factors are the digit and the colour (document 002a)."""
    generator = torch.Generator().manual_seed(SPLITS.index(mnist.split))
    color = torch.randint(len(_COLORS), (len(mnist),), generator=generator)
    images = mnist.images * _COLORS[color].view(-1, 3, 1, 1)
    factors = torch.stack([mnist.labels, color], 1).float()
    return ImageSet(images, mnist.labels, "color_mnist", mnist.split, factors, ("digit", "color"))


def _from_path(path: Path, split: str, size: int | None) -> ImageSet:
    if path.is_dir():
        whole = read_folder(path, size)
    elif path.is_file():
        whole = read_npz(path, path.stem, split)
    else:
        raise DatasetUnavailable(f"{path} does not exist; a path names an .npz or a folder of images")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    cut = max(1, len(whole) // 10)
    if len(whole) < 2:
        raise ValueError(f"{path}: at least two images expected, to train and to test on, got {len(whole)}")
    return replace(whole.take(order[cut:] if split == "train" else order[:cut]), name=path.stem, split=split)


def _limited(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    if limit is None or limit >= len(images):
        return images
    return images.take(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:limit])


def _resized(images: Tensor, size: int) -> Tensor:
    missing = size - images.shape[-1]
    if 0 <= missing <= 4:
        return F.pad(images, (missing // 2, missing - missing // 2) * 2)
    parts = (
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in images.split(4096)  # floats take four times the memory
    )
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
