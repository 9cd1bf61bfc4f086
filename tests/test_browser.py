"""JupyterLab in a real Chrome: run the notebook, move its sliders, and see pictures and numbers change."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from vaenb import plots

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not plots.chrome(), reason="there is no Chrome or Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # 2026-11: playwright leaves its pipes to the collector
]


# What is tested here are the sliders: `vaenb run` executes the notebooks with the values they are committed with.
SMALLER = {
    "01_classifiers_probe": {"count": 16},
    "02_alarms_and_cleaning": {"count": 12, "few": 8},
    "03_latent_attacks": {"count": 8},
    "04_latent_defences": {"count": 10, "parts": ["twins"]},
    "05_encoder_attacks_hmc": {"count": 8, "parts": ["repair"]},
    "06_attacker_who_knows": {"count": 4, "parts": ["aware"]},
    "07_diffusion": {"parts": ["purifier"], "few": 8},
    "08_seatbelt": {"count": 4, "parts": ["hearts"]},
    "09_likelihood_and_ood": {"count": 40, "few": 10, "others": [], "parts": ["scores"]},
    "10_audit_your_own": {"count": 20, "attacked": 2, "epochs": 1, "limit": 300, "guests": ["pythae"]},
}


def set_parameters(book, values: dict) -> None:
    """Say the values at the end of the notebook's parameters cell."""
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until_it_answers(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks, with a configuration of its own; gives address and token."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for picture in (ROOT / "figures").rglob("*.png"):  # which the notebooks show
        copy = folder / picture.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, copy)
    for stem, values in SMALLER.items():
        path = folder / "notebooks" / f"{stem}.ipynb"
        book = nbformat.read(path, 4)
        set_parameters(book, values)
        nbformat.write(book, path)
    port, token, log = free_port(), secrets.token_hex(8), folder / "lab.log"
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]
    env = {"PLOTLY_RENDERER": "plotly_mimetype", **os.environ, "VAENB_RUNS": str(folder / "runs")}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"):
        env[name] = str(folder / name.lower())
    command = [sys.executable, "-m", "jupyterlab", *options]
    with log.open("w") as out, subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(server, f"{url}/api/status?token={token}", log)
        yield url, token
        server.terminate()


@pytest.fixture
def page(lab, chrome):
    """A tall page (Lab leaves out cells that are off screen), which collects errors and requests to elsewhere."""
    url, _ = lab
    local = re.compile(rf"({url}|{url.replace('http', 'ws')}|data:|blob:)")
    page = chrome.new_page(viewport={"width": 1280, "height": 1800})  # in a context of its own: nothing is remembered
    page.problems = []

    def failed(request):
        # Lab draws a text cell again while its picture is on the way, and lets the first request go
        let_go = request.resource_type == "image" and "ERR_ABORTED" in str(request.failure) and local.match(request.url)
        if not let_go:
            page.problems.append(f"failed: {request.url} {request.failure}")

    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfailed", failed)
    page.on("request", lambda r: None if local.match(r.url) else page.problems.append(f"outside: {r.url}"))
    yield page
    page.close()


def open_notebook(page, lab, stem: str) -> None:
    url, token = lab
    # a workspace of its own: Lab would open the other notebooks' tabs again, and their hidden widgets with them
    page.goto(f"{url}/lab/workspaces/{stem}/tree/notebooks/{stem}.ipynb?token={token}")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=120_000)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")


def run_without_errors(page, lab, stem: str) -> None:
    open_notebook(page, lab, stem)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    errors = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
        ".flatMap(c => c.outputs ?? []).filter(o => o.output_type == 'error').map(o => o.evalue)"
    )
    assert errors == []


def press(page, name: str, key: str = "ArrowRight") -> None:
    slider = page.locator(".widget-hslider", has_text=name)
    slider.locator(".noUi-handle").focus()
    page.keyboard.press(key)


def state(page, word: str) -> dict[str, str]:
    """What the explorer whose numbers have the word shows."""
    box = page.locator(".widget-vbox", has=page.locator(".widget-hslider")).filter(has_text=word).first
    return {
        "numbers": box.locator(".widget-html", has_text=word).inner_text(),
        "picture": box.locator("img").nth(0).get_attribute("src"),
        "curve": box.locator("img").nth(1).get_attribute("src"),
        "sliders": " ".join(box.locator(".widget-readout").all_inner_texts()),
    }


def drag(page, word: str, sliders: dict[str, tuple[str, int]]) -> None:
    """Move each slider of an explorer by (key, times), and see all that it shows change."""
    page.locator(".widget-hslider").first.wait_for(timeout=60_000)
    before = state(page, word)
    for slider, (key, times) in sliders.items():
        for _ in range(times):
            press(page, slider, key)
        page.wait_for_function(
            "([word, text]) => [...document.querySelectorAll('.widget-html')]"
            ".some(e => e.innerText.includes(word) && e.innerText != text)",
            arg=[word, before["numbers"]],
            timeout=20_000,
        )
        page.wait_for_timeout(500)
        after = state(page, word)
        for what in before:
            assert after[what] != before[what], f"{slider} leaves the {what} as it was"
        before = after


def slide_all(page) -> None:
    """Click each kernel-free slider of the notebook near its beginning, and see its place and its picture change."""
    plots_with_slider = page.locator(".js-plotly-plot:has(.slider-rail-touch-rect)")
    assert plots_with_slider.count() > 0
    for plot in plots_with_slider.all():
        rail, label = plot.locator(".slider-rail-touch-rect"), plot.locator(".slider-group > .slider-label")
        rail.scroll_into_view_if_needed()
        place, drawn = label.text_content(), plot.locator(".plot-container").inner_html()
        box = rail.bounding_box()
        rail.click(position={"x": 0.1 * box["width"], "y": box["height"] / 2})  # waits until nothing moves
        page.wait_for_function(
            "([label, place]) => label.textContent != place", arg=[label.element_handle(), place], timeout=20_000
        )
        page.wait_for_timeout(500)
        assert plot.locator(".plot-container").inner_html() != drawn


def test_the_kernel_can_be_stopped_in_the_middle_of_a_training_and_says_so(page, lab):
    url, token = lab
    book = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", 4)
    set_parameters(book, {"epochs": 5_000})
    body = json.dumps({"type": "notebook", "content": book}).encode()
    put = urllib.request.Request(f"{url}/api/contents/notebooks/long.ipynb?token={token}", body, method="PUT")
    urllib.request.urlopen(put).close()
    open_notebook(page, lab, "long")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # not waited for
    page.locator(".widget-hprogress").first.wait_for(timeout=120_000)  # a slow step shows how far it is
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    page.get_by_text("training stopped after", exact=False).first.wait_for(timeout=60_000)


# For each notebook its explorers: a word that their numbers have, and how far which slider is moved.
RIGHT, LEFT = ("ArrowRight", 1), ("ArrowLeft", 1)
EXPLORERS = {
    "00_start_here": {
        "SSIM": {"attack radius ε": ("ArrowLeft", 2), "target": RIGHT, "model": RIGHT, "test image": RIGHT}
    },
    "01_classifiers_probe": {
        "the classifier says": {"radius ε": ("ArrowRight", 3), "samples": ("ArrowLeft", 5)},
        "ECE": {"temperature T": ("ArrowRight", 4), "which images": RIGHT},
    },
    "02_alarms_and_cleaning": {
        "AUROC": {"false alarms": ("ArrowRight", 5), "detector": RIGHT, "pair": RIGHT},
        "right behind it": {"attack radius ε": ("ArrowLeft", 3), "cleaner": RIGHT},
    },
    "03_latent_attacks": {"SSIM": {"attack radius ε": ("ArrowLeft", 3), "weight λ": RIGHT, "test image": RIGHT}},
    "04_latent_defences": {
        "SSIM": {
            "on the code, radius ε": RIGHT,
            "on the image, radius δ": RIGHT,
            "model": RIGHT,
            "test image": RIGHT,
        }
    },
    "05_encoder_attacks_hmc": {
        "MSE": {
            "gradients of HMC": ("ArrowLeft", 10),
            "attack radius δ": RIGHT,
            "chain starts at the": RIGHT,
            "test image": RIGHT,
        }
    },
    # its curve is of all images: the slider of test images leaves it as it is
    "06_attacker_who_knows": {"with HMC": {"effort": LEFT, "attack": LEFT}},
    "07_diffusion": {"classifier says": {"noise added": LEFT, "attack radius δ": LEFT}},  # the same
    "08_seatbelt": {"of all stay": {"length of the change": LEFT}},  # the same
    "09_likelihood_and_ood": {
        "higher than that of": {"contrast": LEFT, "brightness": LEFT, "image": RIGHT},
        "AUROC": {"false alarms": RIGHT, "detector": RIGHT, "pair": RIGHT},
    },
    "10_audit_your_own": {
        "SSIM": {
            "on the code, radius ε": RIGHT,
            "on the image, radius δ": RIGHT,
            "model": RIGHT,
            "test image": RIGHT,
        }
    },
    "11_claims": {},  # it has a slider without a kernel only
}
TESTED = re.search(r"^TESTED =((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
assert "notebooks/00_start_here.ipynb" in TESTED  # by its whole name, for `when`


def when(stem: str):
    """What `make test` leaves out waits for the night."""
    return stem if f"notebooks/{stem}.ipynb" in TESTED else pytest.param(stem, marks=pytest.mark.nightly)


@pytest.mark.parametrize("stem", [when(stem) for stem in EXPLORERS])
def test_sliders_change_what_is_shown(page, lab, stem):
    run_without_errors(page, lab, stem)
    for word, sliders in EXPLORERS[stem].items():
        drag(page, word, sliders)
    if stem == "11_claims" or page.locator(".slider-rail-touch-rect").count():
        slide_all(page)
    assert page.problems == []
