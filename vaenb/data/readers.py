"""Reading images from .npz files and from folders, and writing .npz files."""

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaenb.data.imageset import ImageSet
from vaenb.files import replacing


def read_folder(path: Path, size: int | None) -> ImageSet:
    endings = Image.registered_extensions()
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in endings)
    if not files:
        raise ValueError(f"{path}: no image files in this folder or its subfolders")
    classes = sorted({f.parent for f in files})
    try:
        photos = [read_photo(f) for f in files]
    except OSError as reason:
        raise ValueError(f"{path}: a file is not a readable image ({reason})") from reason
    if len({p.mode for p in photos}) > 1:
        photos = [p.convert("RGB") for p in photos]
    if size is None and len({p.size for p in photos}) > 1:
        raise ValueError(f"{path}: images of different sizes, e.g. {photos[0].size}; give size=… to scale them")
    arrays = np.stack([np.asarray(p) if size is None else square_photo(p, size) for p in photos])
    labels = np.array([classes.index(f.parent) for f in files]) if len(classes) > 1 else None
    return _image_set(arrays, labels, path, path.name, "")


def read_photo(file: Path) -> Image.Image:
    with Image.open(file) as photo:
        if photo.mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
            raise ValueError(f"{file}: 8 bits a channel expected, got mode {photo.mode}; scale it to 0…255 first")
        if photo.has_transparency_data:
            return Image.alpha_composite(Image.new("RGBA", photo.size, "black"), photo.convert("RGBA")).convert("RGB")
        return photo.convert("L" if photo.mode in ("1", "L") else "RGB")


def square_photo(photo: Image.Image, size: int, *, crop: int | None = None) -> np.ndarray:
    """Cut the middle square out and scale it to `size` pixels a side."""
    side = crop or min(photo.size)
    left, top = ((length - side) // 2 for length in photo.size)
    return np.asarray(photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR))


def read_npz(path: Path, name: str, split: str) -> ImageSet:
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


def write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(file) as part, part.open("wb") as target:
        np.savez_compressed(target, **arrays)
