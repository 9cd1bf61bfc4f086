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

README = (Path(__file__).parents[1] / "README.md").read_text()


class SomeonesVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 6), nn.Linear(3, 64)

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z).sigmoid().view(-1, 1, 8, 8)


def test_the_adapter_of_the_readme_can_be_attacked_and_measured(tmp_path, monkeypatch):
    adapter, use, page, *clusters = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(clusters) == 2 and all(compile(block, "README", "exec") for block in clusters)
    torch.manual_seed(0)
    names = {"net": SomeonesVAE(), "x": torch.rand(4, 1, 8, 8, generator=seeded())}
    names |= {"f": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), "y": torch.tensor([0, 1, 2, 0])}
    exec(adapter, names)
    exec(use, names)
    monkeypatch.chdir(tmp_path)
    exec(page, names)
    assert names["report"].table().count("|") > 50 and (tmp_path / "runs" / "mine" / "page.html").is_file()
    model, x = names["model"], names["x"]
    check_model(model)
    check_images(model.decode(names["result"].adversarial).detach())
    assert (names["result"].loss > 0).all() and (names["moved"].loss > 0).all()
    assert names["chains"].accept_rate.mean() > 0.5
    check_images(names["repaired"].detach())
    assert names["strange"].shape == (4,) and (names["strange"] > -1).all()
    assert (names["doubt"] > 0).all() and (names["knowing"].loss > 0).all()
    assert (iwae(model, x, samples=64) >= elbo(model, x, samples=64) - 1).all()
    with pytest.raises(ValueError, match="training mode"):
        check_model(names["Mine"](names["net"].train()))


def test_every_file_the_readme_names_is_there():
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(((?!http|#)[^)#]+)", README)
    assert links and all((root / link).exists() for link in links)


def test_every_command_the_readme_names_is_there():
    fenced = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = set(re.findall(r"(?:^|`)vaenb (\w+)", f"{fenced}\n{README}", re.MULTILINE))
    assert {"run", "sweep", "paper", "claims", "verify", "collect"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command
    rules = re.findall(r"^(\w+):", (Path(__file__).parents[1] / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)) <= set(rules)


def test_the_readme_counts_the_claims_and_names_those_that_there_are():
    roles = [claim.role for claim in claims.load().values()]
    assert f"{roles.count('claim')} claims, and we ask {roles.count('question')} questions" in README
    named = re.findall(r"vaenb verify ([\w.-]+)", README)
    assert named and set(named) <= set(claims.load())
