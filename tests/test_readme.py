"""What README shows works as shown."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.oracles import seeded
from vaenb import claims
from vaenb.__main__ import main
from vaenb.checks import check_images, check_model
from vaenb.metrics.likelihood import elbo, iwae

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGE = (ROOT / "docs" / "your-model.md").read_text()


class SomeonesVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 6), nn.Linear(3, 64)

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z).view(-1, 1, 8, 8)


def python_of(text):
    """The fenced Python of a page, each block compiled."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert all(compile(block, "page", "exec") for block in blocks)
    return blocks


@pytest.fixture
def names():
    """What the pages' examples take as given."""
    torch.manual_seed(0)
    images, noise = torch.rand(2, 4, 1, 8, 8, generator=seeded())
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    labels = torch.tensor([0, 1, 2, 0])
    given = {"x": images, "noise": noise, "f": classifier, "y": labels, "labels": labels}
    return given | {"torch": torch, "load_my_network": SomeonesVAE}


def test_the_model_that_the_readme_wraps_can_be_audited(names):
    (wrapping,) = python_of(README)
    assert wrapping.strip() in PAGE
    exec(wrapping, names)
    check_model(names["model"])
    check_images(names["model"].decode(names["model"].posterior(names["x"]).mean).detach())


def test_the_page_on_your_own_model_works_as_shown(names, tmp_path, monkeypatch):
    wrapping, four_methods, use, by_hand = python_of(PAGE)
    for block in (wrapping, four_methods):
        exec(block, names)
        model, x = names["model"], names["x"]
        check_model(model)
        assert (iwae(model, x, samples=64) >= elbo(model, x, samples=64) - 1).all()
    exec(by_hand, names)
    check_images(model.decode(names["result"].adversarial).detach())
    assert (names["result"].loss > 0).all() and (names["moved"].loss > 0).all()
    assert names["chains"].accept_rate.mean() > 0.5
    check_images(names["repaired"].detach())
    assert names["strange"].shape == (4,) and (names["strange"] > -1).all()
    assert (names["doubt"] > 0).all() and (names["knowing"].loss > 0).all()
    monkeypatch.chdir(tmp_path)
    exec(use, names)
    assert names["report"].table().count("|") > 50 and (tmp_path / "audit" / "page.html").is_file()


def test_the_other_pages_have_python_that_compiles():
    assert sum(len(python_of(page.read_text())) for page in DOCS if page.stem != "your-model") >= 3


def test_every_file_that_the_pages_name_is_there():
    for page in (ROOT / "README.md", *DOCS):
        text = page.read_text()
        links = re.findall(r"\]\(((?!http|#)[^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
        assert links or page.parent.name == "docs", page
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, (page, missing)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130 and len(README.encode()) <= 9000


def test_every_command_the_readme_names_is_there():
    fenced = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = set(re.findall(r"(?:^|`)vaenb (\w+)", f"{fenced}\n{README}", re.MULTILINE))
    assert {"run", "sweep", "paper", "claims", "verify", "collect", "audit"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)) <= set(rules)


def test_the_readme_counts_the_claims_and_names_those_that_there_are():
    roles = [claim.role for claim in claims.load().values()]
    assert f"{roles.count('claim')} claims, and we ask {roles.count('question')} questions" in README
    named = re.findall(r"vaenb verify ([\w.-]+)", README)
    assert named and set(named) <= set(claims.load())
