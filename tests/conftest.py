"""Tests that run beside each other share the cores: one thread each, said before torch is imported."""

import os
import urllib.error

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHROME = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chrome():
    """A headless Chrome, for tests that skip where there is none."""
    from playwright.sync_api import sync_playwright  # here, for they bring torch

    from vaenb import plots

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=plots.chrome(), args=CHROME)
        yield browser
        browser.close()


@pytest.fixture
def no_network(monkeypatch) -> list:
    """Refuse every download of weights; gives the list of what was asked for."""
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return calls
