"""What was measured is kept beside the checkpoints, for all that it depends on and nothing else."""

import importlib.util
import time

import pytest
import torch
from torch import nn

from vaenb import spent
from vaenb.checkpoints import code_name
from vaenb.measurements import kept
from vaenb.metrics.images import mse, ssim
from vaenb.models import denoiser, vae


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_CACHE", str(tmp_path))
    return tmp_path


class Wrapped(nn.BatchNorm1d):
    """Another decoder over the same weights."""


def seeded_net(kind=nn.BatchNorm1d):
    """One of BatchNorm, whose count of batches is a number without a shape."""
    torch.manual_seed(0)
    return kind(2)


BASE = {"model": seeded_net(), "x": torch.zeros(3), "search": {"steps": 1}, "metrics": {"a": mse}, "seed": 100}
OTHERS = {
    "search": {"search": {"steps": 2}},
    "images": {"x": torch.ones(3)},
    "number of images": {"x": torch.zeros(2)},
    "precision": {"x": torch.zeros(3, dtype=torch.float64)},
    "weights": {"model": nn.BatchNorm1d(2, affine=False)},
    "class": {"model": seeded_net(Wrapped)},
    "metric of the same name": {"metrics": {"a": ssim}},
    "metric's net": {"metrics": {"a": seeded_net()}},
    "seed": {"seed": 101},
    "setting": {"model": nn.BatchNorm1d(2, eps=1e-3)},
}


def counting(calls):
    def compute():
        calls.append(1)
        return {"SSIM": torch.full((3,), float(len(calls)))}

    return compute


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_it_is_measured_again_where_something_differs(change):
    calls = []
    for about in (BASE, BASE, BASE | change, BASE, BASE | change):
        kept(counting(calls), **about)
    assert len(calls) == 2


def test_what_is_kept_has_the_order_that_it_was_computed_in():
    for _ in range(2):
        assert list(kept(lambda: {"b": torch.zeros(1), "A": torch.ones(1)}, **BASE)) == ["b", "A"]


def test_what_is_kept_is_what_was_computed():
    first = kept(counting([]), **BASE)
    assert torch.equal(kept(counting([0, 0]), **BASE)["SSIM"], first["SSIM"])


def test_the_seconds_behind_what_is_read_back_are_counted():
    def slow():
        time.sleep(0.25)
        return {"SSIM": torch.zeros(3)}

    kept(slow, **BASE)
    before = spent.total()
    kept(slow, **BASE)
    assert spent.total() - before >= 0.2


@pytest.mark.parametrize("unnamed", [lambda a, b: a, object()])
def test_of_what_has_no_name_nothing_is_kept(unnamed, store):
    calls = []
    for _ in range(2):
        assert kept(counting(calls), **BASE, distance=unnamed)["SSIM"][0] == len(calls)
    assert len(calls) == 2 and not list(store.glob("measured-*"))


NOTEBOOK = """
import functools, torch
SIZE = {}
@torch.no_grad()
def without_gradients(x): return SIZE
@functools.cache
def remembered(x): return SIZE
class Holder:
    def method(self, x): return SIZE
"""


def imported(file):
    spec = importlib.util.spec_from_file_location("notebook", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["without_gradients", "remembered"])
def test_of_a_decorated_function_its_own_source_counts(tmp_path, name):
    names = []
    for size in (16, 64, 16):
        file = tmp_path / f"of_{size}.py"
        file.write_text(NOTEBOOK.format(size))
        names.append(code_name(vars(imported(file))[name]))
    assert names[0] == names[2] != names[1]


def test_a_method_has_no_name_as_its_object_is_not_in_it(tmp_path):
    file = tmp_path / "of_16.py"
    file.write_text(NOTEBOOK.format(16))
    with pytest.raises(TypeError, match="top level expected"):
        code_name(vars(imported(file))["Holder"]().method)


def test_what_has_no_source_is_told():
    made = {"__name__": "typed_in"}
    exec("def typed_in(x): return x", made)
    with pytest.raises(TypeError, match="typed_in has no source"):
        code_name(made["typed_in"])


def test_a_damaged_file_is_measured_again(store):
    calls = []
    kept(counting(calls), **BASE)
    (path,) = store.glob("measured-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="it is measured again"):
        kept(counting(calls), **BASE)
    assert len(calls) == 2


def test_what_can_not_be_kept_is_still_given(store, monkeypatch):
    (store / "file").write_text("")
    monkeypatch.setenv("VAENB_CACHE", str(store / "file"))
    with pytest.warns(UserWarning, match="could not be kept"):
        assert kept(counting([]), **BASE)["SSIM"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("build", "one", "other"),
    [
        (vae, {"likelihood": "bernoulli"}, {"likelihood": "gaussian"}),
        (denoiser, {"beta_1": 0.05}, {"beta_1": 0.2}),  # of a buffer that is not stored
    ],
)
def test_networks_of_the_same_weights_that_compute_other_things_are_told_apart(build, one, other):
    image = {"image_shape": (1, 8, 8)} | ({"latent_dim": 2, "net": "mlp"} if build is vae else {"channels": 8})
    first, second = build(**image, **one), build(**image, **other)
    second.load_state_dict(first.state_dict())
    calls = []
    for model in (first, second, first):
        kept(counting(calls), model=model)
    assert len(calls) == 2
