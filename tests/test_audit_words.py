"""What an audit says follows from its numbers, by the stated rules."""

import re

import pytest
import torch

from vaenb import zoo
from vaenb.audit.attacks import RADII
from vaenb.audit.page import summary, write
from vaenb.audit.reference import Band, band
from vaenb.audit.report import Measure, Report
from vaenb.audit.verdicts import verdicts, warnings
from vaenb.stats import Estimate

NOBODY = Band("mnist", {})
STANDARD = {"steps": 20, "restarts": 2}


def told(**measures) -> Report:
    """A report of estimates (effect, low, high), or of reasons; names have their spaces and colons as written."""
    found = {}
    for name, value in measures.items():
        found[name] = Measure(value if isinstance(value, str) else Estimate(*value), "unit")
    return Report(found, settings=dict(STANDARD))


def curve(name: str, *similar: tuple[float, float, float]) -> dict:
    measures = {f"{name}: AADDC": (0.7, 0.6, 0.8)}
    for radius, value in zip(RADII[name][1:], similar, strict=True):
        measures[f"{name}: SSIM at {radius:g}"] = value
    return measures


def test_it_breaks_where_the_whole_interval_lies_below_one_half():
    fine, unsure, broken = (0.8, 0.7, 0.9), (0.45, 0.35, 0.55), (0.3, 0.2, 0.49)
    said = verdicts(told(**curve("encoder", fine, broken, broken)), NOBODY)["encoder"]
    assert said.startswith("breaks within δ = 0.05 (SSIM 0.30)")
    said = verdicts(told(**curve("encoder", fine, unsure, broken)), NOBODY)["encoder"]
    assert said.startswith("breaks within δ = 0.1 ")
    said = verdicts(told(**curve("encoder", fine, unsure, unsure)), NOBODY)["encoder"]
    assert said.startswith("undecided at δ = 0.1")
    said = verdicts(told(**curve("encoder", fine, fine, fine)), NOBODY)["encoder"]
    assert said.startswith("holds to δ = 0.1 (SSIM 0.80)")
    within = verdicts(told(**curve("decoder by spreads", fine, *[broken] * 5)), NOBODY)
    assert within["decoder by spreads"].startswith("breaks within 1 spread (")
    within = verdicts(told(**curve("decoder by distance", fine, *[broken] * 5)), NOBODY)
    assert within["decoder by distance"].startswith("breaks within 0.2 distances (")


def test_what_could_not_be_measured_is_said_and_not_left_out():
    assert verdicts(told(**{"encoder: AADDC": "not measured: NaN"}), NOBODY) == {"encoder": "not measured: NaN"}


def test_a_rank_counts_models_whose_difference_has_an_interval_on_one_side():
    areas = {"a": 0.9, "b": 0.81, "c": 0.8, "d": 0.7, "e": 0.59}
    beside = Band("mnist", {name: {"encoder: AADDC": [area, area, area]} for name, area in areas.items()})
    said = verdicts(told(**curve("encoder", *[(0.8, 0.7, 0.9)] * 3)), beside)["encoder"]
    words = "weaker than 2, stronger than 1, not told apart from 2 of 5 reference models on MNIST"
    assert said.endswith(f"; {words}")


def test_in_a_rank_the_reference_has_an_interval_too():
    """Two independent values with arms of .1 and .05 are told apart from √(.1² + .05²) = .112 on; arms may differ."""
    mine = Estimate(0.5, 0.4, 0.6)
    for area, better in ((0.611, 0), (0.613, 1)):
        assert Band("", {"a": {"m": [area, area - 0.05, area + 0.3]}}).rank("m", mine) == (better, 0, 1 - better)
    for area, worse in ((0.389, 0), (0.387, 1)):
        assert Band("", {"a": {"m": [area, area - 0.3, area + 0.05]}}).rank("m", mine) == (0, worse, 1 - worse)
    assert Band("", {"a": {}}).rank("m", mine) == (0, 0, 0)


def test_a_model_of_the_zoo_does_not_stand_beside_itself():
    name = next(iter(zoo.audits()))
    known = zoo.audits()[name]["data"]
    others = band(Report(settings={"data": known, "zoo": name})).models
    assert name not in others and set(others) | {name} == set(band(Report(settings={"data": known})).models)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.2, 0.1, 0.3), r"HMC brings attacked images nearer .*\(SSIM \+0.20\)"),
        ((-0.2, -0.3, -0.1), r"HMC takes attacked images further away \(SSIM −0.20\)"),
        ((0.2, -0.1, 0.5), "HMC changes nothing that the interval could tell"),
        ("not defined: a point", "not defined: a point"),
    ],
)
def test_a_repair_helps_or_harms_where_its_interval_is_on_one_side(gain, words):
    assert re.match(words, verdicts(told(**{"repair: gain": gain}), NOBODY)["repair"])


def test_what_a_repair_costs_and_whether_chains_mixed_is_said():
    measures = {"repair: gain": (0.2, 0.1, 0.3), "repair: clean image through HMC": (0.85, 0.8, 0.9)}
    measures["repair: chains with R-hat ≤ 1.1"] = (0.4, 0.3, 0.6)
    said = verdicts(told(**measures), NOBODY)["repair"]
    assert said.endswith(", and costs clean images (SSIM 0.85); most chains have not mixed")


@pytest.mark.parametrize(
    ("elbo", "size", "words"),
    [
        ((0.95, 0.9, 1), (0.97, 0.9, 1), "usable (AUROC 0.95 [0.9, 1])"),
        ((0.8, 0.7, 0.9), (0.7, 0.6, 0.8), "weak (AUROC 0.8 [0.7, 0.9])"),
        ((0.6, 0.45, 0.7), (0.99, 0.98, 1), "unusable (AUROC 0.6 [0.45, 0.7]); file size does better (AUROC 0.99"),
        ((0.6, 0.45, 0.7), (0.69, 0.5, 0.9), "unusable (AUROC 0.6 [0.45, 0.7])"),
        ((0.1, 0.0, 0.2), (0.9, 0.8, 1), "reversed: it takes them for the model's own (AUROC 0.1 [0, 0.2]); file size"),
        ("not defined: a point", (0.9, 0.8, 1), "not defined: a point; the best score is file size (AUROC 0.9 ["),
    ],
)  # fmt: skip
def test_an_alarm_is_usable_from_nine_tenths_and_another_better_by_an_interval(elbo, size, words):
    measures = {"sprites: AUROC of −ELBO": elbo, "sprites: AUROC of file size": size}
    said = verdicts(told(**measures), NOBODY)["−ELBO against sprites"]
    assert said.startswith(words) and ("does better" in said) == ("file size" in words and "best" not in words)


def test_a_score_of_six_images_is_not_called_better():
    report = told(**{"sprites: AUROC of −ELBO": (0.6, 0.5, 0.7), "sprites: AUROC of file size": (0.6, 0.5, 0.7)})
    for count, better in ((6, False), (16, True)):
        regret = Estimate(1, 1, 1, n=count)
        report.measures["sprites: AUROC of likelihood regret"] = Measure(regret, "AUROC")
        assert ("does better" in verdicts(report, NOBODY)["−ELBO against sprites"]) == better


def test_what_a_reader_must_know_first():
    measures = {
        "encoder: AADDC lost to a doubled attack": (0.03, 0.02, 0.04),
        "decoder by spreads: AADDC lost to a doubled attack": (0.024, 0.02, 0.04),
        "decoder by spreads: images without a gradient": (0.25, 0, 0.5),
        "decoder by distance: AADDC, random step − attack": (-0.01, -0.02, 0.0),
        "clean: reconstruction SSIM": (0.21, 0.2, 0.22),
        "codes: active latents": (0, 0, 0),
    }
    report = told(**measures)
    report.stopped = "by Ctrl-C"
    said = warnings(report, NOBODY)
    assert len(said) == 6
    expected = ("stopped before", "had no gradient", "suspect its gradients", "not converged", "badly", "No latent")
    for line, words in zip(said, expected, strict=True):
        assert words in line
    assert warnings(told(), NOBODY) == []


def test_other_data_and_another_budget_are_said():
    beside = Band("", {"mnist/vae": {}})
    assert "of other data" in warnings(told(), beside)[0]
    weaker = told()
    weaker.settings["steps"] = 10
    told_so = warnings(weaker, Band("mnist", {"a": {}}))
    assert "this one by 10 and 2: the standard budget gives the rank" in told_so[0]
    small = told()
    small.settings["shape"] = [1, 28, 28]
    assert "have 32 pixels a side, these 28" in warnings(small, Band("mnist", {"a": {}}))[0]


def test_a_weaker_attack_than_the_references_can_only_say_weaker():
    measures = curve("encoder", *[(0.8, 0.7, 0.9)] * 3)
    report = told(**measures)
    report.settings["restarts"] = 1
    better = Band("mnist", {"a": {"encoder: AADDC": [0.9, 0.9, 0.9]}, "b": {"encoder: AADDC": [0.1, 0.1, 0.1]}})
    assert verdicts(report, better)["encoder"].endswith("; weaker than 1 or more of 2 reference models on MNIST")
    worse = Band("mnist", {"b": {"encoder: AADDC": [0.1, 0.1, 0.1]}})
    assert verdicts(report, worse)["encoder"].endswith("; no rank (another attack)")
    report.settings |= {"restarts": 9}
    assert verdicts(report, better)["encoder"].endswith("; no rank (another attack)")


def test_a_model_with_little_to_lose_is_told_so_in_each_line():
    lines = verdicts(told(**curve("encoder", *[(0.8, 0.7, 0.9)] * 3), **{"codes: active latents": (0, 0, 0)}), NOBODY)
    assert lines["encoder"].startswith("(little to lose, see above) holds to")
    only_one = told(**{"decoder by spreads: AADDC, random step − attack": (0, 0, 0)})
    assert "suspect its gradients" in warnings(only_one, NOBODY)[0]
    only_one.settings["latents"] = 1  # a random step is the attack there
    assert warnings(only_one, NOBODY) == []


def test_reference_models_are_those_of_the_same_data(monkeypatch):
    silent = {"data": "mnist", "measures": {"codes: active latents": [0, 0, 0]}}
    audits = {"mnist/a": {"data": "mnist", "measures": {"m": [1]}}, "f/b": {"data": "fashion_mnist", "measures": {}}}
    monkeypatch.setattr(zoo, "audits", lambda: audits | {"mnist/silent": silent})
    for name, models in (("mnist", ["mnist/a"]), ("mnist_small", ["mnist/a"]), ("fashion_small", ["f/b"])):
        assert list(band(Report(settings={"data": name})).models) == models
    others = band(Report(settings={"data": "faces"}))
    assert others.data == "" and len(others.models) == 2


def test_an_interrupted_audit_still_has_a_page(tmp_path):
    report = Report(settings=dict(STANDARD), stopped="by Ctrl-C")
    report.pictures["clean"] = torch.rand(3, 1, 8, 8)
    page = write(report, tmp_path, title="mine <1>").read_text()
    assert "mine &lt;1&gt;" in page and "stopped before its end" in page
    assert "The audit was stopped" in summary(report)
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "report.json", "report.csv", "pictures.png"}
    for name in ("outside.png", "outside.plotly.json", "mine.png"):
        (tmp_path / name).touch()
    write(report, tmp_path)
    assert not (tmp_path / "outside.png").exists() and (tmp_path / "mine.png").exists()  # figures of an earlier one
