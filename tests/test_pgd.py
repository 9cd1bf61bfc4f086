"""The attack engine on losses whose maximum is known, and its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import encoder, latent
from vaenb.attacks.pgd import pgd, random_direction

W = torch.tensor([3.0, -4.0, 0.5])


def linear(x, index):
    return x @ W


def waves(x, index):  # many local optima
    return (3 * x).sin().sum(1)


def length(offset, norm):
    return torch.linalg.vector_norm(offset.flatten(1), ord=2 if norm == "l2" else torch.inf, dim=1)


@pytest.mark.parametrize(("norm", "dual"), [("l2", W.norm()), ("linf", W.abs().sum())])
def test_a_linear_loss_reaches_the_dual_norm(norm, dual):
    x = torch.randn(6, 3, generator=seeded())
    eps = torch.linspace(0, 2, 6)
    result = pgd(linear, x, eps=eps, alpha=10 * eps, norm=norm, steps=20, generator=seeded())
    torch.testing.assert_close(result.loss - x @ W, eps * dual, rtol=1e-4, atol=1e-4)


def test_targeted_minimises():
    x = torch.zeros(4, 3)
    result = pgd(linear, x, eps=1.0, alpha=10.0, steps=20, targeted=True, generator=seeded())
    torch.testing.assert_close(result.loss, (-W.norm()).expand(4), rtol=1e-4, atol=1e-4)


def test_a_quadratic_is_maximised_along_its_first_eigenvector():
    a = torch.diag(torch.tensor([1.0, 9.0, 4.0]))

    def form(x, i):
        return (x @ a * x).sum(1)

    result = pgd(form, torch.zeros(8, 3), eps=2.0, alpha=2.0, steps=50, restarts=4, generator=seeded())
    torch.testing.assert_close(result.loss, torch.full((8,), 36.0), rtol=1e-3, atol=0)


def test_from_the_clean_point_a_distance_has_no_gradient_and_random_start_leaves_it():
    def distance(x, i):
        return (x**2).sum(1)

    x = torch.zeros(3, 3)
    with pytest.warns(UserWarning, match=r"3 of 3 inputs \(100%\) had no gradient .* a random start"):
        assert (pgd(distance, x, eps=1.0, random_start=False).loss == 0).all()
    torch.testing.assert_close(pgd(distance, x, eps=1.0, generator=seeded()).loss, torch.ones(3), rtol=1e-4, atol=0)


def test_only_rows_without_a_gradient_at_any_step_of_any_restart_are_stuck():
    def step(x, index):
        everywhere = torch.tensor([True, False, False, True])[index]
        on_one_side = (index == 1) & (x[:, 0] > 0)
        return (everywhere | on_one_side) * x.sum(1)

    x = torch.zeros(4, 2)
    eps = torch.tensor([1.0, 1.0, 1.0, 0.0])
    with pytest.warns(UserWarning, match=r"1 of 4 inputs \(25%\) had no gradient .*only look robust") as said:
        result = pgd(step, x, eps=eps, restarts=6, generator=seeded(), chunk=3)
    assert result.stuck.tolist() == [False, False, True, False]
    assert len(said) == 1
    assert not random_direction(step, x, eps=eps).stuck.any()


@given(
    norm=st.sampled_from(["l2", "linf"]),
    eps=st.lists(st.floats(0, 2), min_size=5, max_size=5),
    clip=st.booleans(),
    steps=st.integers(1, 5),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_the_ball_and_the_box_are_never_left(norm, eps, clip, steps, seed):
    x = torch.rand(5, 1, 3, 3, generator=seeded(seed))
    eps = torch.tensor(eps)
    weights = torch.randn(9, generator=seeded(seed + 1))

    def loss(x, i):
        return x.flatten(1) @ weights

    ball = {"eps": eps, "norm": norm, "clip": (0.0, 1.0) if clip else None}
    ball |= {"restarts": 2, "generator": seeded(seed)}
    attacked = pgd(loss, x, steps=steps, alpha=5.0, **ball)
    for result in (attacked, random_direction(loss, x, **ball)):
        assert (length(result.adversarial - x, norm) <= eps * (1 + 1e-5) + 1e-6).all()
        assert torch.equal(result.adversarial[eps == 0], x[eps == 0])
        if clip:
            assert result.adversarial.min() >= 0
            assert result.adversarial.max() <= 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_directions_have_exactly_the_radius_and_lose_to_the_attack(norm):
    x = torch.randn(5, 8, generator=seeded())
    eps = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0])

    def loss(x, i):
        return (x @ torch.arange(-3.5, 4)).exp()

    noise = random_direction(loss, x, eps=eps, norm=norm, restarts=5, generator=seeded())
    offset = noise.adversarial - x
    torch.testing.assert_close(offset.norm(dim=1) if norm == "l2" else offset.abs().amin(1), eps)
    assert (pgd(loss, x, eps=eps, norm=norm, restarts=5, generator=seeded()).loss > noise.loss).all()
    assert (noise.gradient_calls, noise.forward_calls) == (0, 5)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_restart_is_kept_for_each_sample(targeted):
    result = pgd(waves, torch.zeros(7, 4), eps=3.0, steps=3, restarts=6, targeted=targeted, generator=seeded())
    assert result.restart_losses.shape == (6, 7)
    best = result.restart_losses.amin(0) if targeted else result.restart_losses.amax(0)
    assert torch.equal(result.loss, best)
    torch.testing.assert_close(waves(result.adversarial, None), best)
    assert (result.restart_losses.std(0) > 0).all()
    assert torch.equal(result.mean_loss, result.restart_losses.mean(0))


def test_one_batch_of_radii_is_many_single_attacks():
    def loss(x, i):
        return (x**3).sum(1)

    x = torch.randn(6, 4, generator=seeded())
    eps = torch.linspace(0.1, 2, 6)
    batch = pgd(loss, x, eps=eps, random_start=False)
    for i in range(6):
        alone = pgd(loss, x[i : i + 1], eps=eps[i].item(), random_start=False)
        torch.testing.assert_close(alone.adversarial[0], batch.adversarial[i])


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_chunks_change_nothing_and_index_names_the_input(chunk):
    x = torch.randn(5, 4, generator=seeded())
    goal = torch.randn(5, 4, generator=seeded(1))

    def loss(x, i):
        return -((x - goal[i]) ** 2).sum(1)

    sizes = []
    whole = pgd(loss, x, eps=0.5, restarts=3, generator=seeded())

    def counted(x, i):
        sizes.append(len(x))
        return loss(x, i)

    parts = pgd(counted, x, eps=0.5, restarts=3, generator=seeded(), chunk=chunk)
    assert max(sizes) == min(chunk, 15)
    torch.testing.assert_close(parts.adversarial, whole.adversarial)
    moved = (goal - x) / (goal - x).norm(dim=1, keepdim=True)
    torch.testing.assert_close(whole.adversarial, x + 0.5 * moved, rtol=0, atol=0.06)


def test_calls_are_counted():
    calls = {"gradient": 0, "forward": 0}

    def loss(x, index):
        calls["gradient" if torch.is_grad_enabled() else "forward"] += len(x)
        return (x**2).sum(1)

    result = pgd(loss, torch.zeros(4, 2), eps=1.0, steps=7, restarts=3, generator=seeded())
    assert calls == {"gradient": 4 * result.gradient_calls, "forward": 4 * result.forward_calls}
    assert (result.gradient_calls, result.forward_calls) == (21, 3)


def test_gradients_being_off_or_on_outside_changes_nothing():
    x = torch.randn(3, 3, generator=seeded())
    with torch.no_grad():
        off = pgd(linear, x, eps=1.0, generator=seeded())
    on = pgd(linear, x.clone().requires_grad_(), eps=1.0, generator=seeded())
    assert torch.equal(off.adversarial, on.adversarial)
    assert not on.adversarial.requires_grad


def test_seeds_reproduce():
    def run(seed):
        return pgd(waves, torch.zeros(3, 4), eps=1.0, restarts=2, generator=seeded(seed)).adversarial

    one, same, other = run(0), run(0), run(1)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_start_is_uniform_in_the_ball():
    def flat(x, i):  # no gradient: the start is the result
        return 0 * x.sum(1)

    x = torch.zeros(20_000, 3)
    with pytest.warns(UserWarning, match="100%"):
        start = pgd(flat, x, eps=2.0, steps=1, generator=seeded(), chunk=20_000).adversarial
    radius = start.norm(dim=1) / 2
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    torch.testing.assert_close(radius.quantile(quantiles), quantiles ** (1 / 3), atol=0.01, rtol=0)


def test_a_tiny_gradient_still_has_a_direction():
    result = pgd(lambda x, i: 1e-30 * (x @ W), torch.zeros(1, 3), eps=1.0, alpha=10.0, steps=20, generator=seeded())
    torch.testing.assert_close(result.adversarial[0], W / W.norm(), rtol=1e-3, atol=1e-3)


def test_the_raw_gradient_is_gradient_ascent():
    x = torch.randn(4, 3, generator=seeded())
    ascent = {"eps": 100.0, "alpha": 0.1, "steps": 3, "direction": "gradient", "random_start": False}
    ours = pgd(lambda x, i: (x**2).sum(1), x, **ascent)
    torch.testing.assert_close(ours.adversarial, x * 1.2**3)  # x + 0.1·2x, three times
    down = pgd(linear, x, targeted=True, **ascent)
    torch.testing.assert_close(down.adversarial, x - 0.3 * W)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_normal_start_is_in_the_box_and_comes_to_the_ball_with_the_first_step(norm):
    x, seen = torch.full((2000, 4), 0.3), []

    def flat(x, index):
        seen.append(x.detach().clone())
        return 0 * x.sum(1)

    search = {"alpha": 1.0, "steps": 1, "norm": norm, "random_start": 0.2, "generator": seeded(), "chunk": 2000}
    with pytest.warns(UserWarning, match="100%"):
        result = pgd(flat, x, eps=0.1, clip=(0.0, 1.0), **search)
    torch.testing.assert_close(seen[0], (0.3 + 0.2 * torch.randn(2000, 4, generator=seeded())).clamp(0, 1))
    moved = length(result.adversarial - x, norm)
    assert (moved <= 0.1 + 1e-6).all()
    assert (moved > 0.099).float().mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"eps": -0.1}, "eps: finite and ≥ 0 expected, got -0.1"),
        ({"eps": float("nan")}, "eps: finite"),
        ({"eps": torch.ones(3)}, r"eps: a number or a tensor \(2,\) expected, got shape \(3,\)"),
        ({"eps": None}, r"eps: a number or a tensor \(2,\) expected, got None"),
        ({"eps": "much"}, r"eps: a number or a tensor \(2,\) expected, got 'much'"),
        ({"alpha": -1.0}, "alpha: finite and ≥ 0"),
        ({"restarts": 0}, "restarts: a whole number ≥ 1 expected, got 0"),
        ({"steps": 2.5}, "steps: a whole number ≥ 1 expected, got 2.5"),
        ({"norm": "l1"}, "norm: one of l2, linf expected, got 'l1'"),
        ({"direction": "sign"}, "direction: one of steepest, gradient expected, got 'sign'"),
        ({"direction": "gradient"}, "alpha: a learning rate expected with direction='gradient'"),
        ({"random_start": -0.2}, "random_start: True, False or a standard deviation like 0.2 expected, got -0.2"),
        ({"random_start": 1}, "random_start: True, False or a standard deviation like 0.2 expected, got 1"),
        ({"restarts": 3, "random_start": False}, "restarts: 3 runs from one start are one run"),
        ({"restarts": 3, "random_start": 0.0}, "restarts: 3 runs from one start are one run"),
        ({"clip": (0.0, 0.5)}, r"x: values in clip=\(0.0, 0.5\) expected, got 1 to 1"),
        ({"clip": (1, 0)}, "clip: None or"),
        ({"x": torch.rand(0, 3)}, "x: the batch is empty"),
        ({"x": torch.full((2, 3), torch.nan)}, "x: NaN"),
        ({"loss_fn": lambda x, i: x.sum()}, r"loss_fn: one loss for each input, \(2,\), expected, got \(\)"),
        ({"loss_fn": lambda x, i: x.sum(1) * torch.nan}, r"NaN or infinite loss for input\(s\) \[0, 1\] of 2"),
        ({"loss_fn": lambda x, i: x.detach().sum(1)}, "loss_fn: its value does not depend on x' differentiably"),
    ],
)
def test_bad_arguments_are_refused(wrong, says):
    arguments = {"loss_fn": linear, "x": torch.ones(2, 3), "eps": 1.0} | wrong
    with pytest.raises(ValueError, match=says):
        pgd(**arguments)


@pytest.mark.parametrize(
    ("attack", "given"),
    [
        (pgd, (linear, torch.zeros(1, 3))),
        (random_direction, (linear, torch.zeros(1, 3))),
        (latent.attack, (LinearGaussian(), torch.zeros(1, 3))),
        (encoder.random_direction, (LinearGaussian(), torch.zeros(1, 1, 4, 4))),
    ],
)
def test_a_misspelt_keyword_is_named(attack, given):
    with pytest.raises(TypeError, match="unexpected keyword argument 'restart'"):
        attack(*given, eps=1.0, restart=2)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_input_without_a_gradient_is_named_and_never_counts_as_robust(norm):
    def loss(x, index):  # input 1's is finite, and its gradient 0·inf
        return x.sum(1) + ((index != 1) + 0 * x.sum(1)).sqrt()

    with pytest.raises(ValueError, match=r"loss_fn: NaN or infinite gradient for input\(s\) \[1\] of 3"):
        pgd(loss, torch.ones(3, 2), eps=0.1, norm=norm)


def test_an_infinite_slope_has_a_sign_and_no_direction():
    def loss(x, index):
        return x.sqrt().sum(1)

    at = {"x": torch.tensor([[0.0, 1.0]]), "eps": 0.1, "random_start": False}
    with pytest.raises(ValueError, match=r"loss_fn: NaN or infinite gradient for input\(s\) \[0\] of 1"):
        pgd(loss, **at, norm="l2")
    torch.testing.assert_close(pgd(loss, **at, norm="linf").adversarial, torch.tensor([[0.1, 1.1]]))


def test_a_steep_step_ends_on_the_sphere_and_not_at_its_centre():
    start = torch.zeros(2, 2)
    result = pgd(
        lambda x, index: 1e25 * x[:, 0] + x[:, 1], start, eps=2.0, alpha=1.0, direction="gradient", random_start=False
    )
    torch.testing.assert_close(result.adversarial, torch.tensor([[2.0, 0.0]]).expand(2, 2))


def test_half_precision_leaves_no_ball():
    with pytest.raises(TypeError, match="x: float32 or float64 expected, got torch.bfloat16"):
        pgd(lambda x, index: x.sum(1), torch.ones(2, 3).bfloat16(), eps=0.001)


def test_the_radius_that_is_wrong_is_shown_and_its_history_is_left():
    with pytest.raises(ValueError, match="eps: finite and ≥ 0 expected, got inf"):
        pgd(linear, torch.zeros(2, 3), eps=torch.tensor([0.1, torch.inf]))
    eps = torch.tensor(0.5, requires_grad=True)
    assert not random_direction(linear, torch.zeros(2, 3), eps=eps).adversarial.requires_grad
