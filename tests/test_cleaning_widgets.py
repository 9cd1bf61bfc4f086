"""The explorer of cleaners shows the images and counts the labels that its sliders say."""

import pytest
import torch

from tests.oracles import seeded
from vaenb import plots
from vaenb.widgets import CleaningExplorer

RADII = torch.tensor([0.0, 0.1, 0.3])
LABELS = torch.tensor([0, 1, 1, 0])
WEIGHTS = torch.randn(64, 2, generator=seeded(4))


def classifier(x):
    return (x.flatten(1) - 0.5) @ WEIGHTS


def made():
    """Images attacked by two attackers at three radii, as they are and behind two cleaners."""
    x = torch.rand(4, 1, 8, 8, generator=seeded())
    attacked, cleaned = {}, {}
    for cleaner in ("nothing", "threshold"):
        for number, attacker in enumerate(("blind", "knowing")):
            noise = torch.rand(3, *x.shape, generator=seeded(number + 1)) - 0.5
            images = (x + RADII.view(3, 1, 1, 1, 1) * noise).clamp(0, 1)
            attacked[cleaner, attacker] = images
            cleaned[cleaner, attacker] = images if cleaner == "nothing" else (images > 0.5).float()
    return attacked, cleaned


@pytest.fixture
def explorer():
    return CleaningExplorer(classifier, RADII, *made(), LABELS)


def test_it_shows_the_image_the_attacked_one_and_the_cleaned_one(explorer):
    explorer.cleaner.value, explorer.attacker.value = "threshold", "knowing"
    explorer.eps.value, explorer.image.value = 2, 3
    attacked, cleaned = (images["threshold", "knowing"] for images in made())
    row = torch.stack([attacked[0, 3], attacked[2, 3], cleaned[2, 3]])
    assert explorer.picture.value == plots.tile([row], zoom=16)


def test_it_counts_what_is_right_behind_the_cleaner(explorer):
    explorer.cleaner.value, explorer.eps.value = "threshold", 1
    attacked, cleaned = (images["threshold", "blind"][1] for images in made())
    before, behind = classifier(attacked).argmax(1), classifier(cleaned).argmax(1)
    right = (behind == LABELS).sum()
    for text in (f"says <b>{before[0]}</b>", f"threshold <b>{behind[0]}</b>", f"<b>{right}</b> of 4"):
        assert text in explorer.numbers.value
    assert explorer.share("threshold", "blind")[1] == right / 4


@pytest.mark.parametrize(
    ("slider", "value"), [("eps", 2), ("cleaner", "threshold"), ("attacker", "knowing"), ("image", 1)]
)
def test_every_slider_changes_the_picture(explorer, slider, value):
    before = explorer.picture.value
    getattr(explorer, slider).value = value
    assert explorer.picture.value != before


def test_what_does_not_fit_is_refused():
    attacked, cleaned = made()
    with pytest.raises(ValueError, match="0 first"):
        CleaningExplorer(classifier, RADII + 0.1, attacked, cleaned, LABELS)
    with pytest.raises(ValueError, match=r"attacked\['nothing', 'blind'\]|attacked\[\('nothing'"):
        CleaningExplorer(classifier, RADII[:2], attacked, cleaned, LABELS)
    del cleaned["nothing", "blind"]
    with pytest.raises(ValueError, match="cleaned"):
        CleaningExplorer(classifier, RADII, attacked, cleaned, LABELS)
