"""Box-constrained L-BFGS against scipy's L-BFGS-B, on minima that are known, and its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize as scipy_minimize
from torch import nn

from tests.oracles import seeded
from vaenb.attacks.lbfgs import minimize

UNIT = (0.0, 1.0)


def scipys(loss_fn, x0, *, box=UNIT, **options):
    """Minimise one row at a time by scipy's L-BFGS-B: the minima and their losses."""
    ends, losses = [], []
    for i in range(len(x0)):

        def value_and_gradient(x, i=i):
            x = torch.tensor(x, dtype=x0.dtype).view(1, *x0.shape[1:]).requires_grad_()
            loss = loss_fn(x, torch.tensor([i]))
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            return loss.item(), gradient.flatten().double().numpy()

        bounds = None if box is None else [box] * x0[i].numel()
        start = x0[i].flatten().double().numpy()
        end = scipy_minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        ends.append(torch.tensor(end.x))
        losses.append(end.fun)
    return torch.stack(ends).view(x0.shape), torch.tensor(losses, dtype=torch.float64)


def quadratic(rows, dimensions, condition, seed=0, dtype=torch.float64):
    """½(x − c)ᵀA(x − c), with eigenvalues of A from 1 to `condition` and c inside and outside the unit box."""
    g = seeded(seed)
    q, _ = torch.linalg.qr(torch.randn(rows, dimensions, dimensions, generator=g, dtype=torch.float64))
    a = (q * condition ** torch.linspace(0, 1, dimensions, dtype=torch.float64)) @ q.mT
    a = a.to(dtype)
    c = (2 * torch.rand(rows, dimensions, generator=g, dtype=torch.float64) - 0.5).to(dtype)
    return lambda x, i: torch.einsum("nd,nde,ne->n", x - c[i], a[i], x - c[i]) / 2


def middle(rows, dimensions, dtype=torch.float64):
    return torch.full((rows, dimensions), 0.5, dtype=dtype)


def rosenbrock(x, index):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3])
@pytest.mark.parametrize("dimensions", [2, 10, 60])
def test_a_convex_quadratic_in_a_box_ends_where_scipys_does(dimensions, condition):
    loss = quadratic(8, dimensions, condition)
    ours = minimize(loss, middle(8, dimensions), steps=1000, tolerance=1e-8)
    expected, least = scipys(loss, middle(8, dimensions), gtol=1e-8, ftol=0, maxiter=1000)
    assert ours.converged.all()
    assert ((expected == 0) | (expected == 1)).any()
    assert ((expected > 0) & (expected < 1)).any()
    torch.testing.assert_close(ours.x, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.loss, least, rtol=1e-9, atol=1e-12)


@given(dimensions=st.integers(1, 12), condition=st.floats(1, 1e3), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_the_kkt_conditions_hold_at_the_minimum(dimensions, condition, seed):
    loss = quadratic(3, dimensions, condition, seed)
    found = minimize(loss, torch.rand(3, dimensions, generator=seeded(seed), dtype=torch.float64), steps=1000)
    x = found.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, torch.arange(3)).sum(), x)
    small = 1e-4
    residual = (found.x - gradient).clamp(0, 1) - found.x  # rounding may end the search before 1e-5
    assert found.converged.all() and residual.abs().max() <= small
    assert (gradient[found.x == 0] >= -small).all()
    assert (gradient[found.x == 1] <= small).all()
    torch.testing.assert_close(found.projected_gradient, residual.abs().amax(1), rtol=0, atol=1e-9)


def test_a_quadratic_without_a_box_is_exact_and_takes_about_as_many_steps_as_dimensions():
    loss = quadratic(16, 20, 20.0)
    found = minimize(loss, middle(16, 20), box=None, memory=20, tolerance=1e-8)
    assert found.converged.all() and found.loss.max() < 1e-14
    assert found.steps.max() <= 40
    assert (found.gradient_calls <= found.steps + 5).all()  # nearly always the first length is the one


def test_the_last_steps_converge_faster_than_any_linear_rate():
    loss = quadratic(1, 5, 50.0)
    losses = []
    for steps in (6, 9, 12, 15):
        found = minimize(loss, middle(1, 5), box=None, steps=steps, tolerance=0.0)
        losses.append(found.loss.item())
    assert losses[3] / losses[2] < losses[1] / losses[0] / 10
    assert losses[3] < 1e-10


@pytest.mark.parametrize("bound", [0.8, 0.5])
def test_rosenbrock_in_a_box_that_its_minimum_is_not_in(bound):
    x0 = bound * torch.rand(8, 2, generator=seeded(), dtype=torch.float64)
    found = minimize(rosenbrock, x0, box=(0.0, bound), tolerance=1e-8, steps=300)
    expected = torch.tensor([bound, bound**2], dtype=torch.float64)  # x₁ at its bound, and x₂ = x₁²
    torch.testing.assert_close(found.x, expected.expand(8, 2), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.loss, torch.full((8,), (1 - bound) ** 2, dtype=torch.float64))


def test_rosenbrock_without_a_box_within_a_quarter_more_evaluations_than_scipy():
    x0 = 4 * torch.rand(16, 2, generator=seeded(), dtype=torch.float64) - 2
    calls = []

    def counted(x, index):
        calls.append(1)
        return rosenbrock(x, index)

    scipys(counted, x0, box=None, gtol=1e-5, ftol=0)
    found = minimize(rosenbrock, x0, box=None, steps=300)
    torch.testing.assert_close(found.x, torch.ones_like(x0), rtol=0, atol=1e-3)
    assert found.gradient_calls.sum() <= 1.25 * len(calls)


@pytest.fixture(scope="module")
def szegedy():
    """c‖d‖² + CE of a small convolutional net, and 16 starts: a loss with kinks, in float32."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(8 * 5 * 5, 4)).eval()
    net.requires_grad_(False)[-1].weight *= 5
    x0 = torch.rand(16, 1, 12, 12, generator=seeded())
    target = torch.arange(16) % 4

    def loss(x, index):
        entropy = nn.functional.cross_entropy(net(x), target[index], reduction="none")
        return 0.05 * (x - x0[index]).flatten(1).square().sum(1) + entropy

    return loss, x0


@pytest.mark.parametrize("steps", [15, 60])
def test_the_loss_of_a_network_gets_as_low_as_by_scipy(szegedy, steps):
    loss, x0 = szegedy
    ours = minimize(loss, x0, steps=steps)
    _, least = scipys(loss, x0, maxiter=steps)
    ratio = ours.loss.double() / least
    assert (ours.loss < loss(x0, torch.arange(16)) / 2).all()
    assert ratio.median() < 1.002
    assert ratio.mean() < 1.01  # single rows find other minima, higher and lower ones
    assert (ratio < 1.001).double().mean() >= 0.5


def test_a_batch_is_its_members_alone(szegedy):
    loss, x0 = szegedy
    for function, start in ((quadratic(4, 10, 100.0), middle(4, 10)), (rosenbrock, 0.3 * middle(4, 10))):
        batch = minimize(function, start)
        for i in range(4):
            alone = minimize(lambda x, index, i=i, f=function: f(x, index + i), start[i : i + 1])
            torch.testing.assert_close(alone.x[0], batch.x[i], rtol=0, atol=1e-6)
            torch.testing.assert_close(alone.loss[0], batch.loss[i])
    batch = minimize(loss, x0, steps=4)  # in float32 and with kinks, rounding grows with each step
    for i in range(4):
        alone = minimize(lambda x, index, i=i: loss(x, index + i), x0[i : i + 1], steps=4)
        torch.testing.assert_close(alone.x[0], batch.x[i], rtol=0, atol=1e-4)


def test_a_row_in_trouble_leaves_the_others_alone():
    loss = quadratic(3, 5, 10.0)
    for trouble in (lambda x: 1e6 * (40 * x).sin().sum(1), lambda x: (x.sum(1) - 2.49).log()):  # NaN soon
        found = minimize(lambda x, i, t=trouble: torch.where(i == 1, t(x), loss(x, i)), middle(3, 5), steps=50)
        assert found.gradient_calls[1] > found.gradient_calls[[0, 2]].max()
        torch.testing.assert_close(found.x[[0, 2]], minimize(loss, middle(3, 5)).x[[0, 2]])


@given(
    seed=st.integers(0, 10_000),
    low=st.floats(-2, 0, width=32),
    width=st.floats(0.0625, 4, width=32),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    steps=st.integers(1, 15),
    memory=st.integers(1, 5),
)
@settings(deadline=None, max_examples=50)
def test_the_box_is_never_left_and_the_loss_never_rises(seed, low, width, dtype, steps, memory):
    box, g = (low, low + width), seeded(seed)
    x0 = (low + width * torch.rand(5, 2, 3, generator=g, dtype=dtype)).clamp(*box)
    a, b = torch.randn(2, 5, 2, 3, generator=g, dtype=dtype)
    seen = []

    def wavy(x, index):
        seen.append(x.detach().clone())
        return ((3 * x * a[index]).sin() + b[index] * x.abs()).flatten(1).sum(1)

    found = minimize(wavy, x0, box=box, steps=steps, memory=memory)
    assert all((x >= box[0]).all() and (x <= box[1]).all() for x in [*seen, found.x])
    assert (found.loss <= wavy(x0, torch.arange(5))).all()
    torch.testing.assert_close(found.loss, wavy(found.x, torch.arange(5)))


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_chunks_change_nothing_and_index_names_the_row(chunk):
    goal, sizes = 2 * torch.rand(7, 4, generator=seeded()) - 0.5, []

    def loss(x, i):
        return ((x - goal[i]) ** 2).sum(1)

    whole = minimize(loss, torch.full((7, 4), 0.5))

    def counted(x, i):
        sizes.append(len(x))
        return loss(x, i)

    parts = minimize(counted, torch.full((7, 4), 0.5), chunk=chunk)
    assert max(sizes) == min(chunk, 7)
    torch.testing.assert_close(parts.x, whole.x)
    torch.testing.assert_close(whole.x, goal.clamp(0, 1), rtol=0, atol=1e-5)
    assert torch.equal(parts.gradient_calls, whole.gradient_calls)


def test_every_evaluation_of_every_row_is_counted():
    count = torch.zeros(6, dtype=torch.long)

    def counted(x, index):
        assert torch.is_grad_enabled()
        count.index_add_(0, index, torch.ones_like(index))
        return (1 + 40 * index) * ((x - 0.1 * index[:, None]) ** 2).sum(1) + rosenbrock(3 * x, index)

    found = minimize(counted, torch.full((6, 3), 0.9), chunk=4)
    assert torch.equal(found.gradient_calls, count)
    assert (found.gradient_calls > found.steps).all()
    assert count.unique().numel() > 1


def test_a_start_at_the_minimum_costs_one_evaluation():
    found = minimize(lambda x, i: (x**2).sum(1), torch.tensor([[0.0, 0.0], [0.5, 0.0]]))
    assert found.gradient_calls[0] == 1 < found.gradient_calls[1]
    assert found.steps[0] == 0
    assert found.converged.all()
    assert torch.equal(found.x, torch.zeros(2, 2))
    assert found.stuck.tolist() == [True, False]
    corner = minimize(lambda x, i: x.sum(1), torch.zeros(1, 3))  # a gradient of 1 that points out of the box
    assert corner.gradient_calls == 1
    assert corner.converged
    assert corner.projected_gradient == 0
    assert not corner.stuck


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_loss_ends_in_its_corner_whatever_its_unit(scale, dtype):
    w = torch.randn(8, 20, generator=seeded(), dtype=dtype)
    found = minimize(lambda x, i: scale * (x * w[i]).sum(1), middle(8, 20, dtype), tolerance=0.0)
    assert torch.equal(found.x, (w < 0).to(dtype))
    assert found.gradient_calls.max() <= 10


@pytest.mark.parametrize("power", [-20, 20])
def test_the_unit_of_the_loss_changes_nothing(power):
    loss = quadratic(4, 10, 100.0)
    plain = minimize(loss, middle(4, 10), tolerance=0.0)
    scaled = minimize(lambda x, i: 2.0**power * loss(x, i), middle(4, 10), tolerance=0.0)
    assert torch.equal(scaled.x, plain.x)
    assert torch.equal(scaled.loss, 2.0**power * plain.loss)


def test_float32_finds_the_minimum_to_its_precision():
    exact = minimize(quadratic(8, 20, 100.0), middle(8, 20), steps=500, tolerance=1e-9)
    found = minimize(quadratic(8, 20, 100.0, dtype=torch.float32), middle(8, 20, torch.float32), steps=500)
    assert found.x.dtype == found.loss.dtype == torch.float32
    assert found.converged.all()
    torch.testing.assert_close(found.loss.double(), exact.loss, rtol=1e-5, atol=0)


def test_a_concave_loss_ends_in_a_corner():
    found = minimize(lambda x, i: -((x - 0.4) ** 2).sum(1), torch.full((1, 6), 0.5))
    assert torch.equal(found.x, torch.ones(1, 6)) and found.converged


def test_steps_run_out():
    found = minimize(rosenbrock, -1.5 * middle(2, 4) * torch.tensor([[1.0], [2.0]]), box=None, steps=3)
    assert found.steps.tolist() == [3, 3]
    assert not found.converged.any()
    assert (found.projected_gradient > 1).all()


def test_a_trial_that_is_not_finite_is_shortened():
    def barrier(x, i):  # NaN below 0, infinite at 0
        return (10 * x - x.log()).sum(1)

    found = minimize(barrier, middle(3, 2), box=(-1.0, 1.0))
    torch.testing.assert_close(found.x, torch.full_like(found.x, 0.1), rtol=1e-5, atol=0)

    def root(x, i):  # at 0, its minimum, the gradient is 0/0
        return (x**2).sum(1).sqrt()

    found = minimize(root, torch.tensor([[0.75, 0.0]]))
    assert found.loss.isfinite().all()
    assert found.projected_gradient.isfinite().all()
    assert found.loss < 0.01


def test_gradients_being_off_or_on_outside_changes_nothing():
    x0 = middle(3, 3)
    with torch.no_grad():
        off = minimize(rosenbrock, x0)
    on = minimize(rosenbrock, x0.clone().requires_grad_())
    assert torch.equal(off.x, on.x)
    assert not on.x.requires_grad
    assert not on.loss.requires_grad
    assert torch.equal(x0, middle(3, 3))


def test_a_loss_that_is_a_view_of_x_is_not_written_to():
    found = minimize(lambda x, i: x[:, 0], torch.tensor([[0.25], [0.75]]))
    assert torch.equal(found.x, torch.zeros(2, 1))
    assert torch.equal(found.loss, torch.zeros(2))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "steps: a whole number ≥ 1 expected, got 0"),
        ({"memory": 0}, "memory: a whole number ≥ 1"),
        ({"chunk": 2.5}, "chunk: a whole number ≥ 1"),
        ({"tolerance": -1e-5}, "tolerance: a number ≥ 0 expected, got -1e-05"),
        ({"tolerance": float("nan")}, "tolerance: a number ≥ 0"),
        ({"box": (1.0, 0.0)}, r"box: None or \(low, high\) with low < high expected"),
        ({"box": (0.0,)}, "box: None or"),
        ({"box": 1.0}, "box: None or"),
        ({"box": (0.0, 0.25)}, r"x0: values in box=\(0.0, 0.25\) expected, got 0.5 to 0.5"),
        ({"x0": torch.rand(0, 3)}, r"x0: the batch is empty, shape \(0, 3\)"),
        ({"x0": torch.rand(3)}, r"x0: rows \(N, ...\) expected, got shape \(3,\)"),
        ({"x0": torch.zeros(2, 3, dtype=torch.long)}, "x0: floats expected, got torch.int64"),
        ({"x0": [[0.5]]}, r"x0: a torch tensor of rows \(N, ...\) expected, got list"),
        ({"x0": torch.full((2, 3), torch.nan)}, "x0: NaN"),
        ({"loss_fn": lambda x, i: x.sum()}, r"loss_fn: one loss for each input, \(2,\), expected, got \(\)"),
        ({"loss_fn": lambda x, i: x.sum(1) / i}, r"loss_fn: NaN or infinite loss at x0 for row\(s\) \[0\]"),
        ({"loss_fn": lambda x, i: (0 * x.sum(1)).sqrt()}, "loss_fn: NaN or infinite gradient at x0 for row"),
    ],
)
def test_bad_arguments_are_refused(wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        minimize(**{"loss_fn": rosenbrock, "x0": torch.full((2, 3), 0.5)} | wrong)
