"""`fit` and the checkpoint store: reproducible, interruptible, and not to be fooled by a damaged file."""

import errno
import functools
import hashlib
import importlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.oracles import seeded
from vaenb import checkpoints, tensorfile
from vaenb.checkpoints import DamagedCheckpoint, gain, lengthened, load_weights, save_weights, trained
from vaenb.data import load
from vaenb.models import denoiser, vae
from vaenb.models.forward_kl import forward_kl_vae
from vaenb.training import DEFAULTS, History, TrainingInterrupted, fit, fitting
from vaenb.training.recipe import check_precision, divided

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

    armed = True

    def __init__(self, model, n):
        self.model, self.n, self.calls = model, n, 0

    def __call__(self, x, labels, generator=None):
        self.calls += 1
        if self.armed and self.calls == self.n:
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


def interrupted_vae(*, at, **config):
    model = vae(**config)
    model.losses = InterruptAfter(model, at)
    return model


def test_an_interrupted_training_stops_what_follows_and_keeps_the_model(digits, store):
    said = "stopped after 1 epochs; the model is usable, and the same call goes on"
    with pytest.raises(TrainingInterrupted, match=said) as stop:
        trained(interrupted_vae, {**CONFIG, "at": 3}, digits, epochs=20, progress=False)
    assert isinstance(stop.value, KeyboardInterrupt) and stop.value.history.interrupted
    assert not list(store.glob("*.safetensors")) and len(list(store.glob("*.state"))) == 1
    assert not stop.value.model.training and stop.value.model.decode(torch.zeros(1, 2)).isfinite().all()


CONV = {"image_shape": (1, 16, 16), "latent_dim": 2}  # BatchNorm, and weights in another order than they are written
EVERYTHING = {"epochs": 3, "batch_size": 32, "ema": 0.9, "clip": 100.0, "validation": 0.2, "seed": 3}


@pytest.mark.parametrize("recipe", [{"epochs": 3, "batch_size": 32}, EVERYTHING])
@pytest.mark.parametrize("at", [1, 4, 9])  # in the first epoch, at the end of one, and in the last
def test_a_stopped_training_goes_on_to_exactly_the_same_weights(store, monkeypatch, at, recipe):
    data = load("digits", size=16, limit=160)
    whole, history = trained(vae, CONV, data, **recipe, progress=False)
    config = {**CONV, "at": at}
    with pytest.raises(TrainingInterrupted):
        trained(interrupted_vae, config, data, **recipe, progress=False)
    (state,) = store.glob("*.state")
    monkeypatch.setattr(InterruptAfter, "armed", False)
    resumed, history_resumed = trained(interrupted_vae, config, data, **recipe, progress=False)
    assert same(whole, resumed) and history_resumed == history and not state.exists()
    assert len(history.epochs) == 3 and ("validation_loss" in history.epochs[0]) == ("validation" in recipe)


def test_what_a_model_keeps_beside_its_weights_goes_on_too(digits, tmp_path):
    def built():
        torch.manual_seed(0)
        return forward_kl_vae(**CONFIG, targets="hmc", samples=2)

    recipe = {"epochs": 3, "batch_size": 128, "progress": False}
    whole, stopped, resumed = built(), built(), built()
    fit(whole, digits, **recipe)
    stopped.losses = InterruptAfter(stopped, 3)
    state = tmp_path / "a.state"
    assert fit(stopped, digits, state=state, **recipe).interrupted
    fit(resumed, digits, state=state, **recipe)
    assert same(whole, resumed) and torch.equal(whole.step_size, resumed.step_size)  # a buffer that is not stored


def test_a_killed_training_goes_on_from_what_was_kept(store, tmp_path):
    code = (
        "import os, signal, sys; from vaenb.training import fitting; from vaenb.checkpoints import trained\n"
        "from vaenb.data import load; from vaenb.models import vae\n"
        "fitting.SAVE_EVERY, kill_at = 0, int(sys.argv[1])\n"
        "step = fitting.Steps.step\n"
        "def dying(run):\n"
        "    if run.done == kill_at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    step(run)\n"
        "fitting.Steps.step = dying\n"
        f"trained(vae, {CONFIG!r}, load('digits', limit=256), epochs=3, progress=False)"
    )
    killed = subprocess.run([sys.executable, "-c", code, "3"])
    assert killed.returncode == -signal.SIGKILL and len(list(store.glob("*.state"))) == 1
    data = load("digits", limit=256)
    resumed, _ = trained(vae, CONFIG, data, epochs=3, progress=False)
    assert same(resumed, trained(vae, CONFIG, data, epochs=3, folder=tmp_path / "new", progress=False)[0])


def test_a_stop_at_the_last_step_stops_what_follows_and_loses_nothing(digits, monkeypatch):
    config = {**CONFIG, "at": 4}
    with pytest.raises(TrainingInterrupted, match="after 2 epochs"):
        trained(interrupted_vae, config, digits, epochs=2, progress=False)
    monkeypatch.setattr(InterruptAfter, "armed", False)
    assert same(trained(interrupted_vae, config, digits, epochs=2, progress=False)[0], quick(digits)[0])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, make_pickle])
def test_a_damaged_state_is_named_and_the_training_begins_anew(digits, store, monkeypatch, damage):
    config = {**CONFIG, "at": 3}
    with pytest.raises(TrainingInterrupted):
        trained(interrupted_vae, config, digits, epochs=2, progress=False)
    (state,) = store.glob("*.state")
    damage(state)
    monkeypatch.setattr(InterruptAfter, "armed", False)
    with pytest.warns(UserWarning, match=f"{state.name} is .*the training begins anew"):
        model, _ = trained(interrupted_vae, config, digits, epochs=2, progress=False)
    assert same(model, quick(digits)[0]) and not state.exists()


def test_a_state_of_another_training_is_refused(digits, tmp_path):
    state = tmp_path / "mine.state"
    assert fit(interrupted_vae(**CONFIG, at=2), digits, epochs=2, state=state, progress=False).interrupted
    for model, recipe in (vae(**CONFIG), {"epochs": 3}), (vae(**CONFIG), {"epochs": 2, "lr": 1e-3}):
        with pytest.raises(ValueError, match=r"state: .*mine.state is of another training"):
            fit(model, digits, state=state, **recipe)
    with pytest.raises(ValueError, match="another training"):
        fit(vae(**CONFIG), digits.take(slice(128)), state=state, epochs=2)
    assert state.exists()
    with pytest.warns(UserWarning, match="does not fit this model: .*begins anew"):
        fit(vae(**{**CONFIG, "latent_dim": 3}), digits, state=state, epochs=2, progress=False)


def test_a_state_that_cannot_be_written_costs_no_training(digits, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="the training under way could not be kept"):
        history = fit(
            interrupted_vae(**CONFIG, at=2), digits, epochs=2, state=tmp_path / "file/a.state", progress=False
        )
    assert history.interrupted


def rates(epochs, **recipe) -> list[float]:
    """The learning rate of every step, read from what plain gradients of 1 do to a weight."""
    model = Rates()
    fit(model, Images(40), epochs=epochs, batch_size=4, progress=False, **recipe)
    return model.seen


class Images:
    """Data of another kind."""

    device = torch.device("cpu")

    def __init__(self, count):
        self.x = torch.linspace(0, 1, count).reshape(-1, 1, 1, 1)

    def __len__(self):
        return len(self.x)

    def batch(self, index):
        return self.x[index], index


class Rates(torch.nn.Module):
    """Adam moves a weight whose gradient is always 1 by the learning rate."""

    def __init__(self):
        super().__init__()
        self.w, self.seen, self.before = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)), [], None

    def losses(self, x, labels, generator=None):
        if self.before is not None:
            self.seen.append(self.before - self.w.item())
        self.before = self.w.item()
        return {"loss": self.w.sum()}


def test_the_rate_goes_up_for_a_fifth_of_the_steps_and_down_to_nothing():
    steps = torch.tensor(rates(10, lr=0.01))  # 100 steps, the last of which no later one sees
    assert steps.argmax() == 19 and steps.max() == pytest.approx(0.01, rel=1e-4)
    assert steps[0] == pytest.approx(0.01 / 25, rel=1e-4) and steps[-1] < 1e-5
    down = 0.5 * 0.01 * (1 + torch.cos(torch.pi * torch.arange(79) / 80))
    torch.testing.assert_close(steps[19:98].float(), down, rtol=1e-3, atol=1e-6)


def test_a_constant_rate_is_one():
    assert rates(2, lr=0.01, schedule="constant") == pytest.approx([0.01] * 19, rel=1e-4)


@pytest.mark.parametrize("epochs", [1, 2, 5])  # with ten images: 1 to 5 steps
def test_the_shortest_trainings_learn(epochs):
    model = Rates()
    fit(model, Images(4), epochs=epochs, batch_size=4, progress=False)
    assert model.w.item() < 0


def test_clip_shortens_the_gradient_of_all_weights(digits):
    lengths = []

    class Watched(WithBatchNorm):
        def losses(self, x, labels, generator=None):
            gradients = [p.grad.flatten() for p in self.parameters() if p.grad is not None]
            lengths.extend([torch.cat(gradients).norm().item()] if gradients else [])
            return super().losses(x, labels, generator)

    for clip in (None, 0.01):
        fit(Watched(), digits.take(slice(96)), epochs=1, batch_size=32, clip=clip, progress=False)
    assert min(lengths[:2]) > 0.02 and lengths[2:] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_validation_is_the_loss_in_evaluation_mode_of_images_that_are_not_learnt(digits):
    data, held_out = digits.take(slice(0, 192)), digits.take(slice(192, None))
    torch.manual_seed(0)
    model, alone = vae(**CONV_8), vae(**CONV_8)
    alone.load_state_dict(model.state_dict())
    history = fit(model, data, epochs=2, batch_size=64, validation=held_out, progress=False)
    fit(alone, data, epochs=2, batch_size=64, progress=False)
    assert same(model, alone)  # the training's random stream is its own
    with torch.no_grad():
        loss = model.losses(held_out.float(), held_out.labels, seeded(0))["loss"].item()
    assert history.epochs[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("count", [3, 64, 100, 129])
def test_every_validation_image_counts_once_and_alike(digits, count):
    class Brightness(torch.nn.Linear):
        def losses(self, x, labels, generator=None):
            return {"loss": x.mean() + 0 * self.weight.sum()}

    held_out = digits.take(slice(0, count))
    history = fit(Brightness(1, 1), digits, epochs=1, batch_size=64, validation=held_out, progress=False)
    assert history.epochs[-1]["validation_loss"] == pytest.approx(held_out.float().mean().item(), rel=1e-5)


CONV_8 = {"image_shape": (1, 8, 8), "latent_dim": 2, "net": "mlp"}


def test_a_share_is_held_out_and_the_same_for_every_seed():
    data = Images(40)
    part, held_out = divided(data, 0.25)
    assert len(held_out) == 10 and len(part) == 30
    both = torch.cat([d.batch(torch.arange(len(d)))[1] for d in (part, held_out)])
    assert torch.equal(both.sort().values, torch.arange(40))
    assert torch.equal(held_out.index, divided(data, 0.25)[1].index)


def test_with_an_average_it_is_the_average_that_is_validated(digits):
    data, held_out = digits.take(slice(0, 192)), digits.take(slice(192, None))
    model = WithBatchNorm()
    history = fit(model, data, epochs=2, batch_size=64, ema=0.5, validation=held_out, progress=False)
    loss = model.losses(held_out.float(), held_out.labels, seeded(0))["loss"].item()
    assert history.epochs[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)


def test_bfloat16_is_said_and_close_or_refused(digits, monkeypatch):
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except ValueError:
        pytest.skip("no bfloat16 here")
    half, history = quick(digits, epochs=10, precision="bfloat16")
    whole, plain = quick(digits, epochs=10)
    assert history.precision == "bfloat16" and plain.precision == "float32" and not same(half, whole)
    assert history.epochs[-1]["loss"] == pytest.approx(plain.epochs[-1]["loss"], rel=0.02)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert quick(digits, epochs=10, precision="bfloat16")[1] == history  # read from the store


def test_bfloat16_is_refused_where_it_would_be_slow(digits, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(ValueError, match=r"precision: this cpu has no bfloat16 arithmetic; 'float32' expected"):
        fit(vae(**CONFIG), digits, epochs=1, precision="bfloat16")


def test_a_model_may_say_how_many_nats_a_pixel_its_loss_is_worth(digits):
    before, after = (History([{"validation_loss": loss}]) for loss in (0.5, 0.4))
    model = denoiser(image_shape=(1, 8, 8), beta_1=0.1, channels=8)
    assert gain(model, before, after, digits) == pytest.approx(0.05)  # ½ (ε − ε_θ)², of N(ε; ε_θ, 1)
    assert gain(vae(**CONFIG), before, after, digits) == pytest.approx(0.1 / 64)


def test_a_recipe_without_validation_images_is_not_lengthened(digits):
    with pytest.raises(ValueError, match="validation: images, or a share"):
        lengthened(vae, CONFIG, digits, epochs=1)


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
    outputs = [p.communicate(timeout=600)[0] for p in both]
    assert sum(o.count("training\n") for o in outputs) == 1
    assert len({o.splitlines()[-1] for o in outputs}) == 1
    assert len(list(store.glob("*.safetensors"))) == 1 and not list(store.glob("*.part"))


def test_a_loss_that_explodes_is_an_error(digits):
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss is not finite .* smaller lr"):
        fit(vae(**{**CONFIG, "beta": 1e39}), digits, epochs=1, lr=1e-3, progress=False)


def test_weights_that_explode_are_the_same_error_where_latents_are_refused_first(digits):
    model = vae(**{**CONFIG, "regularizer": "tc", "size": len(digits)})
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss is not finite .* smaller lr than 1e\+20"):
        fit(model, digits, epochs=1, lr=1e20, progress=False)


def test_weights_that_explode_in_the_last_step_are_found_by_the_validation(digits):
    model = vae(**{**CONFIG, "regularizer": "tc", "size": 128})
    recipe = {"epochs": 1, "batch_size": 128, "lr": 1e20, "validation": digits.take(slice(128, 256))}
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(z: NaN or infinite"):
        fit(model, digits.take(slice(0, 128)), progress=False, **recipe)


def test_data_that_are_not_finite_are_not_called_a_divergence(digits):
    class Broken:
        device, shape = digits.device, digits.shape

        def __len__(self):
            return len(digits)

        def batch(self, index):
            x, labels = digits.batch(index)
            return x / 0, labels

    model = vae(**{**CONFIG, "regularizer": "tc", "size": len(digits)})
    with pytest.raises(ValueError, match="^z: NaN or infinite"):
        fit(model, Broken(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("ema", 0.0), ("ema", 1), ("ema", -0.9)]
    + [("schedule", "cosine"), ("clip", 0), ("validation", 1.0), ("validation", 1e-4), ("precision", "half")],
)
def test_bad_settings_are_refused(digits, argument, value):
    with pytest.raises(ValueError, match=argument):
        fit(vae(**CONFIG), digits, **{"epochs": 1, argument: value})
    with pytest.raises(ValueError, match="the image set is empty"):
        fit(vae(**CONFIG), digits.take(slice(0)), epochs=1)


def test_a_misspelt_setting_is_refused(digits):
    with pytest.raises(TypeError, match=r"epochs, batch_size, lr.* expected, got \['epochs', 'learning_rate'\]"):
        fit(vae(**CONFIG), digits, epochs=1, learning_rate=1e-3)
    with pytest.raises(TypeError, match="a recipe: epochs"):
        trained(vae, CONFIG, digits)


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
    history = fit(ours, data, epochs=3, batch_size=32, lr=0.01, schedule="constant", seed=7, progress=False)
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
    history = fit(ours, data, epochs=3, batch_size=32, lr=0.01, schedule="constant", ema=ema, seed=7, progress=False)
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


def test_the_description_holds_the_whole_recipe(digits, store):
    model, _ = quick(digits)
    (path,) = store.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["description"])
    said = {"format": 3, "build": "vaenb.models.autoencoder.vae", "data": digits.digest, "epochs": 2}
    assert description == {**said, **DEFAULTS, "config": description["config"]}
    assert description["config"] == {**description["config"], **CONFIG, "image_shape": [1, 8, 8]}
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    assert path.name == f"vae-{key}.safetensors"
    assert same(model, quick(digits, ema=None, lr=3e-3)[0]) and len(list(store.glob("*.safetensors"))) == 1
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


def test_a_finished_training_is_kept_until_its_weights_are_stored(digits, store, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vaenb.training.fitting.SAVE_EVERY", 0)
    ticks = itertools.count(step=10)  # ten seconds from each look at the clock to the next
    monkeypatch.setattr("vaenb.training.fitting.time", SimpleNamespace(monotonic=ticks.__next__))
    with monkeypatch.context() as no_room, pytest.warns(UserWarning, match="could not be stored"):
        no_room.setattr("vaenb.checkpoints.save_weights", full_disk)
        whole, history = quick(digits)
    (state,) = store.glob("*.state")
    steps = []
    step = fitting.Steps.step
    monkeypatch.setattr(fitting.Steps, "step", lambda run: steps.append(1) or step(run))
    again, history_again = quick(digits)
    assert not steps and same(whole, again) and history == history_again
    assert history_again.seconds >= history.seconds - 10 > 20 and not state.exists()


def test_a_file_of_others_is_called_so_and_changes_no_model(digits, tmp_path):
    model = vae(**CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    with pytest.raises(DamagedCheckpoint, match="theirs.safetensors has no checksum, so it was not written by vaenb"):
        load_weights(model, tmp_path / "theirs.safetensors")
    tensorfile.write(tmp_path / "bare.safetensors", {k: v + 1 for k, v in before.items()}, {})
    with pytest.raises(DamagedCheckpoint, match="was not written by `save_weights`"):
        load_weights(model, tmp_path / "bare.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
