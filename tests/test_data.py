"""Image sets: embedded, downloaded (from a local server), derived, and the user's own."""

import errno
import gc
import gzip
import hashlib
import http.server
import itertools
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from vaenb import data
from vaenb.data import DatasetUnavailable, load, originals, public, sets, sprites, whole


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def some_bytes(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_digits_are_scikit_learns_and_split_without_overlap():
    train, test = load("digits", split="train"), load("digits", split="test")
    assert (len(train), len(test), train.shape) == (1437, 360, (1, 8, 8))
    rows = {i.numpy().tobytes() for i in train.images} & {i.numpy().tobytes() for i in test.images}
    assert len(rows) <= 1  # the set itself holds hardly any image twice
    assert train.images.max() == 255 and test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert train.digest == load("digits").digest != test.digest


@pytest.mark.parametrize(("name", "original"), [("mnist_small", "mnist"), ("fashion_small", "fashion_mnist")])
@pytest.mark.parametrize(("split", "each"), [("train", 400), ("test", 100)])
def test_small_sets_are_balanced_parts_of_the_originals(name, original, split, each):
    small = load(name, split=split, download=False)
    assert small.shape == (1, 28, 28) and small.labels.bincount().tolist() == [each] * 10
    assert small.digest == originals.DIGESTS[name, split]
    file = Path(data.__file__).with_name("embedded") / f"{name}_{split}.npz"
    index = torch.from_numpy(np.load(file)["index"].astype(np.int64))
    assert len(index.unique()) == len(small)
    try:
        whole = load(original, split=split, download=False)
    except DatasetUnavailable:
        pytest.skip(f"{original} is not at hand")
    assert torch.equal(whole.images[index], small.images) and torch.equal(whole.labels[index], small.labels)


def test_float_take_and_digest_belong_together():
    digits = load("digits", size=32, limit=20)
    index = torch.tensor([3, 1])
    part = digits.take(index)
    assert torch.equal(part.float(), digits.images[index] / 255) and torch.equal(part.labels, digits.labels[index])
    assert part.digest == digits.take(index).digest != digits.digest and len(part.digest) == 12


def test_a_set_moves_whole_and_refuses_what_it_cannot_be():
    moved = load("sprites", limit=4).to("meta")
    assert {t.device.type for t in (moved.images, moved.labels, moved.factors)} == {"meta"}
    with pytest.raises(ValueError, match="images: uint8"):
        data.ImageSet(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "mine", "train")
    with pytest.raises(ValueError, match=r"labels: int64 \(2,\) expected, got torch.int64 of shape \(3,\)"):
        data.ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "mine", "train")


@given(limit=st.integers(1, 360), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=15)
def test_limit_draws_without_replacement_by_seed(limit, seed):
    part = load("digits", split="test", limit=limit, seed=seed)
    again = load("digits", split="test", limit=limit, seed=seed)
    assert len(part) == limit and torch.equal(part.images, again.images)
    whole = load("digits", split="test", limit=10_000)
    assert len(whole) == 360 and whole.digest == load("digits", split="test").digest
    seen = {(i.numpy().tobytes(), label.item()) for i, label in zip(whole.images, whole.labels, strict=True)}
    assert {(i.numpy().tobytes(), label.item()) for i, label in zip(part.images, part.labels, strict=True)} <= seen


def test_a_limit_that_leaves_all_changes_nothing():
    assert load("little_sprites", split="test", limit=5000).digest == load("little_sprites", split="test").digest


def test_small_differences_of_size_are_padded_and_large_ones_resized(folder):
    images = some_bytes(3, 28, 28)
    np.savez(folder / "own_train.npz", images=images)
    padded = load("own", size=32).images
    assert torch.equal(padded[:, 0, 2:30, 2:30], torch.from_numpy(images)) and padded[:, :, :2].sum() == 0
    assert load("own", size=64).shape == (1, 64, 64) and load("own", size=28).images.sum() == images.sum()
    flat = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert (sets._resized(flat, 32) == 77).all() and (sets._resized(flat, 4) == 77).all()


# sprites


@given(st.tuples(*(st.integers(0, n - 1) for n in sprites.SIZES)))
@settings(deadline=None)
def test_sprite_index_is_dsprites_order(factors):
    index = sprites.sprite_index(**dict(zip(sprites.FACTORS, factors, strict=True)))
    assert index.item() == np.ravel_multi_index(factors, sprites.SIZES)
    shape, scale, rotation, x, y = sprites.sprite_factors(index[None])[0].tolist()
    expected = (factors[0], 0.5 + factors[1] / 10, factors[2] * 2 * np.pi / 39, factors[3] / 31, factors[4] / 31)
    assert (shape, scale, rotation, x, y) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, sprites.COUNT - 1))
@settings(deadline=None, max_examples=100)
def test_a_sprite_is_binary_and_never_touches_the_border(index):
    image = sprites.render_sprites(torch.tensor([index]))[0, 0]
    assert set(image.unique().tolist()) == {0, 255}
    assert image[0].sum() + image[-1].sum() + image[:, 0].sum() + image[:, -1].sum() == 0


def test_a_sprites_place_and_area_follow_its_factors():
    index = sprites.sprite_index(shape=2, scale=torch.arange(6), rotation=7, x=10, y=20)
    images = sprites.render_sprites(index)[:, 0] / 255.0
    areas = images.sum((1, 2))
    torch.testing.assert_close(areas / areas[-1], torch.linspace(0.5, 1, 6) ** 2, rtol=0.06, atol=0)
    moved = sprites.render_sprites(sprites.sprite_index(shape=1, scale=5, rotation=0, x=torch.tensor([0, 31]), y=16))
    columns = [(i[0] / 255.0).sum(0) @ torch.arange(64.0) / (i[0] / 255.0).sum() for i in moved]
    assert columns[1] - columns[0] == pytest.approx(32, abs=0.2)


def test_the_heart_is_upright_at_rotation_zero_and_turns_with_it():
    upright, turned = (
        sprites.render_sprites(sprites.sprite_index(shape=2, scale=5, rotation=torch.tensor([r]), x=16, y=16))[0, 0]
        for r in (0, 10)
    )
    widths = (upright > 0).sum(1)
    widths = widths[widths > 0]
    assert widths[:8].sum() > 1.5 * widths[-8:].sum()  # lobes up, point down
    assert (upright - upright.flip(1) != 0).sum() < 60  # nearly its own mirror image, half a pixel off the middle
    heights = (turned > 0).sum(0)
    heights = heights[heights > 0]
    assert heights[:8].sum() > 1.5 * heights[-8:].sum()  # a quarter turn to the left: lobes left, point right


def test_sprites_splits_are_disjoint_deterministic_and_drawn_on_demand():
    train, test = load("sprites", limit=300), load("sprites", split="test", limit=300)
    assert (
        train.shape == (1, 64, 64)
        and train.factor_names == sprites.FACTORS
        and train.labels.unique().tolist() == [0, 1, 2]
    )
    both = {tuple(f.tolist()) for f in train.factors} & {tuple(f.tolist()) for f in test.factors}
    assert not both and load("sprites", limit=300).digest == train.digest != load("sprites", limit=300, seed=1).digest
    assert load("sprites", limit=10, size=32).shape == (1, 32, 32)


def test_the_little_world_has_every_sprite_of_its_factors_once():
    train, test = load("little_sprites"), load("little_sprites", split="test")
    assert (len(train), len(test)) == (10_360, 5_000)
    factors = torch.cat([train.factors, test.factors])
    assert len(factors.unique(dim=0)) == 3 * 2 * 40 * 8 * 8
    assert factors[:, 1].unique().tolist() == pytest.approx([0.9, 1.0])
    assert factors[:, 3:].min().item() == pytest.approx(12 / 31) and factors[:, 3:].max().item() == pytest.approx(
        19 / 31
    )


def test_a_sprite_upside_down_is_half_a_turn_from_it():
    rotations = torch.arange(40)
    index = sprites.sprite_index(2, 5, rotations, 10, 20)
    over = sprites.sprite_factors(sprites.turned(sprites.sprite_factors(index)))
    before = sprites.sprite_factors(index)
    assert torch.equal(over[:, [0, 1, 3, 4]], before[:, [0, 1, 3, 4]])
    angle = (over[:, 2] - before[:, 2]).abs()
    torch.testing.assert_close(angle, torch.full((40,), math.pi), rtol=0, atol=math.pi / 39 + 1e-5)  # half a step


def test_sprites_upside_down_are_nearly_their_images_turned_by_half_a_turn():
    some = load("little_sprites", split="test", limit=60)
    hearts = some.take(some.labels == 2)
    over = data.upside_down(hearts)
    x, mirrored = over.float(), hearts.float().flip(2, 3)
    shifts = itertools.product(range(-16, 17), repeat=2)  # the mirror image is at another place
    errors = torch.stack([(x - mirrored.roll(shift, (2, 3))).abs().mean((1, 2, 3)) for shift in shifts])
    assert errors.min(0).values.mean() < 0.4 * (x - hearts.float()).abs().mean()
    with pytest.raises(ValueError, match="images: sprites with their factors expected, got digits"):
        data.upside_down(load("digits"))


@pytest.mark.parametrize("factors", [{"scale": 6}, {"x": -1}, {"rotation": 1.5}])
def test_factors_out_of_range_are_refused(factors):
    with pytest.raises(ValueError, match=f"{next(iter(factors))}: whole numbers from 0 to"):
        sprites.sprite_index(**{"shape": 0, "scale": 0, "rotation": 0, "x": 0, "y": 0, **factors})


# downloads, from a server on this machine


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes(), mtime=0)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve a small MNIST that torchvision's own code downloads and checks; tests may change `files`."""

    images, labels = some_bytes(30, 28, 28), some_bytes(30, seed=1) % 10

    class Server:
        files = {
            "train-images-idx3-ubyte.gz": idx(images),
            "train-labels-idx1-ubyte.gz": idx(labels),
            "t10k-images-idx3-ubyte.gz": idx(images[:10]),
            "t10k-labels-idx1-ubyte.gz": idx(labels[:10]),
        }
        requests: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = Path(self.path).name
                Server.requests.append(name)
                content = Server.files.get(name)
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server.Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Server.images, Server.labels = images, labels
    Server.address = f"http://127.0.0.1:{httpd.server_port}/"
    Server.resources = [(name, hashlib.md5(content).hexdigest()) for name, content in Server.files.items()]
    Server.requests.clear()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [Server.address])
    monkeypatch.setattr(datasets.MNIST, "resources", Server.resources)
    yield Server
    httpd.shutdown()
    httpd.server_close()
    gc.collect()  # what torchvision leaves open after an error belongs to this test, not to a later one


def test_a_set_is_fetched_once_and_kept(folder, server):
    train = load("mnist", split="train")
    assert np.array_equal(train.images[:, 0].numpy(), server.images) and train.labels.tolist() == server.labels.tolist()
    assert (
        sorted(p.name for p in folder.glob("*.npz")) == ["mnist_test.npz", "mnist_train.npz"]
        and not (folder / ".raw" / "mnist").exists()
    )
    asked = len(server.requests)
    assert load("mnist", split="train").digest == train.digest and len(load("mnist", split="test")) == 10
    assert len(server.requests) == asked
    assert data.available() == [*data.EMBEDDED, "mnist"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["broken", "truncated", "absent"])
def test_a_bad_download_is_told_and_trips_up_no_second_attempt(folder, server, damage):
    name = "train-images-idx3-ubyte.gz"
    good = server.files[name]
    bad = {"broken": good[:-9] + b"123456789", "truncated": good[:500], "absent": b""}[damage]
    server.files = {**server.files, name: bad}
    with pytest.raises(DatasetUnavailable, match="mnist_train.npz is not there .torchvision gave .*At hand: mn"):
        load("mnist")
    assert not list(folder.glob("*.npz")) and not list(folder.rglob("*.gz"))
    server.files = {**server.files, name: good}
    assert len(load("mnist")) == 30


def test_a_download_leaves_the_users_own_archive_alone(folder, server):
    np.savez(folder / "mnist_train.npz", images=some_bytes(7, 28, 28), labels=np.arange(7))
    assert len(load("mnist", split="test")) == 10 and len(load("mnist", split="train")) == 7


def test_what_a_killed_download_left_is_not_trusted(folder, server):
    left = folder / ".raw" / "mnist" / "MNIST" / "raw"
    left.mkdir(parents=True)
    for name, content in server.files.items():
        (left / name.removesuffix(".gz")).write_bytes(gzip.decompress(content).replace(b"\x07", b"\x08"))
    assert np.array_equal(load("mnist").images[:, 0].numpy(), server.images)


def test_no_network_is_told_with_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DatasetUnavailable, match=r"put mnist_test.npz .* into .*, or set VAENB_DATA"):
        load("mnist", split="test")
    with pytest.raises(DatasetUnavailable, match="download=False"):
        load("kmnist", download=False)


def test_two_processes_at_once_download_once(folder, server, tmp_path):
    load("mnist", folder=tmp_path / "alone")
    once = sorted(server.requests)
    server.requests.clear()
    code = (
        "from torchvision import datasets; from vaenb.data import load\n"
        f"datasets.MNIST.mirrors, datasets.MNIST.resources = [{server.address!r}], {server.resources!r}\n"
        "print(load('mnist').digest)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    digests = {p.communicate(timeout=600)[0] for p in both}
    assert len(digests) == 1 and sorted(server.requests) == once


class Fake:
    """The attributes of a torchvision set that the conversion reads."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def test_public_formats_become_upright_images_with_labels_from_zero():
    letters = public._converted("emnist_letters", Fake(data=torch.arange(4).view(1, 2, 2), targets=torch.tensor([26])))
    assert letters["images"][0].tolist() == [[0, 2], [1, 3]] and letters["labels"].tolist() == [25]
    svhn = public._converted("svhn", Fake(data=some_bytes(2, 3, 32, 32), labels=np.array([1, 9])))
    assert svhn["images"].shape == (2, 32, 32, 3)


def test_omniglot_is_sorted_and_white_on_black(tmp_path):
    for i, character in enumerate(("Tengwar/c02", "Greek/c01")):
        (tmp_path / character).mkdir(parents=True)
        Image.fromarray(np.array([[0, 255 - i]], dtype=np.uint8)).save(tmp_path / character / "a.png")
    drawings = public._converted("omniglot", Fake(target_folder=tmp_path))
    assert drawings["images"].tolist() == [[[255, 1]], [[255, 0]]] and drawings["labels"].tolist() == [0, 1]


def test_celeba_is_cut_and_scaled_as_usual(tmp_path):
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    photo = np.zeros((218, 178, 3), dtype=np.uint8)
    photo[35:183, 15:163] = 200  # the middle 148×148
    Image.fromarray(photo).save(tmp_path / "celeba" / "img_align_celeba" / "000001.png")
    faces = public._converted("celeba", Fake(root=tmp_path, base_folder="celeba", filename=["000001.png"]))["images"]
    assert faces.shape == (1, 64, 64, 3) and (faces == 200).all()


def test_color_mnist_has_a_digit_and_a_colour(folder, server):
    colored, grey = load("color_mnist"), load("mnist")
    assert colored.shape == (3, 28, 28) and colored.factor_names == ("digit", "color")
    assert torch.equal(colored.images.amax(1), grey.images[:, 0]) and torch.equal(colored.labels, grey.labels)
    assert torch.equal(colored.factors[:, 0].long(), grey.labels) and colored.factors[:, 1].unique().tolist() == list(
        range(7)
    )
    assert torch.equal(colored.images, load("color_mnist").images)


# the user's own


def test_an_archive_in_the_data_folder_is_a_set_even_where_nothing_can_be_written(folder):
    np.savez(folder / "faces_4k_test.npz", images=some_bytes(5, 8, 8, 3))
    folder.chmod(0o500)
    faces = load("faces_4k", split="test")
    folder.chmod(0o700)
    assert (
        faces.shape == (3, 8, 8)
        and faces.labels.tolist() == [-1] * 5
        and [p.name for p in folder.iterdir()] == ["faces_4k_test.npz"]
    )


def test_a_path_is_split_nine_to_one_without_overlap(tmp_path):
    images, labels = some_bytes(50, 3, 8, 8), np.arange(50)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    train, test = (load(tmp_path / "mine.npz", split=s) for s in ("train", "test"))
    assert (len(train), len(test), train.name) == (45, 5, "mine")
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == list(range(50))
    assert np.array_equal(test.images.numpy(), images[test.labels.numpy()])
    assert load(str(tmp_path / "mine.npz")).digest == train.digest


def test_a_folder_of_images_has_its_subfolders_as_classes(tmp_path):
    for i in range(12):
        (tmp_path / "cats" if i % 2 else tmp_path / "dogs").mkdir(exist_ok=True)
        Image.fromarray(some_bytes(20, 30 + i, 3, seed=i)).save(tmp_path / ("cats" if i % 2 else "dogs") / f"{i}.png")
    pets = load(tmp_path, size=16)
    assert pets.shape == (3, 16, 16) and set(pets.labels.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="different sizes.*give size="):
        load(tmp_path)


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": np.full((4, 8, 8), 0.5, np.float32)}, r"uint8 in 0…255 expected, got float32 .* multiply by 255"),
        ({"images": np.full((4, 8, 8), np.nan)}, "got float64 from nan"),
        ({"images": some_bytes(4, 8)}, r"got shape \(4, 8\)"),
        ({"images": some_bytes(4, 8, 9)}, "square images"),
        ({"images": some_bytes(4, 2, 8, 8)}, "one or three channels"),
        ({"images": some_bytes(0, 8, 8)}, r"got shape \(0, 1, 8, 8\)"),
        ({"images": some_bytes(4, 8, 8), "labels": np.arange(3)}, "one label for each of the 4 images"),
        ({"images": some_bytes(4, 8, 8), "labels": np.full(4, np.nan)}, "labels as whole numbers expected"),
        ({"images": some_bytes(4, 8, 8), "factors": np.zeros((3, 1))}, r"finite factors \(4, 0\) expected"),
        ({"pictures": some_bytes(4, 8, 8)}, "an array called images expected, got pictures"),
        ({"images": np.array([Bomb()], dtype=object)}, "a pickle can run code and is not opened"),
    ],
)  # fmt: skip
def test_bad_archives_are_refused_by_name(tmp_path, arrays, says):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz.*{says}"):
        load(tmp_path / "bad.npz")


def test_images_of_zeros_and_ones_are_no_bytes_of_pixels(tmp_path):
    np.savez(tmp_path / "binary.npz", images=(some_bytes(4, 8, 8) > 127).astype(np.uint8))
    with pytest.raises(ValueError, match="binary.npz: uint8 images in 0…255 expected, .* multiply by 255"):
        load(tmp_path / "binary.npz")


def test_a_file_that_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    np.savez(folder / "mnist_train.npz", images=some_bytes(4, 28, 28))

    def denied(path, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(PermissionError, match="mnist_train.npz"):
        load("mnist")


@pytest.mark.parametrize("read", [load, whole])
def test_no_name_is_no_current_folder(read):
    with pytest.raises(ValueError, match="name: .* got an empty text"):
        read("")


def test_a_damaged_archive_is_named(folder):
    np.savez(folder / "mnist_train.npz", images=some_bytes(4, 28, 28))
    whole = (folder / "mnist_train.npz").read_bytes()
    for content in (whole[:200], b"", b"no archive", whole[:300] + b"\x00\x01\x02" + whole[303:]):
        (folder / "mnist_train.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist_train.npz.* is damaged"):
            load("mnist")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"split": "valid"}, "split: one of train, test"),
        ({"size": 0}, "size: a whole number ≥ 1"),
        ({"limit": 0}, "limit: a whole number ≥ 1"),
        ({"limit": 2.5}, "limit: a whole number ≥ 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        load("digits", **arguments)


def test_an_unknown_name_is_answered_with_a_close_one(folder):
    with pytest.raises(DatasetUnavailable, match=r"'mnits' is not known .*did you mean 'mnist'\?.*color_mnist"):
        load("mnits")
    with pytest.raises(DatasetUnavailable, match="does not exist; a path names"):
        load(folder / "nothing.npz")
    with pytest.raises(TypeError, match="name: the name or the path"):
        load(5)


@pytest.mark.skipif(
    not (Path(os.environ.get("VAENB_DATA", "nowhere")) / "mnist_train.npz").exists(),
    reason="no real MNIST in VAENB_DATA",
)
def test_the_real_mnist():
    train, test = load("mnist"), load("mnist", split="test")
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.labels.bincount()[1] == 6742 and train.float(slice(1000)).mean() == pytest.approx(0.13, abs=0.01)


def test_images_that_are_not_8_bit_are_refused_and_transparent_ones_lie_on_black(tmp_path):
    for array in (np.arange(64, dtype=np.uint16) * 1000, np.linspace(0, 1, 64, dtype=np.float32)):
        folder = tmp_path / str(array.dtype)
        folder.mkdir()
        Image.fromarray(array.reshape(8, 8)).save(folder / "photo.tif")
        with pytest.raises(ValueError, match="photo.tif: 8 bits a channel expected, got mode"):
            load(folder)
    folder = tmp_path / "clear"
    folder.mkdir()
    for name in "ab":
        Image.new("RGBA", (8, 8), (255, 0, 0, 51)).save(folder / f"{name}.png")
    assert load(folder).images.unique().tolist() == [0, 51]


def test_half_a_set_is_said_to_be_half(folder):
    np.savez(folder / "mine_train.npz", images=some_bytes(7, 28, 28))
    with pytest.raises(DatasetUnavailable, match="'mine': mine_train.npz is in .*, mine_test.npz is not"):
        load("mine", split="test")


def test_a_full_disk_is_no_fault_of_the_network(folder, server, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr("vaenb.data.public.write_npz", full)
    with pytest.raises(OSError, match="No space left on device"):
        load("mnist")
