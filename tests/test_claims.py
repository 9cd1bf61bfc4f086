"""Claims, verdicts, bootstrap intervals, and the ledger over results folders."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import pearsonr

from vaenb import claims, files
from vaenb.claims import Claim, ledger, start_run, table, verdict
from vaenb.stats import Estimate, bootstrap, half_samples

KINDS = ("greater", "less", "equivalent", "not_less", "not_greater")
number = st.floats(-10, 10)
positive = st.floats(0, 5)
GOOD, BAD, WIDE = Estimate(0.5, 0.4, 0.6), Estimate(-0.5, -0.6, -0.4), Estimate(0.5, -1, 2)
SEEDS = (0, 1, 2)


def claim(kind, bound):
    return Claim("000.test", "", "", kind, bound, ("mnist",))


def interval(low, width):
    return Estimate(low + width / 2, low, low + width)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


class Agreeing(claims.Run):
    """A run whose trainings agree where a test does not say what each one gave."""

    def record(self, claim_id, cells, *, data, per_seed=None):
        each = {name: [e.effect] * len(self.seeds) for name, e in cells.items()}
        return super().record(claim_id, cells, data=data, per_seed=each | (per_seed or {}))


def begin(notebook="02_attacks", *, profile="paper", seeds=SEEDS, folder="", kind=Agreeing, **settings):
    settings["profile"] = profile
    return kind(**vars(start_run(notebook, settings, data={"mnist": "d1"}, seeds=seeds, folder=folder)))


def row(claim_id, folders):
    return next(r for r in ledger(folders) if r["claim"] == claim_id)


# --- the claims


def test_the_51_claims_are_whole():
    known = claims.load()
    lines = (Path(claims.__file__).with_name("claims.csv")).read_text().strip().splitlines()
    assert len(known) == len(lines) - 1 == 51  # so no id stands twice
    for name, c in known.items():
        assert c.id == name and c.statement and c.statistic and c.data and all(c.data)
        assert c.kind in KINDS and math.isfinite(c.bound)
        assert c.bound > 0 or c.kind != "equivalent"


def test_documents_and_data_are_split():
    known = claims.load()
    assert {c.document for c in known.values()} == {"000", "001", "002a", "002b", "003", "004", "joint"}
    assert known["001.vulnerable"].data == ("mnist", "fashion_mnist", "celeba")
    assert known["004.capacity"].data == ("cifar10 vs svhn",)
    assert known["002a.hmc.clean"].bound == -0.01


# --- verdicts


@pytest.mark.parametrize(
    ("kind", "bound", "low", "high", "expected"),
    [
        ("greater", 0.1, 0.11, 0.3, "reproduced"),
        ("greater", 0.1, 0.1, 0.3, "inconclusive"),
        ("greater", 0.1, 0.0, 0.1, "inconclusive"),
        ("greater", 0.1, 0.0, 0.09, "contradicted"),
        ("greater", 0.1, 0.1, 0.1, "inconclusive"),
        ("less", 0.1, 0.0, 0.09, "reproduced"),
        ("less", 0.1, 0.0, 0.1, "inconclusive"),
        ("less", 0.1, 0.1, 0.2, "inconclusive"),
        ("less", 0.1, 0.11, 0.2, "contradicted"),
        ("not_less", -0.01, -0.01, 0.2, "reproduced"),
        ("not_less", -0.01, -0.02, 0.2, "inconclusive"),
        ("not_less", -0.01, -0.02, -0.01, "inconclusive"),
        ("not_less", -0.01, -0.03, -0.02, "contradicted"),
        ("not_greater", 0.1, -1.0, 0.1, "reproduced"),
        ("not_greater", 0.1, 0.0, 0.2, "inconclusive"),
        ("not_greater", 0.1, 0.1, 0.2, "inconclusive"),
        ("not_greater", 0.1, 0.2, 0.3, "contradicted"),
        ("equivalent", 0.15, -0.14, 0.14, "reproduced"),
        ("equivalent", 0.15, 0.0, 0.15, "inconclusive"),
        ("equivalent", 0.15, -0.2, 0.0, "inconclusive"),
        ("equivalent", 0.15, -0.2, 0.2, "inconclusive"),
        ("equivalent", 0.15, 0.15, 0.2, "contradicted"),
        ("equivalent", 0.15, -0.3, -0.15, "contradicted"),
    ],
)
def test_verdict_at_inside_outside_and_across_the_bound(kind, bound, low, high, expected):
    assert verdict(claim(kind, bound), Estimate((low + high) / 2, low, high)) == expected


@given(number, positive, number, st.sampled_from([("greater", "less"), ("not_less", "not_greater")]))
def test_negating_statistic_and_bound_mirrors_the_kind(low, width, bound, kinds):
    e = interval(low, width)
    assert verdict(claim(kinds[0], bound), e) == verdict(claim(kinds[1], -bound), Estimate(-e.effect, -e.high, -e.low))


@given(number, positive, number)
def test_greater_and_less_contradict_each_other(low, width, bound):
    swap = {"reproduced": "contradicted", "contradicted": "reproduced", "inconclusive": "inconclusive"}
    e = interval(low, width)
    assert verdict(claim("less", bound), e) == swap[verdict(claim("greater", bound), e)]


@given(number, positive, st.floats(0.01, 5))
def test_equivalent_does_not_see_the_sign(low, width, bound):
    e = interval(low, width)
    assert verdict(claim("equivalent", bound), e) == verdict(
        claim("equivalent", bound), Estimate(-e.effect, -e.high, -e.low)
    )


@given(st.integers(-40, 40), st.integers(0, 20), st.integers(-20, 20), st.integers(-9, 9))
def test_shifting_interval_and_bound_together_changes_nothing(low, width, bound, shift):
    for kind in ("greater", "less", "not_less", "not_greater"):
        moved = verdict(claim(kind, bound + shift), interval(low + shift, width))
        assert moved == verdict(claim(kind, bound), interval(low, width))


@given(number, positive, positive, positive, st.floats(0.01, 5), st.sampled_from(KINDS))
def test_a_wider_interval_never_decides_what_a_narrow_one_left_open(low, width, left, right, bound, kind):
    e = interval(low, width)
    wide = verdict(claim(kind, bound), replace(e, low=e.low - left, high=e.high + right))
    assert wide in (verdict(claim(kind, bound), e), "inconclusive")


@pytest.mark.parametrize("numbers", [(math.nan, 0, 1), (0, math.nan, 1), (0, 0, math.inf), (0.5, 1, 0)])
def test_an_estimate_refuses_what_is_no_interval(numbers):
    with pytest.raises(ValueError, match="must"):
        Estimate(*numbers)


# --- bootstrap


def test_bootstrap_covers_a_known_mean():
    g = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        e = bootstrap(g.normal(3.0, 2.0, size=60), resamples=400, seed=seed)
        hits += e.low <= 3.0 <= e.high
    assert 0.90 <= hits / 200 <= 0.98


def test_bootstrap_agrees_with_scipy():
    x = np.random.default_rng(1).exponential(size=300)
    e = bootstrap(x, statistic=np.median, confidence=0.9, resamples=4000)
    ref = scipy_bootstrap(
        (x,), np.median, n_resamples=4000, confidence_level=0.9, method="percentile", random_state=2
    ).confidence_interval
    assert e.effect == np.median(x) and e.n == 300
    assert (e.low, e.high) == pytest.approx((ref.low, ref.high), abs=0.02)


def test_bootstrap_repeats_with_its_seed_and_takes_tensors():
    x = np.random.default_rng(2).normal(size=50)
    assert bootstrap(x, seed=4) == bootstrap(torch.tensor(x, requires_grad=True), seed=4) == bootstrap(list(x), seed=4)
    assert bootstrap(x, seed=4) != bootstrap(x, seed=5)


def test_bootstrap_of_pairs_keeps_them_together():
    x = np.random.default_rng(3).normal(size=80)
    e = bootstrap(np.stack([x, -2 * x], 1), statistic=lambda p: pearsonr(p[:, 0], p[:, 1])[0], resamples=50)
    assert (e.effect, e.low, e.high) == pytest.approx((-1, -1, -1))


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap([0.1] * 7) == Estimate(*[np.mean([0.1] * 7)] * 3)
    assert bootstrap(torch.ones(5, dtype=torch.bool)) == Estimate(1, 1, 1)


@pytest.mark.parametrize("values", [[], [1.0], 3.0, [1.0, math.nan], [1.0, math.inf]])
def test_bootstrap_refuses_too_few_or_broken_values(values):
    with pytest.raises(ValueError, match="values must"):
        bootstrap(values)


@pytest.mark.parametrize(("name", "value"), [("confidence", 95), ("confidence", 0), ("resamples", 0)])
def test_bootstrap_refuses_odd_settings(name, value):
    with pytest.raises(ValueError, match=rf"{name}: .* expected, got {value}"):
        bootstrap([1.0, 2.0], **{name: value})


# --- runs


def test_a_run_says_what_made_it(runs):
    run = begin(beta=4.0, step=np.float32(0.5), path=Path("a/b"))
    about = json.loads((run.folder / "run.json").read_text())
    assert run.folder.parent == runs and run.folder.name.startswith("02_attacks-")
    assert about["settings"] == {"beta": 4.0, "step": 0.5, "path": "a/b", "profile": "paper"}
    assert (about["profile"], about["seeds"], about["data"]) == ("paper", [0, 1, 2], {"mnist": "d1"})
    assert about["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert about["threads"] == torch.get_num_threads() and about["device"] == "cpu"
    assert about["started"] == run.started and run.started.endswith("+00:00")


def test_the_settings_of_a_run_are_what_its_parameters_cell_defines():
    cell = 'profile: str = "quick"\nbeta: float = 4.0\nbetas: list = [1.0]\nfolder: str = ""\ntrain: bool = False'
    namespace = {"In": [cell], "Out": {}, "_": 3, "_i1": cell, "open": open, "claims": claims}
    exec(cell, namespace)
    assert claims.parameters(namespace) == {"profile": "quick", "beta": 4.0, "betas": [1.0], "train": False}


def test_the_folder_is_named_by_parameters_and_seeds(runs):
    same = begin(a=1, b=2), begin(b=2, a=1)
    others = begin(a=1, b=3), begin(a=1, b=2, seeds=(0,)), begin(a=1, b=2, seeds=(1,)), begin(a=1, b=2, profile="quick")
    assert same[0].folder == same[1].folder
    assert len({run.folder for run in same + others}) == 5


def test_the_folder_is_the_argument_or_one_below_the_runs(runs, tmp_path, monkeypatch):
    assert start_run("01", {}, data={}, seeds=[0], folder=tmp_path / "arg").folder == tmp_path / "arg"
    assert start_run("01", {}, data={}, seeds=[0], folder="").folder.parent == runs
    monkeypatch.delenv("VAENB_RUNS")
    assert files.runs_folder() == Path(claims.__file__).parents[1] / "runs"


def test_starting_again_clears_the_claims_of_the_earlier_run(runs):
    begin().record("001.dae", {"mmd": GOOD}, data="mnist")
    begin()
    assert row("001.dae", [runs])["verdict"] == "not measured"


@pytest.mark.parametrize(
    ("notebook", "parameters", "seeds", "message"),
    [
        ("02", {"profile": "papper"}, [0], "profile: one of quick, paper expected, got 'papper'"),
        ("02", {}, [], "at least one seed"),
        ("02", {}, [0.5], "seeds: a whole number ≥ 0 expected, got 0.5"),
        ("notebooks/02", {}, [0], "plain name"),
    ],
)
def test_start_run_refuses(runs, notebook, parameters, seeds, message):
    with pytest.raises(ValueError, match=message):
        start_run(notebook, parameters, data={}, seeds=seeds)
    assert not runs.exists()


def test_settings_that_cannot_be_named_are_refused(runs):
    with pytest.raises(TypeError, match="settings and data must be"):
        begin(model=object())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"can't write .*file/run"):
        start_run("02", {}, data={}, seeds=[0], folder=tmp_path / "file" / "run")


# --- recording


def test_record_stores_cells_with_their_verdicts(runs):
    run = begin(kind=claims.Run)
    e = run.record("001.dae", {"mmd": GOOD, "swt": WIDE}, data="mnist", per_seed={"mmd": [0.4, 0.5, 0.6]})
    (stored,) = json.loads((run.folder / "claims.json").read_text())
    assert e.verdict == stored["verdict"] == "inconclusive"
    assert stored["cells"]["mmd"] == {"effect": 0.5, "low": 0.4, "high": 0.6, "n": None, "verdict": "reproduced"}
    assert stored["per_seed"] == {"mmd": [0.4, 0.5, 0.6]} and stored["seeds"] == [0, 1, 2]
    assert claims.Evidence.from_json(stored) == e


def test_records_of_one_claim_and_data_merge(runs):
    run = begin(kind=claims.Run)
    run.record("001.dae", {"mmd": BAD, "swt": GOOD}, data="mnist", per_seed={"mmd": [1, 2, 3], "swt": [4, 5, 6]})
    e = run.record("001.dae", {"mmd": GOOD, "kld": GOOD}, data="mnist")
    run.record("001.dae", {"mmd": BAD}, data="fashion_mnist")
    assert e.cells == {"mmd": GOOD, "swt": GOOD, "kld": GOOD} and e.verdict == "inconclusive"
    assert e.per_seed == {"swt": [4, 5, 6]}  # the replaced cell's seeds went with it
    assert len(json.loads((run.folder / "claims.json").read_text())) == 2


def test_numbers_may_be_tensors(runs):
    run = begin()
    e = run.record("001.dae", {"mmd": Estimate(*torch.tensor([0.5, 0.25, 0.75]))}, data="mnist")
    assert json.loads((run.folder / "claims.json").read_text())[0]["cells"]["mmd"]["low"] == 0.25
    assert e.verdict == "reproduced"


def test_an_unknown_claim_is_refused_with_what_is_close(runs):
    run = begin()
    with pytest.raises(ValueError, match=r"'001\.daes'.*001\.dae"):
        run.record("001.daes", {"mmd": GOOD}, data="mnist")
    assert json.loads((run.folder / "claims.json").read_text()) == []


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"cells": {}}, "at least one"),
        ({"cells": {"mmd": 0.3}}, "Estimate"),
        ({"data": " "}, "data must name"),
        ({"per_seed": {"swt": [1, 2, 3]}}, "per_seed must map names of cells"),
        ({"per_seed": {"mmd": [1, 2]}}, "per_seed"),
        ({"per_seed": {"mmd": [1, 2, math.nan]}}, "per_seed"),
    ],
)
def test_record_refuses(runs, kw, message):
    with pytest.raises(ValueError, match=message):
        begin(kind=claims.Run).record("001.dae", **{"cells": {"mmd": GOOD}, "data": "mnist"} | kw)


@pytest.mark.parametrize("step", ["replace", "write_bytes"])
def test_a_failing_write_leaves_the_old_file_whole(runs, monkeypatch, step):
    run = begin()
    run.record("001.dae", {"mmd": GOOD}, data="mnist")
    before = (run.folder / "claims.json").read_bytes()

    def fail(path, *args, **kwargs):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(Path, step, fail)
        with pytest.raises(OSError, match=f"No space left.*{run.folder.name}") as caught:
            run.record("001.dae", {"mmd": BAD}, data="mnist")
    assert caught.value.errno == errno.ENOSPC
    assert (run.folder / "claims.json").read_bytes() == before
    assert {p.name for p in run.folder.iterdir()} == {"claims.json", "run.json"}
    assert run.record("001.dae", {"swt": GOOD}, data="mnist").cells == {"mmd": GOOD, "swt": GOOD}


# --- the ledger


def test_the_empty_ledger_has_every_claim_in_order(tmp_path):
    rows = ledger([tmp_path])
    assert [r["claim"] for r in rows] == list(claims.load())
    assert {r["verdict"] for r in rows} == {"not measured"} and not any(r["cells"] for r in rows)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"a": GOOD, "b": GOOD}, "reproduced"),
        ({"a": GOOD, "b": WIDE}, "inconclusive"),
        ({"a": GOOD, "b": WIDE, "c": BAD}, "contradicted"),
    ],
)
def test_a_claim_holds_where_it_holds_in_all_cells(runs, cells, expected):
    begin().record("000.consistency.fgsm", cells, data="mnist")
    assert row("000.consistency.fgsm", [runs])["verdict"] == expected


def test_every_data_set_must_be_measured(runs):
    run = begin()
    run.record("001.dae", {"mmd": GOOD}, data="mnist")
    run.record("001.dae", {"mmd": GOOD}, data="fashion_mnist")
    r = row("001.dae", [runs])
    assert (r["verdict"], r["data"], r["missing"]) == ("incomplete", ["mnist", "fashion_mnist"], ["celeba"])
    run.record("001.dae", {"mmd": GOOD}, data="celeba")
    assert row("001.dae", [runs])["verdict"] == "reproduced"


def test_one_data_set_is_enough_to_contradict(runs):
    begin().record("001.dae", {"mmd": BAD}, data="mnist")
    assert row("001.dae", [runs])["verdict"] == "contradicted"


def test_a_claim_across_data_sets_is_recorded_with_all_of_them(runs):
    begin().record("001.rank.fades", {"mnist - fashion": GOOD}, data="mnist;fashion_mnist;celeba")
    assert row("001.rank.fades", [runs])["verdict"] == "reproduced"


def test_a_stand_in_is_listed_and_decides_nothing(runs):
    run = begin()
    run.record("001.less-diverse", {"kld": BAD}, data="celeba_4k")
    r = row("001.less-diverse", [runs])
    assert (r["verdict"], r["data"], len(r["cells"])) == ("not measured", [], 1)
    run.record("001.less-diverse", {"kld": GOOD}, data="celeba")  # less: GOOD contradicts
    r = row("001.less-diverse", [runs])
    assert (r["verdict"], r["data"], len(r["cells"]), len(r["shown"])) == ("contradicted", ["celeba"], 2, 1)


def test_quick_shows_the_number_and_gives_no_verdict(runs):
    e = begin(profile="quick").record("001.black-target", {"kld": GOOD}, data="digits")
    r = row("001.black-target", [runs])
    assert e.verdict == r["verdict"] == "no verdict (quick)"
    assert r["shown"][0]["effect"] == 0.5 and r["missing"] == ["mnist"]


def test_fewer_than_three_trainings_show_the_number_and_decide_nothing(runs):
    for seed in (0, 1, 1, 2):  # nor do they add up
        e = begin(seeds=(seed, seed)).record("001.tc-tradeoff", {"slope": GOOD}, data="mnist")
    r = row("001.tc-tradeoff", [runs])
    assert e.verdict == r["verdict"] == "no verdict (fewer than 3 trainings)"
    assert (len(r["shown"]), r["seeds"], r["profile"]) == (3, [0, 1, 2], "paper")
    assert "| no verdict (fewer than 3 trainings) |" in claims.summary([r])
    begin(profile="quick").record("001.tc-tradeoff", {"slope": GOOD}, data="mnist")
    assert row("001.tc-tradeoff", [runs])["verdict"] == "no verdict (fewer than 3 trainings)"
    begin().record("001.tc-tradeoff", {"slope": BAD}, data="mnist")
    r = row("001.tc-tradeoff", [runs])
    assert (r["verdict"], len(r["shown"]), len(r["cells"])) == ("reproduced", 1, 5)


def test_paper_wins_over_a_newer_quick_run(runs):
    begin().record("001.tc-tradeoff", {"slope": BAD}, data="mnist")
    begin(profile="quick").record("001.tc-tradeoff", {"slope": GOOD}, data="mnist")
    r = row("001.tc-tradeoff", [runs])
    assert (r["verdict"], r["profile"], r["seeds"], len(r["cells"])) == ("reproduced", "paper", [0, 1, 2], 2)


@pytest.mark.parametrize("first", ["a", "z"])
def test_the_newest_run_wins_whole_whatever_its_folder_is_called(runs, first):
    begin(folder=runs / first).record("001.dae", {"mmd": BAD, "swt": GOOD}, data="mnist")
    begin(folder=runs / "m").record("001.dae", {"mmd": GOOD}, data="mnist")
    r = row("001.dae", [runs])
    assert {c["cell"]: c["effect"] for c in r["cells"]} == {"mmd": 0.5}


@pytest.mark.parametrize("other", [{"seeds": [3, 4, 5]}, {"beta": 4}])
def test_runs_with_other_seeds_or_settings_all_count(runs, other):
    begin().record("000.consistency.fgsm", {"cnn": GOOD}, data="mnist")
    begin(**other).record("000.consistency.fgsm", {"cnn": BAD}, data="mnist")
    r = row("000.consistency.fgsm", [runs])
    assert len(r["cells"]) == 2 and r["verdict"] == "contradicted"


def test_trainings_that_disagree_are_inconclusive(runs):
    run, sure = begin(), Estimate(0.134, 0.133, 0.135)
    agree = run.record("000.consistency.fgsm", {"a": sure}, data="mnist", per_seed={"a": [0.2, 0.1, 0.1]})
    assert agree.verdict == "reproduced"
    split = run.record("000.consistency.fgsm", {"a": sure}, data="mnist", per_seed={"a": [0.9, -0.3, -0.2]})
    assert split.verdict == "inconclusive"


def test_a_cell_without_its_trainings_decides_nothing_unless_nothing_was_trained(runs):
    run = begin(kind=claims.Run)
    assert run.record("000.consistency.fgsm", {"a": GOOD}, data="mnist").verdict == "inconclusive"
    assert row("000.consistency.fgsm", [runs])["verdict"] == "inconclusive"
    assert run.record("002b.snr", {"cosine": Estimate(9, 9, 9)}, data="analytic").verdict == "reproduced"


def test_numbers_of_numpy_are_numbers(runs):
    run = start_run("02", {"profile": "paper"}, data={}, seeds=np.arange(3))
    estimate = Estimate(*np.float32([0.5, 0.25, 0.75]), n=np.int64(7))
    e = run.record("001.dae", {"mmd": estimate}, data="mnist", per_seed={"mmd": np.float32([1, 2, 3])})
    assert run.seeds == (0, 1, 2) and e.verdict == "reproduced" and type(estimate.n) is int
    assert claims.read_strictly(run.folder / "claims.json") == [e]


def test_verdicts_are_computed_again_and_never_read(runs):
    run = begin()
    run.record("000.consistency.fgsm", {"a": BAD}, data="mnist")
    path = run.folder / "claims.json"
    path.write_text(path.read_text().replace("contradicted", "reproduced"))
    assert row("000.consistency.fgsm", [runs])["verdict"] == "contradicted"


DAMAGED = ["[{", "3", "[3]", '{"a": 1}', '[{"claim": "001.dae"}]', "[null]", "\x00", "[" * 10**5]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_named_and_skipped(runs, text):
    begin().record("000.consistency.fgsm", {"a": GOOD}, data="mnist")
    (runs / "bad").mkdir()
    (runs / "bad" / "claims.json").write_text(text)
    with pytest.warns(UserWarning, match=r"bad/claims\.json is damaged"):
        r = row("000.consistency.fgsm", [runs])
    assert r["verdict"] == "reproduced"


DAMAGES = [("0.4", "NaN"), ("0.4", "1" + "0" * 400), ("001.dae", "001.gone"), ("paper", "papier"), ("null", '"many"')]
DAMAGES += [("   0,\n   1,\n   2\n", seeds) for seeds in ('"0", "1", "2"', "0.5, 1, 2", "[0], 1, 2")]


def test_nan_and_unknown_claims_in_a_file_are_damage(runs):
    run = begin()
    run.record("001.dae", {"mmd": GOOD}, data="mnist")
    path = run.folder / "claims.json"
    for old, new in DAMAGES:
        (runs / "x").mkdir(exist_ok=True)
        (runs / "x" / "claims.json").write_text(path.read_text().replace(old, new))
        with pytest.warns(UserWarning, match="x/claims.json is damaged"):
            ledger([runs / "x"])


def test_the_ledger_reads_the_runs_folder_by_default_and_refuses_absent_ones(runs, tmp_path):
    begin().record("000.consistency.fgsm", {"a": GOOD}, data="mnist")
    assert "a" in [c["cell"] for c in row("000.consistency.fgsm", None)["cells"]]
    with pytest.raises(ValueError, match="existing folders.*nowhere"):
        ledger([tmp_path / "nowhere"])


# --- the table


def test_the_table_shows_the_weakest_cell(runs):
    run = begin("03_defences")
    cells = {"mmd": GOOD, "s|wt": Estimate(0.25, 0.125, 0.5), "kld": Estimate(2, 1, 3)}
    run.record("001.dae", cells, data="mnist")
    run.record("001.dae", {"mmd": BAD}, data="celeba_4k")
    head, rule, line = table([row("001.dae", [runs])]).splitlines()
    assert len(head) == len(rule) == len(line)
    assert [c.strip() for c in line.replace("\\|", "/").strip("|").split("|")] == [
        "001.dae",
        "incomplete",
        "0.0003 to 0.020 (SSIM); 0.0001 to 0.006 (LPIPS) / 0.25 [0.125, 0.5] (weakest of 3: s/wt; 3 hold)",
        "mnist; celeba_4k (stand-in); no fashion_mnist; no celeba",
        "0, 1, 2",
        "03_defences",
    ]


def test_no_name_breaks_a_table(runs):
    run = begin("a|b")
    run.record("001.dae", {"m|d\nm": GOOD, "b": GOOD}, data="celeba|4k")
    for statements in (False, True):
        head, rule, line = table([row("001.dae", [runs])], statements=statements).splitlines()
        assert {part.replace("\\|", "").count("|") for part in (head, rule, line)} == {8 if statements else 7}


def test_the_table_counts_what_holds_fails_and_is_open_and_says_claims_in_words(runs):
    begin("03_defences").record("001.dae", {"a": GOOD, "b": BAD, "c": WIDE, "d": GOOD}, data="mnist")
    short, long = table([row("001.dae", [runs])]), table([row("001.dae", [runs])], statements=True)
    assert "(weakest of 4: b; 2 hold, 1 fail, 1 open)" in short and "twins" not in short
    heads, _, line = (part.strip("| ").split(" | ") for part in long.splitlines())
    assert [h.strip() for h in heads][:4] == ["what it says", "verdict", "document / here [95 %]", "measured as"]
    assert line[0].strip() == "deterministic autoencoders are more robust than their VAE twins (`001.dae`)"
    assert line[1].strip() == "contradicted" and line[3].endswith(": greater than 0")


def test_the_table_says_where_the_document_or_we_have_no_number(tmp_path):
    lines = table(ledger([tmp_path])).splitlines()
    assert [" 0.93 / – " in line for line in lines if "000.consistency.clean" in line] == [True]
    assert [" – / – " in line for line in lines if "004.cifar-svhn" in line] == [True]


@pytest.mark.parametrize(
    ("claim_id", "cells", "weakest"),
    [
        ("000.calibration.trend", {"a": Estimate(-2, -3, -1), "b": Estimate(-0.5, -9, -0.1)}, "b"),  # less
        ("000.calibration.weak", {"a": Estimate(0, -0.14, 0.05), "b": Estimate(0, -0.1, 0.1)}, "a"),  # equivalent
        ("000.consistency.fgsm", {"a": Estimate(0, -9, 9), "b": BAD}, "b"),  # contradicted before inconclusive
    ],
)
def test_the_weakest_cell_of_each_kind(runs, claim_id, cells, weakest):
    begin().record(claim_id, cells, data="mnist")
    assert row(claim_id, [runs])["shown"][0]["cell"] == weakest


def test_the_table_of_an_empty_ledger_has_all_claims(tmp_path):
    assert table(ledger([tmp_path])).count("not measured") == 51


def test_half_samples_are_as_wide_as_theory_says():
    x = np.random.default_rng(0).normal(size=400)
    e = half_samples(x, resamples=2000)
    half_width = 1.96 * x.std() / 20
    assert e.effect == pytest.approx(x.mean()) and e.n == 400
    assert [e.low, e.high] == pytest.approx([x.mean() - half_width, x.mean() + half_width], abs=0.1 * half_width)


def test_half_samples_hold_their_estimate_where_the_bootstrap_does_not():
    from vaenb.metrics.frechet import frechet_distance

    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(500, 30, generator=g), torch.randn(120, 30, generator=g)
    distance = lambda rows: frechet_distance(real, torch.as_tensor(rows))  # noqa: E731
    biased = bootstrap(fake, statistic=distance, resamples=100)
    assert biased.low > biased.effect
    e = half_samples(fake, statistic=distance, resamples=100)
    assert e.low < e.effect < e.high
    with pytest.raises(ValueError, match="at least 4"):
        half_samples(fake[:3])
