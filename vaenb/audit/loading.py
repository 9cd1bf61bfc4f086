"""What the command line names: a model in a file, in the zoo or in another library's folder, and images."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vaenb import data, zoo
from vaenb.audit.adapters import from_diffusers, from_pythae
from vaenb.contract import raised_at
from vaenb.data import ImageSet
from vaenb.data.folder import data_folder
from vaenb.data.sets import path_of
from vaenb.files import expanded
from vaenb.models.classifier import Classifier

_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (BT.601)


def model(name: str, adapter: str | None = None) -> Any:
    """Give a model: "mine.py:model" (an object, or a function without arguments), "zoo:mnist/kld", a folder.

    A torch module is set to evaluation mode and widened to float32. Raises ValueError for what is no model, and
    OSError for a file that is not there.
    """
    if adapter:
        folder = expanded(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"{name} is not there; with --adapter the folder of a saved model expected")
        return from_diffusers(folder) if adapter == "diffusers" else from_pythae(folder)
    if name.startswith("zoo:"):
        found = zoo.load(name.removeprefix("zoo:"))
        if isinstance(found, Classifier):
            raise ValueError(f"model: an autoencoder of the zoo expected, got the classifier {name}")
        return found
    found = _of_file(name)
    if isinstance(found, nn.Module):
        return found.float().eval()
    return found


def _of_file(name: str) -> Any:
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"model: file.py:name, zoo:name, or a folder with --adapter expected, got {name!r}")
    module = _imported(expanded(file))
    if not hasattr(module, attribute):
        raise ValueError(f"model: {file} has no {attribute!r}; it has {', '.join(_made_in(module))}")
    found = getattr(module, attribute)
    is_maker = isinstance(found, type) or not hasattr(found, "posterior")
    if callable(found) and is_maker and not isinstance(found, nn.Module):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise ValueError(f"model: {file}:{attribute} without arguments expected, {error}") from None
        return _run(found, f"{file}: {attribute}()")
    return found


def _imported(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; the model's file.py expected")
    sys.path.insert(0, str(path.parent.absolute()))  # it may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look there
    _run(lambda: spec.loader.exec_module(module), str(path))
    return module


def _made_in(module: Any) -> list[str]:
    """The names of a file that are its own, and no library's."""
    found = []
    for key, value in vars(module).items():
        of = getattr(value, "__module__", module.__name__)
        if not key.startswith("_") and of == module.__name__ and not isinstance(value, ModuleType):
            found.append(key)
    return found


def _run(code: Any, where: str) -> Any:
    try:
        return code()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        raise ValueError(f"{where} raised {type(error).__name__}: {error}{raised_at(error)}") from error


def images(name: str, *, size: int | None = None, limit: int | None = None) -> ImageSet:
    """Images of an .npz or a folder, all of them, or the test images of a set known by name; shuffled, at most `limit`.

    Files are often sorted by class, and an audit attacks the first ones.
    """
    if not name:
        raise ValueError("--data: an .npz, a folder of images or a known set expected, got an empty text")
    if expanded(name).is_file() and not name.endswith(".npz"):
        raise ValueError(f"{name}: an .npz or a folder of images expected; np.savez('it.npz', images=…) makes one")
    path = path_of(name, "test", data_folder(None))
    if path is not None:
        found = data.whole(path, size=size, limit=limit)
    else:
        found = data.load(name, split="test", size=size, limit=limit)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return found.take(order)


def like(x: Tensor, name: str, limit: int) -> Tensor:
    """Images of another set in the size and channels of x (N, C, S, S)."""
    found = images(name, size=x.shape[-1], limit=limit).float().to(x)
    if found.shape[1] == x.shape[1]:
        return found
    if x.shape[1] == 3:
        return found.expand(-1, 3, -1, -1)
    weights = found.new_tensor(_GREY).view(1, 3, 1, 1)
    return (found * weights).sum(1, keepdim=True)
