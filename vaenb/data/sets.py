"""Loading a set by its name or its path."""

import difflib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from vaenb.checks import check_choice, check_whole
from vaenb.data import sprites
from vaenb.data.folder import EMBEDDED, SPLITS, DatasetUnavailable, available, data_folder
from vaenb.data.imageset import ImageSet
from vaenb.data.originals import named_by_content
from vaenb.data.public import PUBLIC, fetch, missing
from vaenb.data.readers import PhotoFolder, read_npz
from vaenb.distributions import seeded
from vaenb.files import expanded

# What the labels of Fashion-MNIST mean.
GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = ("celeba_10k", "svhn_7k")  # of public sets; nobody can fetch them
BENCHMARKS = (*EMBEDDED, *PUBLIC, "color_mnist", *PARTS)
_SMALL = Path(__file__).with_name("embedded")  # parts of MNIST and Fashion-MNIST, see LICENSES.md there
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
    _check_given(name)
    check_choice("split", split, SPLITS)
    _check_numbers(size=size, limit=limit)
    folder = data_folder(folder)
    if name in ("sprites", "little_sprites"):
        images = _sprites(str(name), split, limit, seed)
    elif (path := path_of(name, split, folder)) is not None:
        images = _from_path(path, split, size, limit, seed)
    else:
        images = _named(str(name), split, folder, download)
        if limit is not None:
            images = images.take(_limited_index(torch.arange(len(images)), limit, seed))
    return _sized(images, size)


def whole(path: Path | str, *, size: int | None = None, limit: int | None = None) -> ImageSet:
    """Load all images of an .npz or of a folder, which `load` would split; the rest as there, `limit` by seed 0."""
    _check_given(path)
    _check_numbers(size=size, limit=limit)
    images = _from_path(expanded(path), None, size, limit, seed=0)
    return replace(_sized(images, size), split="test")


def _check_given(name: str | Path) -> None:
    if not str(name):  # of a shell's variable that is not set; as a path it would be the current folder
        raise ValueError("name: the name or the path of a data set expected, got an empty text")


def _check_numbers(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None:
            check_whole(name, value)


def path_of(name: str | Path, split: str, folder: Path) -> Path | None:
    """The path that is meant, or None where it is a name: of a known set, of one in the data folder, or misspelt."""
    if isinstance(name, Path) or os.sep in name or name.endswith(".npz"):
        return expanded(name)
    known = name in BENCHMARKS or (folder / f"{name}_{split}.npz").exists()
    return Path(name) if not known and Path(name).is_dir() else None


def _named(name: str, split: str, folder: Path, download: bool) -> ImageSet:
    if name == "digits":
        return _digits(split)
    if name in EMBEDDED:
        return read_npz(_SMALL / f"{name}_{split}.npz", name, split)
    file = folder / f"{name}_{split}.npz"
    if file.exists():
        images = read_npz(file, name, split, fetched=name in PUBLIC)
        return named_by_content(images) if name in BENCHMARKS else images
    if name == "color_mnist":
        return _color_mnist(_named("mnist", split, folder, download))
    if name in PUBLIC:
        if not download:
            raise DatasetUnavailable(missing(name, file, "download=False"))
        return named_by_content(fetch(name, split, file))
    if name in PARTS:
        raise DatasetUnavailable(f"{name}: {file} does not exist; docs/data.md says which part of a public set it is")
    raise DatasetUnavailable(_unknown(name, file))


def _unknown(name: str, file: Path) -> str:
    for split in SPLITS:
        half = file.with_name(f"{name}_{split}.npz")
        if half.is_file():
            return f"data set {name!r}: {half.name} is in {half.parent}, {file.name} is not"
    fetchable = [benchmark for benchmark in BENCHMARKS if benchmark not in PARTS]
    known = list(dict.fromkeys([*available(file.parent), *fetchable]))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"data set {name!r} is not known and {file} does not exist{hint}. Known: {', '.join(known)}, the path of "
        "an .npz or of a folder of images, or any <name>_<split>.npz in the data folder"
    )


def _digits(split: str) -> ImageSet:
    """scikit-learn's 1,797 real 8×8 handwritten digits: 1,437 for training and 360 for testing, stratified."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test, train_labels, test_labels = train_test_split(
        pixels, bunch.target, test_size=360, stratify=bunch.target, random_state=0
    )
    images, labels = (train, train_labels) if split == "train" else (test, test_labels)
    return ImageSet(torch.tensor(images), torch.tensor(labels).long(), "digits", split)


def _sprites(name: str, split: str, limit: int | None, seed: int) -> ImageSet:
    """20,000 sprites, or all 10,360 others of a little world, to train on, and 5,000 to test; only those are drawn."""
    world = torch.arange(sprites.COUNT) if name == "sprites" else sprites.little_world()
    order = world[torch.randperm(len(world), generator=seeded(0))]
    cut = 20_000 if name == "sprites" else len(order) - 5_000
    index = order[:cut] if split == "train" else order[cut : cut + 5_000]
    index = _limited_index(index, limit, seed)
    images = sprites.render_sprites(index)
    factors = sprites.sprite_factors(index)
    return ImageSet(images, factors[:, 0].long(), name, split, factors, sprites.FACTORS)


def upside_down(images: ImageSet) -> ImageSet:
    """Give the same sprites, each turned by half a turn about its place; their factors stay those of `images`."""
    if images.factor_names != sprites.FACTORS or images.factors is None:
        raise ValueError(f"images: sprites with their factors expected, got {images.name}")
    over = sprites.render_sprites(sprites.turned(images.factors.cpu()))
    return replace(images, images=_resized(over, images.images.shape[-1]).to(images.device))


def _color_mnist(mnist: ImageSet) -> ImageSet:
    """MNIST in seven colours, one drawn for each image; factors are the digit and the colour (document 002a)."""
    generator = seeded(SPLITS.index(mnist.split))
    color = torch.randint(len(_COLORS), (len(mnist),), generator=generator)
    images = mnist.images * _COLORS[color].view(-1, 3, 1, 1)
    factors = torch.stack([mnist.labels, color], 1).float()
    return ImageSet(images, mnist.labels, f"color_{mnist.name}", mnist.split, factors, ("digit", "color"))


def _from_path(path: Path, split: str | None, size: int | None, limit: int | None, seed: int) -> ImageSet:
    """A file's or a folder's images, or the part of them that belongs to the split; of a folder no others are read."""
    if path.is_dir():
        photos = PhotoFolder.find(path)
        index = _limited_index(_part(len(photos), split, path), limit, seed)
        images = photos.read(index, size)
    elif path.is_file():
        every = read_npz(path, path.stem, split or "")
        images = every.take(_limited_index(_part(len(every), split, path), limit, seed))
    else:
        raise DatasetUnavailable(f"{path} does not exist; a path names an .npz or a folder of images")
    name = path.name if path.is_dir() else path.stem  # of data.v1 and data.v2 the whole
    if name in BENCHMARKS:  # whose splits are not ours of a path
        name += " (a path)"
    return replace(images, name=name, split=split or "")


def _part(count: int, split: str | None, path: Path) -> Tensor:
    """The indices of the split: a tenth to test on, always the same; without one all."""
    if split is None:
        return torch.arange(count)
    if count < 2:
        raise ValueError(f"{path}: at least two images expected, to train and to test on, got {count}")
    order = torch.randperm(count, generator=seeded(0))
    cut = max(1, count // 10)
    return order[cut:] if split == "train" else order[:cut]


def _limited_index(index: Tensor, limit: int | None, seed: int) -> Tensor:
    if limit is None or limit >= len(index):
        return index
    drawn = torch.randperm(len(index), generator=seeded(seed))[:limit]  # without replacement
    return index[drawn]


def _sized(images: ImageSet, size: int | None) -> ImageSet:
    return images if size is None else replace(images, images=_resized(images.images, size))


def _resized(images: Tensor, size: int) -> Tensor:
    missing = size - images.shape[-1]
    if 0 <= missing <= 4:
        before, after = missing // 2, missing - missing // 2
        return F.pad(images, (before, after, before, after))
    resized = []
    for part in images.split(4096):  # floats take four times the memory
        scaled = F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        resized.append(scaled.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(resized)
