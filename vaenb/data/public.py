"""The public sets, through torchvision: fetched once, checked, and kept as .npz in the data folder."""

import errno
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from torchvision import datasets

from vaenb.data.folder import SPLITS, DatasetUnavailable, available
from vaenb.data.imageset import ImageSet
from vaenb.data.readers import read_npz, read_photo, square_photo, write_npz


def _torchvision(name: str, **arguments) -> Callable:
    return lambda root, train: getattr(datasets, name)(root, train=train, download=True, **arguments)


PUBLIC: dict[str, Callable] = {
    "mnist": _torchvision("MNIST"),
    "fashion_mnist": _torchvision("FashionMNIST"),
    "kmnist": _torchvision("KMNIST"),
    "emnist_letters": _torchvision("EMNIST", split="letters"),
    "omniglot": lambda root, train: datasets.Omniglot(root, background=train, download=True),
    "cifar10": _torchvision("CIFAR10"),
    "svhn": lambda root, train: datasets.SVHN(root, split="train" if train else "test", download=True),
    "celeba": lambda root, train: datasets.CelebA(root, split="train" if train else "test", download=True),
}


def fetch(name: str, split: str, file: Path) -> ImageSet:
    """Download once, with torchvision's progress and checksums, and keep both splits as .npz."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.parent / f".{name}.lock"):
            if not file.exists():
                _download(name, file.parent)
    except Exception as reason:  # torchvision raises some six kinds, from URLError to RuntimeError on a checksum
        if getattr(reason, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk is full, and that is no fault of the network's
        why = " ".join(str(reason).split()).rstrip(".")
        raise DatasetUnavailable(missing(name, file, f"torchvision gave {type(reason).__name__}: {why}")) from reason
    return read_npz(file, name, split, fetched=True)


def _download(name: str, folder: Path) -> None:
    raw = folder / ".raw" / name
    timeout = socket.getdefaulttimeout()
    shutil.rmtree(raw, ignore_errors=True)  # torchvision trusts unpacked files, also half-unpacked ones
    try:
        raw.mkdir(parents=True)
        socket.setdefaulttimeout(60)  # torchvision sets none: a server that stalls would block for ever
        for split in SPLITS:
            target = folder / f"{name}_{split}.npz"
            if not target.exists():  # the user's own stays as it is
                write_npz(target, _converted(name, PUBLIC[name](str(raw), split == "train")))
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(raw, ignore_errors=True)


def _converted(name: str, source) -> dict[str, np.ndarray]:
    """Give the arrays of an .npz from one of torchvision's sets."""
    match name:
        case "celeba":
            folder = Path(source.root) / source.base_folder / "img_align_celeba"
            faces = [square_photo(Image.open(folder / file), 64, crop=148) for file in source.filename]
            return {"images": np.stack(faces)}
        case "omniglot":  # dark strokes on white; sorted here, since torchvision takes the file system's order
            files = sorted(Path(source.target_folder).glob("*/*/*.png"))
            characters = sorted({file.parent for file in files})
            drawings = [255 - np.asarray(read_photo(file)) for file in files]
            numbers = [characters.index(file.parent) for file in files]
            return {"images": np.stack(drawings), "labels": np.array(numbers)}
        case "svhn":
            return {"images": source.data.transpose(0, 2, 3, 1), "labels": source.labels}
    images, labels = np.asarray(source.data), np.asarray(source.targets)
    if name == "emnist_letters":  # stored transposed, and counted from 1
        images, labels = images.transpose(0, 2, 1), labels - 1
    return {"images": images, "labels": labels}


def missing(name: str, file: Path, reason: str) -> str:
    """Say why a public set can't be had, and what to do."""
    drive = " It lies on Google Drive, which often refuses; see torchvision's notes." if name == "celeba" else ""
    return (
        f"data set {name!r} can't be had: {file} is not there ({reason}).{drive} "
        f"With a network, try again; or put {file.name} (images uint8, labels) into {file.parent}, or set VAENB_DATA "
        f"to the folder that holds it. At hand: {', '.join(available(file.parent))}"
    )
