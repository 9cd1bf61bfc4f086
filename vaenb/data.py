"""Image sets as one uint8 tensor on one device: two embedded, the public ones through torchvision, and your own.

A set is kept as `<name>_<split>.npz` in the data folder (`VAENB_DATA`): `images` uint8 (N, H, W), (N, H, W, 3) or
(N, C, H, W), `labels` (N,) and, where known, `factors` (N, K) with `factor_names`. Any such file put there is a set.
"""

import difflib
import hashlib
import math
import os
import shutil
import socket
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets

from vaenb import sprites
from vaenb.files import replacing

EMBEDDED = ("digits", "sprites")
SPLITS = ("train", "test")
_COLORS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.uint8)


class DatasetUnavailable(RuntimeError):
    """A set that can't be had here and now; the message says what was tried, where, and what is at hand."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Square images with their labels and, where they are known, generative factors."""

    images: Tensor  # (N, C, S, S) uint8
    labels: Tensor  # (N,) int64, -1 where the set has none
    name: str
    split: str
    factors: Tensor | None = None  # (N, K) float32
    factor_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images: uint8 (N, C, S, S) expected, got {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise ValueError(f"labels: int64 ({len(self.images)},) expected, got {got}")

    def __len__(self) -> int:
        return len(self.images)

    def float(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images of `index` as float32 in [0, 1]: (n, C, S, S)."""
        return self.images[index].float() / 255

    def take(self, index: Tensor | slice) -> "ImageSet":
        """The set of the images of `index`, labels and factors with them."""
        factors = None if self.factors is None else self.factors[index]
        return replace(self, images=self.images[index], labels=self.labels[index], factors=factors)

    def to(self, device: torch.device | str) -> "ImageSet":
        factors = None if self.factors is None else self.factors.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), factors=factors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of one image, as the models' `image_shape` wants it."""
        return tuple(self.images.shape[1:])

    @cached_property
    def digest(self) -> str:
        """The data hash that stands beside every result: equal images and labels, equal digest, on any device."""
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:12]


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
        images = _limited(_load(name, split, size, _folder(folder), download), limit, seed)
    return images if size is None else replace(images, images=_resized(images.images, size))


def available(folder: Path | str | None = None) -> list[str]:
    """Name the sets that need no download: the embedded ones, and those in the data folder."""
    here = {path.stem.rsplit("_", 1)[0] for s in SPLITS for path in _folder(folder).glob(f"*_{s}.npz")}
    return [*EMBEDDED, *sorted(here - set(EMBEDDED))]


def recolor(x: Tensor, *, contrast: float = 1.0, brightness: float = 0.0) -> Tensor:
    """Change images x (N, C, H, W) in [0, 1] to clip(m + contrast · (x − m) + brightness, 0, 1), m each one's mean.

    m is over pixels and channels, so that contrast 0 leaves one grey. Raises ValueError for a negative contrast and
    for what is not finite.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: float images (N, C, H, W) in [0, 1] expected, got {got}")
    if not (math.isfinite(contrast) and contrast >= 0):
        raise ValueError(f"contrast: a number ≥ 0 expected, got {contrast!r}")
    if not math.isfinite(brightness):
        raise ValueError(f"brightness: a finite number expected, got {brightness!r}")
    mean = x.mean((1, 2, 3), keepdim=True)
    return (contrast * x + ((1 - contrast) * mean + brightness)).clamp(0, 1)  # so that 1 and 0 give back x, unrounded


def _load(name: str | Path, split: str, size: int | None, folder: Path, download: bool) -> ImageSet:
    if isinstance(name, Path) or os.sep in name or name.endswith(".npz"):
        return _from_path(Path(name).expanduser(), split, size)
    if name == "digits":
        return _digits(split)
    file = folder / f"{name}_{split}.npz"
    if file.exists():
        return _read_npz(file, name, split)
    if name == "color_mnist":
        return _color_mnist(_load("mnist", split, None, folder, download))
    if name not in _PUBLIC and Path(name).is_dir():
        return _from_path(Path(name), split, size)
    if name not in _PUBLIC:
        known = [*dict.fromkeys([*available(folder), *_PUBLIC, "color_mnist"])]
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DatasetUnavailable(
            f"data set {name!r} is not known and {file} does not exist{hint}. Known: {', '.join(known)}, the path of "
            "an .npz or of a folder of images, or any <name>_<split>.npz in the data folder"
        )
    if not download:
        raise DatasetUnavailable(_missing(name, file, "download=False"))
    return _fetch(name, split, file)


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


def _torchvision(name: str, **arguments) -> Callable:
    return lambda root, train: getattr(datasets, name)(root, train=train, download=True, **arguments)


_PUBLIC: dict[str, Callable] = {
    "mnist": _torchvision("MNIST"),
    "fashion_mnist": _torchvision("FashionMNIST"),
    "kmnist": _torchvision("KMNIST"),
    "emnist_letters": _torchvision("EMNIST", split="letters"),
    "omniglot": lambda root, train: datasets.Omniglot(root, background=train, download=True),
    "cifar10": _torchvision("CIFAR10"),
    "svhn": lambda root, train: datasets.SVHN(root, split="train" if train else "test", download=True),
    "celeba": lambda root, train: datasets.CelebA(root, split="train" if train else "test", download=True),
}


def _fetch(name: str, split: str, file: Path) -> ImageSet:
    """Download once, with torchvision's progress and checksums, and keep both splits as .npz."""
    raw, timeout = file.parent / ".raw" / name, socket.getdefaulttimeout()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.parent / f".{name}.lock"):
            try:
                shutil.rmtree(raw, ignore_errors=True)  # torchvision trusts unpacked files, also half-unpacked ones
                raw.mkdir(parents=True)
                socket.setdefaulttimeout(60)  # torchvision sets none: a server that stalls would block for ever
                for part in SPLITS if not file.exists() else ():
                    target = file.with_name(f"{name}_{part}.npz")
                    if not target.exists():  # the user's own stays as it is
                        _write_npz(target, _converted(name, _PUBLIC[name](str(raw), part == "train")))
            finally:
                socket.setdefaulttimeout(timeout)
                shutil.rmtree(raw, ignore_errors=True)
    except Exception as reason:  # torchvision raises some six kinds, from URLError to RuntimeError on a checksum
        raise DatasetUnavailable(_missing(name, file, f"{type(reason).__name__}: {_line(reason)}")) from reason
    return _read_npz(file, name, split)


def _converted(name: str, source) -> dict[str, np.ndarray]:
    if name == "celeba":
        files = [Path(source.root) / source.base_folder / "img_align_celeba" / f for f in source.filename]
        return {"images": np.stack([_square_photo(Image.open(f), 64, crop=148) for f in files])}
    if name == "omniglot":  # dark strokes on white; sorted here, since torchvision takes the file system's order
        files = sorted(Path(source.target_folder).glob("*/*/*.png"))
        characters = sorted({f.parent for f in files})
        images = np.stack([255 - np.asarray(_read_photo(f)) for f in files])
        return {"images": images, "labels": np.array([characters.index(f.parent) for f in files])}
    if name == "svhn":
        return {"images": source.data.transpose(0, 2, 3, 1), "labels": source.labels}
    images, labels = np.asarray(source.data), np.asarray(source.targets)
    if name == "emnist_letters":  # stored transposed, and counted from 1
        images, labels = images.transpose(0, 2, 1), labels - 1
    return {"images": images, "labels": labels}


def _missing(name: str, file: Path, reason: str) -> str:
    drive = " It lies on Google Drive, which often refuses; see torchvision's notes." if name == "celeba" else ""
    return (
        f"data set {name!r} can't be had: {file} is not there, and torchvision gave {reason}.{drive} "
        f"With a network, try again; or put {file.name} (images uint8, labels) into {file.parent}, or set VAENB_DATA "
        f"to the folder that holds it. At hand: {', '.join(available(file.parent))}"
    )


def _line(reason: Exception) -> str:
    return " ".join(str(reason).split()).rstrip(".")


def _from_path(path: Path, split: str, size: int | None) -> ImageSet:
    if path.is_dir():
        whole = _read_folder(path, size)
    elif path.is_file():
        whole = _read_npz(path, path.stem, split)
    else:
        raise DatasetUnavailable(f"{path} does not exist; a path names an .npz or a folder of images")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    cut = max(1, len(whole) // 10)
    if len(whole) < 2:
        raise ValueError(f"{path}: at least two images expected, to train and to test on, got {len(whole)}")
    return replace(whole.take(order[cut:] if split == "train" else order[:cut]), name=path.stem, split=split)


def _read_folder(path: Path, size: int | None) -> ImageSet:
    endings = Image.registered_extensions()
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in endings)
    if not files:
        raise ValueError(f"{path}: no image files in this folder or its subfolders")
    classes = sorted({f.parent for f in files})
    try:
        photos = [_read_photo(f) for f in files]
    except OSError as reason:
        raise ValueError(f"{path}: a file is not a readable image ({reason})") from reason
    if len({p.mode for p in photos}) > 1:
        photos = [p.convert("RGB") for p in photos]
    if size is None and len({p.size for p in photos}) > 1:
        raise ValueError(f"{path}: images of different sizes, e.g. {photos[0].size}; give size=… to scale them")
    arrays = np.stack([np.asarray(p) if size is None else _square_photo(p, size) for p in photos])
    labels = np.array([classes.index(f.parent) for f in files]) if len(classes) > 1 else None
    return _image_set(arrays, labels, path, path.name, "")


def _read_photo(file: Path) -> Image.Image:
    with Image.open(file) as photo:
        if photo.mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
            raise ValueError(f"{file}: 8 bits a channel expected, got mode {photo.mode}; scale it to 0…255 first")
        if photo.has_transparency_data:
            return Image.alpha_composite(Image.new("RGBA", photo.size, "black"), photo.convert("RGBA")).convert("RGB")
        return photo.convert("L" if photo.mode in ("1", "L") else "RGB")


def _square_photo(photo: Image.Image, size: int, *, crop: int | None = None) -> np.ndarray:
    """Cut the middle square out and scale it to `size` pixels a side."""
    side = crop or min(photo.size)
    left, top = ((length - side) // 2 for length in photo.size)
    return np.asarray(photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR))


def _read_npz(path: Path, name: str, split: str) -> ImageSet:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged or no .npz; delete it, and it is fetched or made again")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "images" not in archive:
                raise ValueError(f"an array called images expected, got {', '.join(archive.files) or 'nothing'}")
            arrays = {key: archive[key] for key in ("images", "labels", "factors", "factor_names") if key in archive}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as reason:
        raise ValueError(f"{path} is damaged ({reason}); delete it, and it is fetched or made again") from reason
    except ValueError as reason:
        hint = "; a pickle can run code and is not opened" if "pickle" in str(reason) else ""
        raise ValueError(f"{path}: {reason}{hint}") from reason
    images = _image_set(arrays["images"], arrays.get("labels"), path, name, split)
    if "factors" in arrays:
        factors, names = torch.from_numpy(arrays["factors"]).float(), tuple(map(str, arrays.get("factor_names", ())))
        if factors.shape != (len(images), len(names)) or not factors.isfinite().all():
            raise ValueError(
                f"{path}: finite factors ({len(images)}, {len(names)}) expected, got {tuple(factors.shape)}"
            )
        images = replace(images, factors=factors, factor_names=names)
    return images


def _image_set(images: np.ndarray, labels, path: Path, name: str, split: str) -> ImageSet:
    if images.dtype != np.uint8:
        span = f" from {images.min():.4g} to {images.max():.4g}" if images.size and images.dtype.kind in "fiu" else ""
        hint = "; multiply by 255 and cast" if images.dtype.kind == "f" else ""
        raise ValueError(f"{path}: images as uint8 in 0…255 expected, got {images.dtype}{span}{hint}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3] or images.size == 0:
        shapes = "(N, S, S), (N, S, S, 3) or (N, C, S, S) with one or three channels"
        raise ValueError(f"{path}: square images {shapes} expected, got shape {images.shape}")
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels as whole numbers expected, got {labels.dtype}")
    if labels.shape != (len(images),):
        raise ValueError(f"{path}: one label for each of the {len(images)} images expected, got shape {labels.shape}")
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), name, split)


def _write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(file) as part, part.open("wb") as target:
        np.savez_compressed(target, **arrays)


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


def _folder(folder: Path | str | None) -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaenb" / "data"
    return Path(folder or os.environ.get("VAENB_DATA") or default).expanduser()
