"""Reading images from .npz files and from folders, and writing .npz files.

A file that is not whole is refused by its name: of an .npz and a PNG all checksums are read first.
"""

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vaenb.data.imageset import ImageSet
from vaenb.files import replacing

_ARRAYS = ("images", "labels", "factors", "factor_names")  # of an .npz; the first one must be there
# Endings that Pillow knows, of what holds no pixels or what it can't open everywhere.
_FOREIGN = {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".palm", ".pdf", ".ps", ".wmf"}


def image_files(path: Path) -> list[Path]:
    """List a folder's image files, those behind links too, each once; hidden ones and __MACOSX are left out."""
    endings = Image.registered_extensions().keys() - _FOREIGN
    found: list[Path] = []
    seen = set()
    for place, folders, names in os.walk(path, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # a link back would go round for ever
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        files = [here / name for name in names if not name.startswith(".")]
        found += [file for file in files if file.suffix.lower() in endings]
    return sorted(found)


@dataclass(frozen=True)
class PhotoFolder:
    """The image files of a folder, each subfolder a class; what is hidden (.ipynb_checkpoints, ._0.jpg) left out."""

    path: Path
    photos: list[Path]
    classes: list[Path]  # the folders that hold photos
    mode: str  # L where all photos are grey, else RGB

    def __len__(self) -> int:
        return len(self.photos)

    @classmethod
    def find(cls, path: Path) -> "PhotoFolder":
        """Look at the beginning of every image file; no picture is held yet."""
        photos = image_files(path)
        if not photos:
            raise ValueError(f"{path}: no image files in this folder or its subfolders")
        classes = sorted({photo.parent for photo in photos})
        above = {parent for folder in classes for parent in folder.parents}
        for photo in photos:
            if photo.parent in above:  # it would make a class of its own and shift the others
                raise ValueError(f"{photo} lies beside class folders; move it into one, or out of {path}")
        modes = set(map(_checked_mode, photos))
        return cls(path, photos, classes, modes.pop() if len(modes) == 1 else "RGB")

    def read(self, index: Tensor, size: int | None) -> ImageSet:
        """Read some of the photos, one after the other; `size` cuts out the middle squares and scales them."""
        chosen = [self.photos[i] for i in index.tolist()]
        arrays: list[np.ndarray] = []
        for file in chosen:
            photo = read_photo(file).convert(self.mode)
            array = np.asarray(photo) if size is None else square_photo(photo, size)
            if arrays and array.shape != arrays[0].shape:
                names = f"{chosen[0].name} and {file.name}"
                raise ValueError(f"{self.path}: images of different sizes, {names}; give size=… to scale")
            arrays.append(array)
        labels = None
        if len(self.classes) > 1:
            labels = np.array([self.classes.index(file.parent) for file in chosen])
        return _image_set(np.stack(arrays), labels, self.path, self.path.name, "")


def _checked_mode(file: Path) -> str:
    """Tell whether an image file is grey (L) or coloured (RGB), and refuse what is damaged as far as it can be seen."""
    with _readable(file):
        with Image.open(file) as photo:
            photo.verify()
        with Image.open(file) as photo:
            mode, transparent = photo.mode, photo.has_transparency_data
            # beside the photo, an MPO (a phone's .jpg) holds its previews and a PSD its layers
            frames = 1 if photo.format in ("MPO", "PSD") else getattr(photo, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{file}: one image expected, got {frames} frames or pages; save each as a file")
    if mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
        raise ValueError(f"{file}: 8 bits a channel expected, got mode {mode}; scale it to 0…255 first")
    return "L" if mode in ("1", "L") and not transparent else "RGB"


def read_photo(file: Path) -> Image.Image:
    """Read one image file upright as grey ("L") or RGB, what is transparent as black."""
    with _readable(file), Image.open(file) as opened:
        photo = ImageOps.exif_transpose(opened)  # as a camera was held
        if photo.has_transparency_data:
            black = Image.new("RGBA", photo.size, "black")
            return Image.alpha_composite(black, photo.convert("RGBA")).convert("RGB")
        return photo.convert("L" if photo.mode in ("1", "L") else "RGB")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name the file in whatever Pillow raises: it has many kinds, SyntaxError for a broken PNG among them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except Exception as reason:
        raise ValueError(f"{file}: not a readable image ({type(reason).__name__}: {reason})") from reason


def square_photo(photo: Image.Image, size: int, *, crop: int | None = None) -> np.ndarray:
    """Cut the middle square out and scale it to `size` pixels a side."""
    side = crop or min(photo.size)
    width, height = photo.size
    left, top = (width - side) // 2, (height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def read_npz(path: Path, name: str, split: str, *, fetched: bool = False) -> ImageSet:
    """Read a set from its .npz. Raises ValueError, naming the file, for one that is damaged or holds something else.

    Only of a set that was `fetched` it says that a damaged file can be deleted.
    """
    arrays = _read_arrays(path, "; delete it, and it is fetched again" if fetched else "")
    images = _image_set(arrays["images"], arrays.get("labels"), path, name, split)
    if "factors" not in arrays:
        return images
    factors = arrays["factors"]
    factor_names = arrays.get("factor_names", np.array(()))
    if factor_names.ndim != 1:
        raise ValueError(f"{path}: a list of factor_names expected, got shape {factor_names.shape}")
    names = tuple(map(str, factor_names))
    expected = (len(images), len(names))
    if factors.dtype.kind not in "fiu" or factors.shape != expected or not np.isfinite(factors).all():
        raise ValueError(f"{path}: finite factors {expected} expected, got {factors.dtype} of shape {factors.shape}")
    return replace(images, factors=torch.from_numpy(factors).float(), factor_names=names)


def _read_arrays(path: Path, hint: str) -> dict[str, np.ndarray]:
    with path.open("rb") as file:  # or OSError: is_zipfile says False of what it may not read
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is damaged or no .npz{hint}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            # numpy stops reading before a checksum that it does not need, and zipfile counts no entries
            damaged = archive.zip.testzip() or _lost_entries(path, names)
            found = {} if damaged else {key: archive[key] for key in _ARRAYS if key in names}
    except Exception as reason:  # zipfile, zlib and numpy raise a dozen kinds
        if "pickle" in str(reason):
            raise ValueError(f"{path}: {reason}; a pickle can run code and is not opened") from reason
        raise ValueError(f"{path} is damaged ({type(reason).__name__}: {reason}){hint}") from reason
    if damaged:
        raise ValueError(f"{path} is damaged (at {damaged}){hint}")
    for key, array in found.items():
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of what is no .npy
            raise ValueError(f"{path}: its entry {key} is no array of numpy's")
    if "images" not in found:
        raise ValueError(f"{path}: an array called images expected, got {', '.join(names) or 'nothing'}")
    others = [name for name in names if name not in _ARRAYS]
    if others and "labels" not in found:
        raise ValueError(f"{path}: an array called labels expected beside images, got {', '.join(others)}; rename it")
    return found


def _lost_entries(path: Path, names: list[str]) -> str | None:
    """Hold the entries that were found against their number in the archive's end record."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_557))  # 22 bytes, and the longest comment
        end = file.read()
    start = end.rfind(b"PK\5\6")
    promised = int.from_bytes(end[start + 10 : start + 12], "little")
    return None if promised == len(names) else f"its list of {promised} arrays"


def _image_set(images: np.ndarray, labels: np.ndarray | None, path: Path, name: str, split: str) -> ImageSet:
    """Make a set of what was read, in the shape (N, C, S, S). Raises ValueError, naming the file."""
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images as uint8 in 0…255 expected, got {_described(images)}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    fits = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] and images.size > 0
    if not fits:
        shapes = "(N, S, S), (N, S, S, 3) or (N, C, S, S) with one or three channels"
        raise ValueError(f"{path}: square images {shapes} expected, got shape {images.shape}")
    if images.max() == 1:
        raise ValueError(
            f"{path}: uint8 images in 0…255 expected, these have 0 and 1 only, which is black; multiply by 255"
        )
    if labels is None:
        labels = np.full(len(images), -1)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels as whole numbers expected, got {labels.dtype}")
    if labels.shape != (len(images),):
        raise ValueError(f"{path}: one label for each of the {len(images)} images expected, got shape {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: labels from 0 on (-1: none) as int64 expected, got {low} to {high}")
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), name, split)


def _described(images: np.ndarray) -> str:
    """Name the kind and range of images that are no uint8, and how to make them so where it is clear."""
    described = str(images.dtype)
    if not images.size or images.dtype.kind not in "bfiu":
        return described
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind != "b":
        described += f" from {low:.4g} to {high:.4g}"
    if low < 0 or not high <= 255:
        return described
    scaling = "multiply by 255 and " if high <= 1 else ""
    return f"{described}; {scaling}cast by .round().astype(np.uint8)"


def write_npz(file: Path, arrays: dict[str, Any]) -> None:
    """Write arrays, replacing `file` only when all are written."""
    with replacing(file) as part, part.open("wb") as target:
        np.savez_compressed(target, **arrays)
