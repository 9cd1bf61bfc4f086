"""JupyterLab in a real Chrome: run the notebook, move its sliders, and see pictures and numbers change."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

from vaenb import plots

ROOT = Path(__file__).parents[1]
CHROME = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync"]  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not plots.chrome(), reason="there is no Chrome or Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # 2026-11: playwright leaves its pipes to the collector
]


# What is tested here are the sliders: nbval runs the notebooks as they are committed.
SMALLER = {
    "01_vae_as_probe.ipynb": {"count": 40, "some": 12, "few": 4, "searches": 1},
    "03_latent_attacks.ipynb": {"betas": [], "count": 8},
    "04_latent_defences.ipynb": {"betas": [1.0, 10.0], "count": 8},
    "05_encoder_attacks_hmc.ipynb": {"betas": [1.0, 4.0], "per_class": 1, "transitions": 50, "adaptive_images": 2},
    "07_diffusion.ipynb": {"epochs": 2, "lessons": 1, "count": 16, "samples": 20, "few": 4, "radii": [0.1]},
    "08_seatbelt.ipynb": {"layers": [2], "epochs": 3, "count": 4, "grid": 3},
    "09_likelihood_and_ood.ipynb": {
        "families": ["bernoulli"],
        "count": 40,
        "some": 8,
        "few": 4,
        "part": 200,
        "epochs": 2,
    },
    "10_audit_your_own.ipynb": {
        "count": 20,
        "attacked": 3,
        "steps": 2,
        "epochs": 2,
        "limit": 300,
        "guests": ["pythae"],
    },
}


def set_parameters(notebook: Path, values: dict) -> None:
    book = nbformat.read(notebook, 4)
    (cell,) = (c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(book, notebook)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks, with a configuration of its own; gives the address."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name, values in SMALLER.items():
        set_parameters(folder / "notebooks" / name, values)
    port, token = free_port(), secrets.token_hex(8)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
    ]
    command += ["--allow-root", "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class="
                "jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]  # fmt: skip
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "VAENB_RUNS": str(folder / "runs")}
    env.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    with (
        (folder / "lab.log").open("w") as log,
        subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "lab.log").read_text()
                try:
                    server.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        yield url, token
        server.terminate()


@pytest.fixture
def page(lab):
    """A tall page (Lab leaves out cells that are off screen), which collects errors and requests to elsewhere."""
    url, _ = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=plots.chrome(), args=CHROME)
        page = browser.new_page(viewport={"width": 1280, "height": 1800})
        page.problems = []
        page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("requestfailed", lambda r: page.problems.append(f"failed: {r.url} {r.failure}"))
        local = re.compile(rf"({url}|{url.replace('http', 'ws')}|data:|blob:)")
        page.on("request", lambda r: None if local.match(r.url) else page.problems.append(f"outside: {r.url}"))
        yield page
        browser.close()


def open_and_run(page, lab, notebook: str) -> None:
    url, token = lab
    # a workspace of its own: Lab would open the other notebooks' tabs again, and their hidden widgets with them
    page.goto(f"{url}/lab/workspaces/{Path(notebook).stem}/tree/notebooks/{notebook}?token={token}")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=120_000)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def press(page, name: str, key: str = "ArrowRight") -> None:
    slider = page.locator(".widget-hslider", has_text=name)
    slider.locator(".noUi-handle").focus()
    page.keyboard.press(key)


def state(page, word: str) -> dict[str, str]:
    box = page.locator(".widget-vbox", has=page.locator(".widget-hslider")).filter(has_text=word).first
    pictures = [box.locator("img").nth(i) for i in range(2)]
    return {
        "numbers": box.locator(".widget-html", has_text=word).inner_text(),
        "picture": pictures[0].get_attribute("src"),
        "curve": pictures[1].get_attribute("src"),
        "sliders": " ".join(box.locator(".widget-readout").all_inner_texts()),
    }


def drag_all(page, lab, notebook: str, word: str, sliders: dict[str, tuple[str, int]]) -> None:
    """Run the notebook, move each slider by (key, times), and see everything in the explorer change."""
    run_without_errors(page, lab, notebook)
    drag(page, word, sliders)
    if page.locator(".slider-rail-touch-rect").count():
        slide_all(page)
    assert page.problems == []


def run_without_errors(page, lab, notebook: str) -> None:
    open_and_run(page, lab, notebook)
    errors = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
        ".flatMap(c => c.outputs ?? []).filter(o => o.output_type == 'error').map(o => o.evalue)"
    )
    assert errors == []
    page.locator(".widget-hslider").first.wait_for(timeout=60_000)


def drag(page, word: str, sliders: dict[str, tuple[str, int]]) -> None:
    """Move the sliders of the explorer whose numbers have the word."""
    before = state(page, word)
    for slider, (key, times) in sliders.items():
        for _ in range(times):
            press(page, slider, key)
        page.wait_for_function(
            "([selector, word, text]) => [...document.querySelectorAll(selector)].some(e => e.innerText.includes(word) "
            "&& e.innerText != text)",
            arg=[".widget-html", word, before["numbers"]],
            timeout=20_000,
        )
        page.wait_for_timeout(500)
        after = state(page, word)
        assert all(after[what] != before[what] for what in before), slider
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


def test_the_kernel_can_be_stopped_in_the_middle_of_a_training_and_says_so(page, lab, tmp_path):
    url, token = lab
    with urllib.request.urlopen(f"{url}/api/contents/notebooks/00_start_here.ipynb?token={token}") as answer:
        book = nbformat.from_dict(json.load(answer)["content"])
    (cell,) = (c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "\nepochs = 5_000"
    body = json.dumps({"type": "notebook", "content": book}).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/api/contents/notebooks/long.ipynb?token={token}", body, method="PUT")
    ).close()
    page.goto(f"{url}/lab/workspaces/long/tree/notebooks/long.ipynb?token={token}")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=120_000)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.locator(".widget-hprogress").first.wait_for(timeout=120_000)  # a slow step shows how far it is
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    page.get_by_text("training stopped after", exact=False).first.wait_for(timeout=60_000)


def test_the_slider_of_09_goes_through_the_claims(page, lab):
    open_and_run(page, lab, "11_claims.ipynb")
    slide_all(page)
    assert page.problems == []


def test_the_sliders_of_00_break_a_digit(page, lab):
    right = {"weight β": ("ArrowRight", 1), "test image": ("ArrowRight", 1)}
    drag_all(page, lab, "00_start_here.ipynb", "SSIM", {"attack radius ε": ("ArrowRight", 5), **right})


def test_the_sliders_of_01_doubt_and_accuse(page, lab):
    run_without_errors(page, lab, "01_vae_as_probe.ipynb")
    drag(page, "the classifier says", {"attack radius ε": ("ArrowRight", 3), "samples": ("ArrowLeft", 5)})
    drag(page, "ECE", {"temperature T": ("ArrowRight", 4), "which images": ("ArrowRight", 1)})
    right = dict.fromkeys(("false alarms", "detector", "pair"), ("ArrowRight", 1))
    drag(page, "AUROC", right)
    assert page.problems == []


def test_the_sliders_of_02_take_an_aim(page, lab):
    right = dict.fromkeys(("target", "model", "test image"), ("ArrowRight", 1))
    drag_all(page, lab, "03_latent_attacks.ipynb", "SSIM", {"attack radius ε": ("ArrowRight", 3), **right})


def test_the_sliders_of_03_weigh_total_correlation(page, lab):
    right = dict.fromkeys(("target", "weight β", "test image"), ("ArrowRight", 1))
    drag_all(page, lab, "04_latent_defences.ipynb", "SSIM", {"attack radius ε": ("ArrowRight", 3), **right})


def test_the_sliders_of_04_repair_it(page, lab):
    sliders = {"HMC transitions": ("ArrowLeft", 10), "attack radius δ": ("ArrowLeft", 1)}
    sliders |= {"KL weight β": ("ArrowRight", 1), "test image": ("ArrowRight", 1)}
    drag_all(page, lab, "05_encoder_attacks_hmc.ipynb", "MSE", sliders)


def test_the_sliders_of_05_clean_and_invent(page, lab):
    sliders = {"noise level": ("ArrowRight", 1), "β₁": ("ArrowRight", 1), "source": ("ArrowRight", 1)}
    drag_all(page, lab, "07_diffusion.ipynb", "MSE", sliders)


def test_the_sliders_of_06_pay_for_a_change(page, lab):
    sliders = {"penalty λ": ("ArrowRight", 3), "weight β": ("ArrowLeft", 1)}
    sliders |= {"attacked layers": ("ArrowRight", 1), "pair": ("ArrowRight", 1)}
    drag_all(page, lab, "08_seatbelt.ipynb", "shortfall", sliders)


def test_the_sliders_of_07_pale_and_accuse(page, lab):
    run_without_errors(page, lab, "09_likelihood_and_ood.ipynb")
    drag(
        page,
        "higher than that of",
        dict.fromkeys(("contrast", "brightness", "image"), ("ArrowLeft", 1)) | {"image": ("ArrowRight", 1)},
    )
    drag(page, "AUROC", dict.fromkeys(("false alarms", "detector", "pair"), ("ArrowRight", 1)))
    assert page.problems == []


def test_the_sliders_of_08_compare_models(page, lab):
    right = dict.fromkeys(("model", "test image"), ("ArrowRight", 1))
    drag_all(page, lab, "10_audit_your_own.ipynb", "SSIM", {"attack radius ε": ("ArrowLeft", 3), **right})
