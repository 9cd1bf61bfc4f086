"""An attack by queries alone, on decoders that count them and refuse gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import latent, queries
from vaenb.attacks.balls import Ball
from vaenb.attacks.queries import query_attack
from vaenb.models import vae


class Counted(LinearGaussian):
    """A decoder that counts its rows, keeps what it was asked, and refuses to be differentiated."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def decode(self, z):
        assert not torch.is_grad_enabled() and not z.requires_grad
        self.asked.append(z)
        return super().decode(z)


def test_a_linear_decoders_optimum_is_found_within_three_percent():
    model, eps = LinearGaussian(), torch.tensor([0.5, 1.0, 2.0, 4.0])
    result = query_attack(model, torch.randn(4, 3, generator=seeded()), eps=eps, generator=seeded())
    worst = (eps * model.scale.max()) ** 2 / 16
    assert (result.loss > 0.97 * worst).all()
    assert (result.loss <= worst * (1 + 1e-4)).all()


def test_a_reachable_target_is_reached():
    model, z = LinearGaussian(), torch.zeros(3, 3)
    goal = model.decode(torch.tensor([[0.6, -0.6, 0.2]]).expand(3, 3))
    result = query_attack(model, z, eps=1.0, target=goal, generator=seeded())
    assert (result.loss < 0.02 * ((model.decode(z) - goal) ** 2).mean()).all()


@pytest.mark.parametrize(("budget", "restarts", "made"), [(5, 2, 5), (40, 3, 40), (41, 3, 40), (100, 1, 100)])
def test_every_query_is_counted_and_no_gradient_is_taken(budget, restarts, made):
    model = Counted()
    z = torch.zeros(4, 3, requires_grad=True)
    result = query_attack(model, z, eps=1.0, queries=budget, restarts=restarts, chunk=3)
    assert result.forward_calls == made
    assert sum(map(len, model.asked)) == 4 * made
    assert result.gradient_calls == 0
    assert not result.adversarial.requires_grad


@settings(deadline=None, max_examples=25)
@given(
    eps=st.floats(0, 100, width=32),
    targeted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_ball_is_never_left_and_the_best_point_asked_is_returned(eps, targeted, seed):
    model, z = Counted(), torch.randn(1, 3, generator=seeded(seed))
    goal = LinearGaussian().decode(z + 1) if targeted else LinearGaussian().decode(z)
    goal = goal.clamp(0, 1)
    start = {"target": goal} if targeted else {}
    result = query_attack(model, z, eps=eps, queries=30, generator=seeded(seed), **start)
    asked = torch.cat(model.asked)
    radius = torch.linalg.vector_norm(asked - z, dim=1)
    assert radius.max() <= eps * (1 + 1e-5) + 1e-5
    losses = latent.mean_squared_error(LinearGaussian().decode(asked[1:]), goal)  # the first is Dec(z)
    torch.testing.assert_close(result.loss[0], losses.min() if targeted else losses.max())


def test_it_beats_as_many_random_directions_on_a_net():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=16, net="mlp").eval()
    z = torch.randn(8, 16, generator=seeded())
    found = query_attack(model, z, eps=1.0, queries=200, generator=seeded())
    noise = latent.random_direction(model, z, eps=1.0, restarts=200, generator=seeded())
    assert (found.loss > 1.2 * noise.loss).all()


def test_a_batch_of_radii_is_many_single_attacks_and_chunks_change_nothing(monkeypatch):
    monkeypatch.setattr(Ball, "uniform", lambda ball, generator: ball.center + 0.1 * ball.radius)
    model = LinearGaussian()
    z = torch.randn(4, 3, generator=seeded())
    eps = torch.tensor([0.1, 0.5, 1.0, 2.0])

    def attack(rows, chunk=512):
        found = query_attack(model, z[rows], eps=eps[rows], queries=60, restarts=1, generator=seeded(), chunk=chunk)
        return found.adversarial

    batch = attack(slice(None))
    torch.testing.assert_close(batch, torch.cat([attack(slice(i, i + 1)) for i in range(4)]))
    torch.testing.assert_close(batch, attack(slice(None), chunk=3))


def test_seeds_reproduce():
    z = torch.zeros(2, 3)
    one, again, other = (query_attack(LinearGaussian(), z, eps=1.0, generator=seeded(s)).adversarial for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_directions_are_orthonormal_in_blocks():
    block = queries._directions(torch.zeros(1, 5, dtype=torch.float64), 8, seeded())
    assert block.shape == (8, 5)
    torch.testing.assert_close(block[:5] @ block[:5].T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(block[5:] @ block[5:].T, torch.eye(3, dtype=torch.float64))


def test_one_dimension_is_enough():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=1, net="mlp").eval()
    result = query_attack(
        model, torch.zeros(2, 1), eps=1.0, queries=300, restarts=10, generator=seeded()
    )  # two ends, each a local maximum
    grid = torch.linspace(-1, 1, 201)[:, None]
    worst = latent.mean_squared_error(model.decode(grid), model.decode(torch.zeros(1, 1))).max().detach()
    torch.testing.assert_close(result.loss, worst.expand(2), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"queries": 6, "restarts": 3}, r"queries: at least 7 expected for 3 restart\(s\), got 6"),
        ({"queries": 10.5}, "queries: a whole number"),
        ({"restarts": 0}, "restarts: a whole number"),
        ({"model": vae(image_shape=(1, 8, 8), latent_dim=3, net="mlp")}, r"call model\.eval\(\)"),
    ],
)
def test_bad_arguments_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        query_attack(**{"model": LinearGaussian(), "z": torch.zeros(2, 3), "eps": 1.0} | wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_words(dtype):
    with pytest.raises(TypeError, match="z: float32 or float64 expected"):
        query_attack(LinearGaussian(), torch.zeros(2, 3, dtype=dtype), eps=1.0)


def test_directions_are_uniform():
    first = torch.cat([queries._directions(torch.zeros(1, 3), 3, seeded(s)) for s in range(400)])
    # 1,200 draws of three coordinates with mean 0 and variance 1/3: five standard errors
    assert first.mean(0).abs().max() < 5 * (1 / 3 / 1200) ** 0.5
    assert ((first > 0).float().mean(0) - 0.5).abs().max() < 5 * 0.5 / 1200**0.5
