"""How much our loops cost over bare ones, as ratios within one run (`make bench`)."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from tests.oracles import seeded
from vaenb.attacks import latent
from vaenb.attacks.pgd import pgd
from vaenb.data import load
from vaenb.metrics.distortion import dd_curve
from vaenb.metrics.images import ssim
from vaenb.models import vae
from vaenb.training import fit
from vaenb.widgets import LatentAttackExplorer

SHAPE = {"image_shape": (1, 32, 32), "latent_dim": 10}


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(benchmark, ours: Callable, theirs: Callable, *, rounds: int, says: str) -> None:
    """Time both in turn, and report the median of theirs / ours: above 1, ours is the faster one."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    benchmark.extra_info[says] = round(ratio, 3)
    print(f"\n{says}: {ratio:.2f}  (rounds: {', '.join(f'{b / a:.2f}' for a, b in pairs)})")
    benchmark.pedantic(ours, rounds=1)


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train", size=32, limit=1408)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return vae(**SHAPE).eval()


@pytest.mark.benchmark(group="fit")
def test_fit_against_a_bare_step_loop(benchmark, digits):
    model = vae(**SHAPE).to(memory_format=torch.channels_last).train()
    x, labels = digits.float().contiguous(memory_format=torch.channels_last), digits.labels
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def bare():
        for _ in range(2):
            for i in range(0, len(x), 64):
                loss = model.losses(x[i : i + 64], labels[i : i + 64])["loss"]
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    ours = lambda: fit(model, digits, epochs=2, batch_size=64, progress=False)  # noqa: E731
    compare(benchmark, ours, bare, rounds=5, says="fit, speed over a bare loop on tensors in place")


@pytest.mark.benchmark(group="fit")
@pytest.mark.parametrize("net", ["conv001", "mlp"])
def test_fit_against_a_dataloader(benchmark, digits, net):
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms.functional import to_pil_image, to_tensor

    class Images(Dataset):  # what torchvision's MNIST with ToTensor() does for each image
        def __len__(self):
            return len(digits)

        def __getitem__(self, i):
            return to_tensor(to_pil_image(digits.images[i])), int(digits.labels[i])

    model = vae(**SHAPE, net=net).train()
    optimizer = torch.optim.Adam(model.parameters())

    def pipeline():
        for x, labels in DataLoader(Images(), batch_size=64, shuffle=True, drop_last=True):
            loss = model.losses(x, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ours = lambda: fit(model, digits, epochs=1, batch_size=64, progress=False)  # noqa: E731
    compare(benchmark, ours, pipeline, rounds=5, says=f"fit ({net}), speed over a DataLoader pipeline")


@pytest.mark.benchmark(group="attack")
def test_pgd_against_a_bare_gradient_loop(benchmark, model):
    z, eps = torch.randn(256, 10, generator=seeded()), 1.0
    loss_fn = latent.loss(model, z)
    index = torch.arange(256)

    def bare():
        z_adv = z + 0.1 * torch.randn(256, 10)
        for _ in range(10):
            z_adv = z_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(loss_fn(z_adv, index).sum(), z_adv)
            with torch.no_grad():
                z_adv = z_adv + 0.25 * gradient / gradient.norm(dim=1, keepdim=True)
                offset = z_adv - z
                z_adv = z + offset * (eps / offset.norm(dim=1, keepdim=True)).clamp_max(1)
        with torch.no_grad():
            loss_fn(z_adv, index)

    ours = lambda: pgd(loss_fn, z, eps=eps, steps=10)  # noqa: E731
    compare(benchmark, ours, bare, rounds=9, says="pgd, speed over a bare gradient loop")


@pytest.mark.benchmark(group="attack")
@pytest.mark.parametrize("images", [1, 8])
def test_a_dd_curve_as_one_call_against_fifty(benchmark, model, images):
    z, radii = torch.randn(images, 10, generator=seeded()), torch.linspace(0.3, 3, 10)

    def one():
        dd_curve(model, z, radii, latent.attack, {"SSIM": ssim}, restarts=5)

    def fifty():
        with torch.no_grad():
            clean = model.decode(z)
        for eps in radii.tolist():
            runs = [latent.attack(model, z, eps=eps, restarts=1) for _ in range(5)]
            best = torch.stack([r.loss for r in runs]).argmax(0)
            z_adv = torch.stack([r.adversarial for r in runs])[best, torch.arange(images)]
            with torch.no_grad():
                ssim(clean, model.decode(z_adv))

    compare(benchmark, one, fifty, rounds=3, says=f"DD-curve of {images} image(s) as one call, speed over 50 calls")


@pytest.mark.benchmark(group="explorer")
def test_the_explorer_from_slider_to_pictures(benchmark, model):
    z, radii = torch.randn(32, 10, generator=seeded()), torch.linspace(0, 3, 11)
    metrics = {"SSIM": ssim, "LPIPS": lambda a, b: 1 - ssim(a, b)}
    curve = dd_curve(model, z, radii, latent.random_direction, metrics, restarts=1)
    explorer = LatentAttackExplorer(
        {1.0: model, 4.0: model}, {(1.0, "away"): curve, (4.0, "away"): curve}, torch.rand(32, 1, 32, 32)
    )
    moves = [("image", i % 32) for i in range(1, 33)] + [("eps", k % 11) for k in range(1, 89)]
    moves += [("model", (4.0, 1.0)[k % 2]) for k in range(20)]
    order = torch.randperm(len(moves), generator=seeded()).tolist()
    times = sorted(seconds(lambda i=i: setattr(getattr(explorer, moves[i][0]), "value", moves[i][1])) for i in order)
    p95 = times[int(0.95 * len(times))]
    print(f"\nexplorer, slider to new pictures: median {1e3 * statistics.median(times):.1f} ms, p95 {1e3 * p95:.1f} ms")
    benchmark.extra_info["p95 ms"] = round(1e3 * p95, 1)
    benchmark(lambda: setattr(explorer.eps, "value", (explorer.eps.value + 1) % 11))
