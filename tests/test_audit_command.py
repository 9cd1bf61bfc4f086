"""`vaenb audit`: what a stranger types, what comes back, and what each wrong model and path is told."""

import json
import re
import signal

import numpy as np
import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb import data
from vaenb.__main__ import main
from vaenb.audit import Budget, loading, page, run
from vaenb.data.readers import write_npz

MINE = """
from __future__ import annotations
from dataclasses import dataclass
from tests.oracles import LinearGaussian
from torch import nn

good = LinearGaussian(shape=(1, 8, 8), s=0.1)

def make():
    return good

class Net(nn.Linear):
    pass

module = Net(2, 2)
number = 3

class Logits(LinearGaussian):
    def decode(self, z):
        return 9 * super().decode(z) - 6

logits = Logits(shape=(1, 8, 8), s=0.1)

@dataclass
class Settings:
    width: int = 3

def needs(width):
    return good

def lacking():
    import no_such_library

def leaves():
    raise SystemExit("usage: train.py data")

def broken():
    raise OSError("weights.pt is not there")

class Asserting(LinearGaussian):
    def decode(self, z):
        assert len(z) > 99

asserting = Asserting(shape=(1, 8, 8), s=0.1)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few steps, and no Chrome."""
    monkeypatch.setattr("vaenb.audit.budget.BUDGETS", {"quick": Budget(12, 3, 3, 1), "standard": Budget(12, 3, 3, 1)})
    monkeypatch.setattr("vaenb.plots.saving._png_server", lambda: False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    model = LinearGaussian(shape=(1, 8, 8), s=0.1)
    x = model.decode(torch.randn(20, 3, generator=seeded())).clamp(0, 1)
    pixels = (x * 255).round().byte().numpy()
    write_npz(tmp_path / "images.npz", {"images": pixels, "labels": np.arange(20) % 2})
    write_npz(tmp_path / "colour.npz", {"images": np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)})
    return tmp_path


def test_a_model_and_images_become_a_page(folder, capsys):
    given = ["--outside", "colour=colour.npz", "--labels", "--seed", "3", "-o", "out"]
    assert main(["audit", "mine.py:make", "--data", "images.npz", *given]) == 0
    out, err = capsys.readouterr()
    assert "decoder by spreads: " in out and "−ELBO against colour: " in out and "page  out/page.html" in out
    assert "it takes about" in err
    stored = json.loads((folder / "out" / "report.json").read_text())
    assert (
        stored["settings"]["images"] == 12 and stored["settings"]["attacked"] == 3 and stored["settings"]["seed"] == 3
    )
    assert stored["verdicts"] and "labels: clean" in stored["measures"]
    page = (folder / "out" / "page.html").read_text()
    assert "http://" not in page.partition("<h2>In numbers")[0].partition("Plotly")[0]
    assert page.count("data:image/png;base64,") >= 6 and "<script" in page
    assert (folder / "out" / "report.csv").read_text().startswith("measure,unit,")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["mine.py:module"], 2, "Net has no posterior, decode, log_prior, log_likelihood"),
        (["mine.py:number"], 2, "int has no posterior"),
        (["mine.py:logits"], 2, r"decode: pixels in \[0, 1\] expected"),
        (["mine.py:broken"], 2, r"broken\(\) raised OSError: weights.pt is not there \(mine.py, line 38\)"),
        (["mine.py:asserting"], 2, r"decode: .* it raised AssertionError:  \(mine.py, line 42\)"),
        (["mine.py:nothing"], 2, "mine.py has no 'nothing'; it has make, Net, module, number, Logits"),
        (["mine.py"], 2, "model: file.py:name, zoo:name, or a folder with --adapter expected"),
        (["yours.py:make"], 1, "yours.py is not there"),
        (["zoo:mnist/cnn"], 2, "an autoencoder of the zoo expected, got the classifier zoo:mnist/cnn"),
        (["zoo:mnist/knd"], 2, "did you mean 'mnist/kld'"),
        (["mine.py:make", "--attacked", "1"], 2, "--attacked: a whole number ≥ 2"),
        (["mine.py:make", "--size", "4"], 2, "six pixels a side"),
        (["mine.py:make", "--size", "16"], 2, "posterior: called with torch.float32.* images of another size"),
        (["mine.py:make", "--size", "0"], 2, "size: a whole number ≥ 1"),
        (["mine.py:needs"], 2, "mine.py:needs without arguments expected, missing a required argument: 'width'"),
        (["mine.py:lacking"], 1, "lacking\\(\\): No module named 'no_such_library'"),
        (["mine.py:leaves"], 2, r"leaves\(\) raised SystemExit: usage"),
        (["mine.py:make", "--adapter", "pythae"], 1, "with --adapter the folder of a saved model expected"),
        (["mine.py:make", "--outside", "=images.npz"], 2, "--outside: name=images, each name once, expected"),
        (["mine.py:make", *2 * ["--outside", "images.npz"]], 2, "--outside: name=images, each name once"),
        (["mine.py:make", "-o", "mine.py"], 1, "-o: a folder expected, mine.py is a file"),
        (
            ["mine.py:make", "--data", ""],
            2,
            "--data: an .npz, a folder of images or a known set expected",
        ),
        (["mine.py:make", "--data", "mine.py"], 2, "mine.py: an .npz or a folder of images expected"),
    ],
)
def test_what_is_wrong_is_told(folder, capsys, arguments, status, words):
    assert main(["audit", "--data", "images.npz", *arguments]) == status
    assert re.search(words, capsys.readouterr().err)


def test_a_misspelt_reference_is_told(folder, capsys):
    with pytest.raises(SystemExit) as left:
        main(["audit", "mine.py:make", "--data", "images.npz", "--reference", "mnst"])
    assert left.value.code == 2 and "choose from" in capsys.readouterr().err


def test_a_model_of_the_zoo_gets_images_of_its_size(folder, capsys):
    assert main(["audit", "zoo:mnist/kld", "--data", "mnist_small", "--reference", "MNIST", "-o", "out"]) == 0
    stored = json.loads((folder / "out" / "report.json").read_text())
    assert stored["settings"]["shape"] == [1, 32, 32] and stored["settings"]["asked"]["model"] == "zoo:mnist/kld"
    assert stored["settings"]["asked"]["seed"] == 0


def test_a_failure_midway_leaves_a_page(folder, monkeypatch, capsys):
    def fail(bench):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(run.PARTS, "scores", fail)
    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 2
    assert "stopped before its end, in its part 'scores' by RuntimeError: out of memory" in capsys.readouterr().out
    assert "encoder: AADDC" in json.loads((folder / "audit" / "report.json").read_text())["measures"]


def test_a_model_that_fails_at_once_is_told(folder, monkeypatch, capsys):
    def fail(bench):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setitem(run.PARTS, "codes", fail)
    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 2
    assert "can't audit mine.py:make: OutOfMemoryError: no memory is left" in capsys.readouterr().err


def test_a_second_audit_removes_pictures_of_the_first_and_nothing_else(folder):
    assert main(["audit", "mine.py:make", "--data", "images.npz", "-o", "."]) == 0
    mine = [folder / name for name in ("labels.npz", "outside.npz", "reference.csv", "images.npz")]
    for path in mine:
        path.touch()
    (folder / "labels.plotly.json").write_text("{}")
    assert main(["audit", "mine.py:make", "--data", "images.npz", "-o", "."]) == 0
    assert all(path.exists() for path in mine) and not (folder / "labels.plotly.json").exists()


def test_wrong_images_are_told(folder, capsys):
    assert main(["audit", "mine.py:make", "--data", "nowhere.npz"]) == 1
    assert "nowhere.npz does not exist" in capsys.readouterr().err
    assert main(["audit", "mine.py:make", "--data", "colour.npz"]) == 2
    assert "can't audit mine.py:make: posterior: called with" in capsys.readouterr().err
    assert main(["audit", "mine.py:make", "--data", "colour.npz", "--labels"]) == 2
    assert "9 of 9 images have none (−1)" in capsys.readouterr().err


def test_part_of_an_audit_replaces_no_complete_one(folder, monkeypatch, capsys):
    def stop(bench):
        raise KeyboardInterrupt

    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 0
    before = {path.name: path.read_bytes() for path in (folder / "audit").iterdir()}
    monkeypatch.setitem(run.PARTS, "scores", stop)
    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 130
    assert "page  audit/stopped/page.html" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (folder / "audit").iterdir() if path.is_file()} == before
    assert json.loads((folder / "audit" / "stopped" / "report.json").read_text())["stopped"] == "by Ctrl-C"


def test_ctrl_c_leaves_a_page(folder, monkeypatch, capsys):
    def stop(bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.PARTS, "scores", stop)
    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 130
    assert "! The audit was stopped before its end" in capsys.readouterr().out
    stored = json.loads((folder / "audit" / "report.json").read_text())
    assert stored["stopped"] == "by Ctrl-C" and "encoder: AADDC" in stored["measures"]


def test_a_second_ctrl_c_does_not_lose_the_page(folder, monkeypatch, capsys):
    def stop(bench):
        raise KeyboardInterrupt

    def impatient(report):
        signal.raise_signal(signal.SIGINT)
        return "stopped"

    monkeypatch.setitem(run.PARTS, "scores", stop)
    monkeypatch.setattr(page, "summary", impatient)
    handler = signal.getsignal(signal.SIGINT)
    assert main(["audit", "mine.py:make", "--data", "images.npz"]) == 130
    assert (folder / "audit" / "page.html").is_file() and signal.getsignal(signal.SIGINT) is handler


def test_all_images_of_a_file_are_taken_and_shuffled(folder):
    every = data.whole("images.npz")
    assert len(every) == 20 and every.split == "test"
    (folder / "sprites").mkdir()  # a known name stays one
    assert loading.images("sprites", limit=5).name == "sprites"
    shuffled = loading.images("images.npz")
    assert len(shuffled) == 20 and not torch.equal(shuffled.images, every.images)
    assert shuffled.images.sum() == every.images.sum()
    assert len(loading.images("images.npz", limit=7)) == 7


def test_other_images_come_in_the_size_and_channels_of_the_data():
    grey, colour = torch.rand(2, 1, 16, 16), torch.rand(2, 3, 16, 16)
    assert loading.like(grey, "mnist_small", 5).shape == (5, 1, 16, 16)
    wide = loading.like(colour, "mnist_small", 5)
    assert wide.shape == (5, 3, 16, 16) and torch.equal(wide[:, 0], wide[:, 2])
