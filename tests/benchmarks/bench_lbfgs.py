"""What batching buys in L-BFGS: Szegedy's loss, all images at once, one by one, and by scipy (`make bench`)."""

import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks.bench_foundation import compare, seconds
from tests.test_lbfgs import scipys
from vaenb.attacks.lbfgs import minimize
from vaenb.data import load
from vaenb.models.classifier import cnn_classifier
from vaenb.training import fit

IMAGES, STEPS = 32, 50


@pytest.fixture(scope="module")
def images():
    return load("digits", split="train", size=32, limit=1408)


@pytest.fixture(scope="module")
def net(images):
    torch.manual_seed(0)
    net = cnn_classifier(image_shape=(1, 32, 32), classes=10)
    fit(net, images, epochs=4, batch_size=64, progress=False)
    return net.eval().requires_grad_(False)


@pytest.fixture(params=[1e-2, 1.0])
def szegedy(request, images, net):
    """c‖d‖² + CE for targets against document 000's classifier, the images, and c."""
    x, target = images.float()[:IMAGES], (images.labels[:IMAGES].long() + 1 + torch.arange(IMAGES) % 9) % 10

    def loss(x_adv, index):
        distance = (x_adv - x[index]).flatten(1).square().sum(1)
        return request.param * distance + F.cross_entropy(net(x_adv), target[index], reduction="none")

    return loss, x, request.param


@pytest.mark.benchmark(group="lbfgs")
def test_a_batch_against_one_row_at_a_time(benchmark, szegedy):
    loss, x, c = szegedy

    def alone():
        for i in range(len(x)):
            minimize(lambda x, index, i=i: loss(x, index + i), x[i : i + 1], steps=STEPS)

    compare(benchmark, lambda: minimize(loss, x, steps=STEPS), alone, rounds=2, says=f"c = {c}, speed over one by one")


@pytest.mark.benchmark(group="lbfgs")
def test_a_batch_against_scipy(benchmark, szegedy):
    loss, x, c = szegedy
    calls, found = [], {}
    ours = lambda: found.update(ours=minimize(loss, x, steps=STEPS))  # noqa: E731
    counted = lambda x, index: (calls.append(1), loss(x, index))[1]  # noqa: E731
    theirs = lambda: found.update(scipy=scipys(counted, x, maxiter=STEPS)[1])  # noqa: E731
    compare(benchmark, ours, theirs, rounds=2, says=f"c = {c}, speed over scipy's L-BFGS-B")
    ratio = found["ours"].loss.double() / found["scipy"]
    evaluations = found["ours"].gradient_calls.double().mean().item(), len(calls) / len(x) / 3  # warm-up and two rounds
    print(f"  loss / scipy's: median {ratio.median():.4f}, mean {ratio.mean():.4f}, largest {ratio.max():.4f}")
    print(f"  evaluations of an image: {evaluations[0]:.1f}, scipy {evaluations[1]:.1f}")
    benchmark.extra_info["loss / scipy's, median"] = round(ratio.median().item(), 5)


@pytest.mark.benchmark(group="lbfgs")
def test_what_the_engine_costs_beside_the_loss(benchmark, szegedy):
    loss, x, c = szegedy
    spent = []

    def timed(x_adv, index):  # a value and a gradient, measured alone
        def both():
            torch.autograd.grad(loss(x_adv, index).sum(), x_adv)

        spent.append(seconds(both))
        return loss(x_adv, index)

    minimize(timed, x, steps=STEPS)
    own = sum(spent)
    whole = seconds(lambda: minimize(loss, x, steps=STEPS))
    print(f"\nc = {c}: {own / whole:.2f} of the time is spent in the loss and its gradient")
    benchmark.extra_info["share of the loss"] = round(own / whole, 3)
    benchmark.pedantic(lambda: minimize(loss, x, steps=STEPS), rounds=1)
