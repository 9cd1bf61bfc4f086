"""Files that users bring: damaged, odd, hidden, turned, too many, too large."""

import io
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from vaenb.data import DatasetUnavailable, load, originals, readers


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(8, 8) if array is None else array).save(path, **options)


def archive(path, **arrays):
    np.savez_compressed(path, **{"images": noise(6, 8, 8), "labels": np.arange(6), **arrays})


def damages(raw: bytes):
    """Every byte flipped, in all its bits and in one, and the file cut before every byte."""
    for at in range(len(raw)):
        for mask in (0xFF, 0x20):
            yield raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
        yield raw[:at]


@pytest.mark.parametrize("ending", ["npz", "png"])
def test_a_file_with_any_byte_flipped_or_cut_is_named_or_read_as_it_was(tmp_path, ending):
    path = tmp_path / "data" / f"damaged.{ending}"
    photo(tmp_path / "data" / "whole.png")
    if ending == "npz":
        archive(path)
    else:
        photo(path)
    source = path if ending == "npz" else path.parent
    raw, whole = path.read_bytes(), load(source)
    refused = 0
    for damaged in damages(raw):
        path.write_bytes(damaged)
        try:
            found = load(source)
        except ValueError as error:
            assert path.name in str(error)
            refused += 1
            continue
        assert torch.equal(found.images, whole.images) and torch.equal(found.labels, whole.labels)
    assert refused > 1.5 * len(raw)


def test_a_jpeg_with_any_byte_flipped_or_cut_ends_in_no_foreign_error(tmp_path):
    """Its pixels have no checksum: they may change."""
    path = tmp_path / "data" / "damaged.jpg"
    photo(path)
    photo(tmp_path / "data" / "whole.jpg")
    raw = path.read_bytes()
    for damaged in damages(raw):
        path.write_bytes(damaged)
        try:
            assert load(path.parent).shape[1:] == (8, 8)
        except ValueError as error:
            assert path.name in str(error)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="damaged.jpg: not a readable image"):
        load(path.parent)


def test_hidden_folders_and_files_are_left_out(tmp_path):
    for name in ("cat/0.png", "dog/1.png", "dog/2.png"):
        photo(tmp_path / name)
    for name in ("cat/.ipynb_checkpoints/0-checkpoint.png", ".trash/9.png"):
        photo(tmp_path / name)
    (tmp_path / "cat" / "._0.png").write_bytes(b"macOS keeps its notes in such files")
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert len(train) + len(test) == 3
    assert set(train.labels.tolist() + test.labels.tolist()) == {0, 1}


def test_classes_behind_links_count_and_links_back_do_not(tmp_path):
    for name in ("kept/cat/0.png", "kept/cat/1.png", "data/dog/2.png"):
        photo(tmp_path / name)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "kept" / "cat")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    found = readers.PhotoFolder.find(tmp_path / "data")
    assert len(found) == 3 and [folder.name for folder in found.classes] == ["cat", "dog"]


def test_what_is_no_photo_is_left_out(tmp_path):
    for name in ("cat/0.png", "dog/1.png", "__MACOSX/cat/2.png"):
        photo(tmp_path / name)
    for name in ("notes.pdf", "cat/features.h5", "cat/film.mpg"):
        (tmp_path / name).write_bytes(b"no photo")
    (tmp_path / "cat" / "x.png").mkdir()
    assert [file.name for file in readers.PhotoFolder.find(tmp_path).photos] == ["0.png", "1.png"]


def test_photos_beside_class_folders_are_refused_by_name(tmp_path):
    for name in ("cat/0.png", "dog/1.png", "preview.png"):
        photo(tmp_path / name)
    with pytest.raises(ValueError, match="preview.png lies beside class folders; move it"):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_several_images_in_one_file_are_refused_by_name(tmp_path, ending):
    pages = [Image.fromarray(noise(8, 8, seed=seed)) for seed in (1, 2)]
    photo(tmp_path / "a.png")
    photo(tmp_path / f"b.{ending}", save_all=True, append_images=pages)
    with pytest.raises(ValueError, match=f"b.{ending}: one image expected, got 3 frames or pages"):
        load(tmp_path)


def test_a_phones_photo_with_its_preview_is_one_image(tmp_path):
    for name in "ab":
        photo(tmp_path / f"{name}.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(noise(4, 4))])
    assert load(tmp_path).shape == (1, 8, 8)


def test_folders_are_told_apart_by_their_whole_names(tmp_path):
    for name in ("data.v1", "data.v2"):
        for k in range(2):
            photo(tmp_path / name / f"{k}.png")
        assert load(tmp_path / name).name == name


def test_photographs_stand_upright_as_their_camera_noted(tmp_path):
    upright = noise(4, 4)
    turned = Image.Exif()
    turned[0x0112] = 6  # turn it by a quarter, clockwise
    for name in ("a.png", "b.png"):
        photo(tmp_path / name, np.rot90(upright), exif=turned)
    assert torch.equal(load(tmp_path).images[0, 0], torch.from_numpy(upright))


def test_of_a_folder_only_the_images_asked_for_are_read(tmp_path, monkeypatch):
    for k in range(20):
        photo(tmp_path / f"{k}.png", noise(16, 12, seed=k))
    read = []
    read_photo = readers.read_photo
    monkeypatch.setattr(readers, "read_photo", lambda file: read.append(file) or read_photo(file))
    few = load(tmp_path, size=8, limit=3)
    assert len(read) == len(few) == 3
    whole = load(tmp_path, size=8)
    rows = {image.numpy().tobytes() for image in whole.images}
    assert len(whole) == 18 and all(image.numpy().tobytes() in rows for image in few.images)


def test_a_folder_of_grey_and_colour_has_three_channels_in_both_splits(tmp_path):
    for k in range(19):
        photo(tmp_path / f"{k:02d}.png", noise(8, 8, seed=k))
    photo(tmp_path / "99.png", noise(8, 8, 3))
    assert load(tmp_path).shape == load(tmp_path, split="test").shape == (3, 8, 8)


def test_a_decompression_bomb_is_refused_by_name(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        photo(tmp_path / name, noise(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="a.png: not a readable image .DecompressionBomb"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"labels": np.array(list("abcdef"))}, "labels as whole numbers expected, got <U1"),
        ({"labels": np.arange(6) - 5}, "labels from 0 on .* got -5 to 0"),
        ({"labels": np.arange(6, dtype=np.uint64) + 2**63}, "labels from 0 on .* to 9223372036854775813"),
        ({"factors": np.ones((6, 1)), "factor_names": np.array("kind")}, "a list of factor_names expected"),
        ({"factors": np.array(list("abcdef")), "factor_names": np.array(["kind"])}, "finite factors"),
        ({"factors": np.ones((6, 2)), "factor_names": np.array(["kind"])}, r"finite factors \(6, 1\) expected"),
        ({"factors": np.full((6, 1), np.nan), "factor_names": np.array(["kind"])}, "finite factors"),
    ],
)
def test_arrays_of_another_kind_are_refused_by_name(tmp_path, arrays, says):
    archive(tmp_path / "odd.npz", **arrays)
    with pytest.raises(ValueError, match=f"odd.npz: .*{says}"):
        load(tmp_path / "odd.npz")


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (np.full((6, 8, 8), 0.5), "; multiply by 255 and cast"),
        (np.full((6, 8, 8), 254.6), "254.6; cast by"),
        (np.full((6, 8, 8), 200), "200; cast by"),
        (np.full((6, 8, 8), 200, np.uint16), "200; cast by"),
        (np.ones((6, 8, 8), bool), "bool; multiply by 255 and cast"),
        (np.full((6, 8, 8), 256), "256$"),
        (np.full((6, 8, 8), -0.5), "-0.5$"),
        (np.full((6, 8, 8), np.inf), "inf$"),
    ],
)
def test_images_of_another_kind_are_told_how_to_become_bytes(tmp_path, images, remedy):
    archive(tmp_path / "odd.npz", images=images)
    with pytest.raises(ValueError, match=f"odd.npz: images as uint8 in 0…255 expected, got .*{remedy}"):
        load(tmp_path / "odd.npz")


def test_an_entry_that_is_no_array_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as odd:
        odd.writestr("images.npy", b"no array")
    with pytest.raises(ValueError, match="odd.npz: its entry images is no array"):
        load(tmp_path / "odd.npz")


def test_an_archive_with_a_comment_is_read_and_a_lost_entry_still_found(tmp_path):
    path = tmp_path / "told.npz"
    archive(path)
    with zipfile.ZipFile(path, "a") as told:
        told.comment = b"made by hand" * 5000
    assert len(load(path)) == 5
    raw = path.read_bytes()
    count = raw.rfind(b"PK\5\6") + 10
    path.write_bytes(raw[:count] + b"\3" + raw[count + 1 :])
    with pytest.raises(ValueError, match="told.npz is damaged .at its list of 3 arrays.$"):
        load(path)


def test_only_a_set_that_was_fetched_may_be_deleted(tmp_path):
    for name in ("mnist_train", "mine_train", "mine"):
        (tmp_path / f"{name}.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="damaged or no .npz; delete it, and it is fetched again"):
        load("mnist", folder=tmp_path)
    for source in ("mine", tmp_path / "mine.npz", tmp_path / "mnist_train.npz"):
        with pytest.raises(ValueError, match="damaged or no .npz$"):
            load(source, folder=tmp_path)


def test_labels_under_another_key_are_not_lost_in_silence(tmp_path):
    np.savez(tmp_path / "odd.npz", images=noise(6, 8, 8), targets=np.arange(6))
    with pytest.raises(ValueError, match="an array called labels expected beside images, got targets; rename it"):
        load(tmp_path / "odd.npz")
    np.savez(tmp_path / "bare.npz", images=noise(6, 8, 8))
    assert set(load(tmp_path / "bare.npz").labels.tolist()) == {-1}


def test_a_readers_warnings_do_not_leave_it(tmp_path):
    raw = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(raw, "png")
    (tmp_path / "a.png").write_bytes(raw.getvalue())
    (tmp_path / "b.png").write_bytes(raw.getvalue())
    with warnings.catch_warnings(record=True) as told:
        load(tmp_path)
    assert not told


def test_a_benchmark_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_DATA", str(tmp_path))
    archive(tmp_path / "mnist_train.npz")
    archive(tmp_path / "mine_train.npz")
    archive(tmp_path / "mnist.npz")
    assert load("mnist").name == "mnist (not the original)"
    assert load("mine").name == "mine"
    assert load("color_mnist").name == "color_mnist (not the original)"
    for name in ("mnist", "sprites", "mnist_small"):
        archive(tmp_path / f"{name}.npz")
        assert load(tmp_path / f"{name}.npz").name == f"{name} (a path)"
    archive(tmp_path / "celeba_10k_test.npz")
    assert load("celeba_10k", split="test").name == "celeba_10k (not the original)"
    with pytest.raises(DatasetUnavailable, match=r"celeba_10k_train.npz does not exist; docs/data.md says"):
        load("celeba_10k")
    archive(tmp_path / "celeba_test.npz")
    assert load("celeba", split="test").name == "celeba (not checked)"
    with monkeypatch.context() as patch:
        patch.setitem(originals.DIGESTS, ("mnist", "train"), load("mnist").digest)
        assert load("mnist").name == "mnist"
    assert load("mnist", limit=2, size=4).name == "mnist (not the original)"
