"""Tests that run beside each other share the cores: one thread each, said before torch is imported."""

import os
import urllib.error

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def no_network(monkeypatch) -> list:
    """Refuse every download of weights; gives the list of what was asked for."""
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return calls
