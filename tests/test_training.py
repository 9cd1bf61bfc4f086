"""`fit` and the checkpoint store: reproducible, interruptible, and not to be fooled by a damaged file."""

import functools
import hashlib
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.oracles import seeded
from vaenb import checkpoints
from vaenb.checkpoints import DamagedCheckpoint, load_weights, save_weights, trained
from vaenb.data import load
from vaenb.models import vae
from vaenb.training import TrainingInterrupted, fit

CONFIG = {"image_shape": (1, 8, 8), "latent_dim": 2, "net": "mlp"}


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train", limit=256)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_CACHE", str(tmp_path / "models"))
    return tmp_path / "models"


def quick(digits, **changes):
    return trained(vae, CONFIG, digits, **{"epochs": 2, "progress": False, **changes})


def same(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_learns(digits):
    torch.manual_seed(0)
    model = vae(**CONFIG)
    history = fit(model, digits, epochs=30, progress=False)
    first, last = history.epochs[0], history.epochs[-1]
    assert len(history.epochs) == 30 and not history.interrupted and not model.training
    assert last["loss"] < first["loss"] - 5 and last["loss"] == pytest.approx(last["nll"] + last["kl"], rel=1e-5)


def test_the_same_config_and_seed_give_the_same_weights(digits, tmp_path):
    one, history = quick(digits)
    again, history_again = quick(digits, folder=tmp_path / "elsewhere")
    other, _ = quick(digits, seed=1)
    assert same(one, again) and history == history_again and not same(one, other)


def test_the_global_random_state_is_left_alone(digits):
    state = torch.get_rng_state()
    quick(digits)
    assert torch.equal(state, torch.get_rng_state())


def test_the_store_returns_what_was_trained_without_training(digits, monkeypatch):
    model, history = quick(digits)
    monkeypatch.setattr(checkpoints, "fit", lambda *a, **k: pytest.fail("trained again"))
    stored, stored_history = quick(digits)
    assert same(model, stored) and stored_history == history and not stored.training


def test_every_part_of_the_description_counts(digits, store):
    quick(digits)
    for change in ({"epochs": 3}, {"seed": 1}, {"lr": 1e-4}, {"batch_size": 64}):
        quick(digits, **change)
    trained(vae, {**CONFIG, "beta": 4.0}, digits, epochs=2, progress=False)
    trained(vae, CONFIG, digits.take(slice(128)), epochs=2, progress=False)
    assert len(list(store.glob("*.safetensors"))) == 7
    trained(vae, {**CONFIG, "beta": 1.0}, digits, epochs=2, progress=False)  # the default, said aloud
    assert len(list(store.glob("*.safetensors"))) == 7


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def make_pickle(path):
    path.write_bytes(pickle.dumps({"weights": [1.0]}))


def make_torch_file(path):
    torch.save({"w": torch.zeros(2)}, path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, make_pickle, make_torch_file])
def test_a_damaged_checkpoint_is_noticed_named_and_trained_again(digits, store, damage):
    model, _ = quick(digits)
    (path,) = store.glob("*.safetensors")
    damage(path)
    with pytest.warns(UserWarning, match=f"{path.name} is .*training it again"):
        again, _ = quick(digits)
    assert same(model, again)
    quick(digits)  # the store is whole again: no warning, which would be an error


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    for name, save in {
        "a.pkl": lambda p: p.write_bytes(pickle.dumps(Bomb())),
        "a.pt": lambda p: torch.save(Bomb(), p),
    }.items():
        path = tmp_path / name
        save(path)
        with pytest.raises(DamagedCheckpoint, match=f"{name} is a pickle, not safetensors"):
            load_weights(vae(**CONFIG), path)
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_shape_are_refused_and_change_nothing(tmp_path):
    save_weights(vae(**{**CONFIG, "latent_dim": 3}), tmp_path / "w.safetensors")
    model = vae(**CONFIG)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(DamagedCheckpoint, match="names or shapes of the weights differ"):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_failed_write_leaves_the_old_file_whole_and_the_model_in_hand(digits, store, monkeypatch):
    model, _ = quick(digits)
    (path,) = store.glob("*.safetensors")
    content = path.read_bytes()

    write = Path.write_bytes

    def full_disk(self, content):
        write(self, content[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, path)
    assert path.read_bytes() == content and [p.suffix for p in store.iterdir() if "part" in p.name] == []
    with pytest.warns(UserWarning, match="could not be stored .*No space left"):
        other, history = quick(digits, seed=5)
    assert len(history.epochs) == 2 and not other.training


class InterruptAfter:
    """A VAE's losses, with a Ctrl-C in the middle of step n."""

    def __init__(self, model, n):
        self.model, self.n, self.calls = model, n, 0

    def __call__(self, x, labels, generator=None):
        self.calls += 1
        if self.calls == self.n:
            os.kill(os.getpid(), signal.SIGINT)
        return type(self.model).losses(self.model, x, labels, generator)


def test_an_interrupt_ends_after_the_step_and_leaves_a_usable_model(digits):
    model = vae(**CONFIG)
    model.losses = InterruptAfter(model, 5)
    handler = signal.getsignal(signal.SIGINT)
    history = fit(model, digits, epochs=50, progress=False)  # two steps an epoch
    assert history.interrupted and len(history.epochs) == 2 and model.losses.calls == 5
    assert not model.training and all(p.isfinite().all() for p in model.parameters())
    assert signal.getsignal(signal.SIGINT) is handler


def interrupted_vae(**config):
    model = vae(**config)
    model.losses = InterruptAfter(model, 3)
    return model


def test_an_interrupted_training_stops_what_follows_and_keeps_the_model(digits, store):
    with pytest.raises(TrainingInterrupted, match="stopped after 1 epochs; the model is usable but not stored") as stop:
        trained(interrupted_vae, CONFIG, digits, epochs=20, progress=False)
    assert isinstance(stop.value, KeyboardInterrupt) and stop.value.history.interrupted
    assert not list(store.glob("*.safetensors"))
    assert not stop.value.model.training and stop.value.model.decode(torch.zeros(1, 2)).isfinite().all()


def test_fit_works_outside_the_main_thread(digits):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(fit(vae(**CONFIG), digits, epochs=1, progress=False)))
    thread.start()
    thread.join()
    assert len(histories[0].epochs) == 1


def test_two_processes_train_the_same_model_once(store):
    code = (
        "import torch; from vaenb import checkpoints; from vaenb.data import load; from vaenb.models import vae\n"
        "fit = checkpoints.fit\n"
        "checkpoints.fit = lambda *a, **k: print('training', flush=True) or fit(*a, **k)\n"
        f"model, _ = checkpoints.trained(vae, {CONFIG!r}, load('digits', limit=256), epochs=30, progress=False)\n"
        "print(sum(p.double().sum().item() for p in model.parameters()))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in both]
    assert sum(o.count("training\n") for o in outputs) == 1
    assert len({o.splitlines()[-1] for o in outputs}) == 1
    assert len(list(store.glob("*.safetensors"))) == 1 and not list(store.glob("*.part"))


def test_a_loss_that_explodes_is_an_error(digits):
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss is not finite .* smaller lr"):
        fit(vae(**{**CONFIG, "beta": 1e39}), digits, epochs=1, lr=1e-3, progress=False)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("ema", 0.0), ("ema", 1), ("ema", -0.9)],
)
def test_bad_settings_are_refused(digits, argument, value):
    with pytest.raises(ValueError, match=argument):
        fit(vae(**CONFIG), digits, **{"epochs": 1, argument: value})
    with pytest.raises(ValueError, match="the image set is empty"):
        fit(vae(**CONFIG), digits.take(slice(0)), epochs=1)


def headless(head):
    return vae(**CONFIG)


def test_a_config_that_cannot_be_stored_is_refused(digits):
    with pytest.raises(TypeError, match="config: plain values expected"):
        trained(headless, {"head": torch.nn.Linear(2, 2)}, digits, epochs=1)


def test_a_builder_that_cannot_be_told_from_another_is_refused(digits):
    for build in (lambda: vae(**CONFIG), functools.partial(vae, **CONFIG)):
        with pytest.raises(TypeError, match="build: a named function or class"):
            trained(build, {}, digits, epochs=1)


def test_a_changed_builder_is_another_model(digits, store, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for beta in (1.0, 100.0):  # which stands in what the builder calls
        helper = f"def helper(**config):\n    return vae(beta={beta}, **config)\n"
        source = f"from vaenb.models import vae\n{helper}def build(**config):\n    return helper(**config)\n"
        (tmp_path / f"mine{beta:.0f}.py").write_text(source)
        module = importlib.import_module(f"mine{beta:.0f}")
        module.build.__module__ = "mine"
        trained(module.build, CONFIG, digits, epochs=1, progress=False)
    assert len(list(store.glob("*.safetensors"))) == 2


class WithBatchNorm(torch.nn.Module):
    """A model whose weights depend on everything a training loop does."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8, bias=False), torch.nn.BatchNorm1d(8))
        self.net.append(torch.nn.Linear(8, 64))

    def losses(self, x, labels, generator=None):
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        return {"loss": ((self.net(noisy) - x.flatten(1)) ** 2).mean() + labels.float().mean()}


def test_fit_is_the_plain_loop(digits):
    data = digits.take(slice(100))  # no multiple of the batch size
    ours, theirs = WithBatchNorm(), WithBatchNorm()
    theirs.load_state_dict(ours.state_dict())
    history = fit(ours, data, epochs=3, batch_size=32, lr=0.01, seed=7, progress=False)
    generator, optimizer = seeded(7), torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(3):
        order, losses = torch.randperm(100, generator=generator), []
        for batch in (order[:32], order[32:64], order[64:96]):
            optimizer.zero_grad()
            loss = theirs.losses(data.float(batch), data.labels[batch], generator)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    for p, q in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert history.epochs[-1]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)


def with_dropout(**config):
    model = vae(**config)
    model.encoder.append(torch.nn.Dropout(0.2))
    return model


def test_dropout_repeats_too(digits, tmp_path):
    runs = [trained(with_dropout, CONFIG, digits, epochs=1, progress=False, folder=tmp_path / f)[0] for f in "ab"]
    assert same(*runs)


def test_a_valid_file_is_never_taken_for_a_pickle(digits, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(vae(**CONFIG), path)
    length = int.from_bytes(path.read_bytes()[:8], "little")  # of the header, with which the file begins
    wanted = next(n for n in range(length, length + 70_000, 8) if n.to_bytes(8, "little")[:2] == b"\x80\x04")
    description = "x" * (wanted - length)
    save_weights(vae(**CONFIG), path, description=description)
    assert path.read_bytes()[:2] == b"\x80\x04"  # as a pickle does
    load_weights(vae(**CONFIG), path, description=description)


def test_a_changed_history_is_damage(digits, store):
    quick(digits)
    (path,) = store.glob("*.safetensors")
    content = path.read_bytes()
    place = content.index(b"loss") + 8
    path.write_bytes(content[:place] + b"9" + content[place + 1 :])
    with pytest.raises(DamagedCheckpoint, match="does not match the checksum"):
        load_weights(vae(**CONFIG), path)


def blended(average: dict | None, weights: dict, n: int, ema: float, buffers=()) -> dict:
    """The moving average after update n, counted from 0; what is no weight stays as the last batch left it."""
    if n == 0:
        return {name: new.clone() for name, new in weights.items()}
    keep = min(ema, (1 + n) / (10 + n))
    mean = {name: keep * average[name] + (1 - keep) * new for name, new in weights.items() if name not in buffers}
    return {**weights, **mean}


@pytest.mark.parametrize("ema", [0.3, 0.9999])  # the fixed average from the fourth batch on, and the warm-up alone
def test_ema_is_the_average_of_the_plain_loops_weights(digits, ema):
    data = digits.take(slice(96))
    ours, theirs = WithBatchNorm(), WithBatchNorm()
    theirs.load_state_dict(ours.state_dict())
    history = fit(ours, data, epochs=3, batch_size=32, lr=0.01, ema=ema, seed=7, progress=False)
    generator, optimizer = seeded(7), torch.optim.Adam(theirs.parameters(), lr=0.01)
    average, buffers, n = None, dict(theirs.named_buffers()), 0
    for _ in range(3):
        losses = []
        for batch in torch.randperm(96, generator=generator).split(32):
            optimizer.zero_grad()
            loss = theirs.losses(data.float(batch), data.labels[batch], generator)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            average, n = blended(average, theirs.state_dict(), n, ema, buffers), n + 1
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(ours.net[1].weight, theirs.net[1].weight, atol=1e-4) and not ours.training
    assert history.epochs[-1]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)  # of the weights in training


def stopped(digits, n, ema=None):
    torch.manual_seed(0)
    model = vae(**CONFIG)
    model.losses = InterruptAfter(model, n)
    assert fit(model, digits, epochs=50, ema=ema, progress=False).interrupted
    return model


def test_an_interrupt_leaves_the_average(digits):
    average = None
    for n in range(5):
        average = blended(average, stopped(digits, n + 1).state_dict(), n, 0.9)
    for name, value in stopped(digits, 5, ema=0.9).state_dict().items():
        torch.testing.assert_close(value, average[name])


def test_ema_counts_in_the_description_only_where_it_is_asked_for(digits, store):
    model, _ = quick(digits)
    (path,) = store.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["description"])
    said = {"format": 1, "build": "vaenb.models.autoencoder.vae", "data": digits.digest, "seed": 0}
    said |= {"epochs": 2, "batch_size": 128, "lr": 1e-3}  # as it was before there was an average
    assert description == {**said, "config": description["config"]}
    assert description["config"] == {**description["config"], **CONFIG, "image_shape": [1, 8, 8]}
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    assert path.name == f"vae-{key}.safetensors"
    assert same(model, quick(digits, ema=None)[0]) and len(list(store.glob("*.safetensors"))) == 1
    assert not same(quick(digits, ema=0.1)[0], quick(digits, ema=0.9)[0])
    assert len(list(store.glob("*.safetensors"))) == 3


def test_the_average_is_what_is_stored(digits, monkeypatch):
    model, history = quick(digits, ema=0.9)
    monkeypatch.setattr(checkpoints, "fit", lambda *a, **k: pytest.fail("trained again"))
    stored, stored_history = quick(digits, ema=0.9)
    assert same(model, stored) and stored_history == history and not stored.training


def test_numpys_numbers_are_numbers(digits):
    weights = []
    for kind in (int, np.int64, np.uint8):
        torch.manual_seed(0)
        model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp")
        fit(model, digits, epochs=kind(2), batch_size=kind(200), progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
