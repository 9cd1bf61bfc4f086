"""The explorer of an attack's effort shows the labels and shares of the codes that it was given."""

import pytest
import torch
from torch.nn.functional import one_hot

from tests.oracles import seeded
from vaenb import plots
from vaenb.contract import reconstruct
from vaenb.models import vae
from vaenb.widgets import EffortExplorer

COSTS = {"blind": 10.0, "BPDA": 1000.0}
EFFORTS = 0.5, 1.0


def sign(z):
    """Label 1 where the first latent is positive, else 0."""
    return one_hot((z[:, 0] > 0).long(), 2).float()


def coded(labels):
    """Codes (N, R, 2) of these labels."""
    first = 2 * torch.tensor(labels).float() - 1
    return torch.stack([first, torch.zeros_like(first)], -1)


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    own = sign(model.posterior(x).mean).argmax(1)
    attacked, codes = {}, {}
    for name in COSTS:
        for effort in EFFORTS:
            attacked[name, effort] = (x + 0.1 * effort).clamp(0, 1)
            codes[name, effort] = coded(own[:, None].expand(-1, 2).tolist())
    codes["BPDA", 1.0] = -codes["BPDA", 1.0]
    codes["BPDA", 0.5][0] *= -1
    return EffortExplorer(model, sign, x, attacked, codes, COSTS)


def test_it_says_which_labels_are_kept(explorer):
    assert [explorer.share("BPDA", effort) for effort in EFFORTS] == pytest.approx([2 / 3, 0])
    explorer.attack.value, explorer.effort.value, explorer.image.value = "BPDA", 1.0, 2
    other = 1 - int(explorer.clean[2])
    assert f"repaired <b>{other}, {other}</b>" in explorer.numbers.value
    assert "with HMC <b>0%</b> of all" in explorer.numbers.value
    explorer.attack.value = "blind"
    assert "with HMC <b>100%</b> of all" in explorer.numbers.value


def test_one_attack_of_one_effort_is_a_point(explorer):
    at = ("BPDA", 1.0)
    found = {at: explorer.attacked[at]}, {at: explorer.codes[at]}
    alone = EffortExplorer(explorer.model, sign, explorer.x, *found, {"BPDA": COSTS["BPDA"]})
    assert b"NaN" not in alone.curve.value and alone.share(*at) == explorer.share(*at)


def test_its_picture_is_that_of_the_sliders(explorer):
    explorer.attack.value, explorer.effort.value, explorer.image.value = "blind", 0.5, 1
    hit = explorer.attacked["blind", 0.5][1:2]
    x = explorer.x[1:2]
    repaired = explorer.model.decode(explorer.codes["blind", 0.5][1, :1]).detach()
    row = [x, reconstruct(explorer.model, x), hit, reconstruct(explorer.model, hit), repaired]
    assert explorer.picture.value == plots.tile([torch.cat(row)], zoom=12)


def test_results_that_do_not_fit_are_refused(explorer):
    given = [explorer.model, sign, explorer.x, dict(explorer.attacked), dict(explorer.codes)]
    with pytest.raises(ValueError, match="attacked: one for each"):
        EffortExplorer(*given, {"blind": 1.0})
    del given[4]["blind", 0.5]
    with pytest.raises(ValueError, match="codes: one for each"):
        EffortExplorer(*given, COSTS)
