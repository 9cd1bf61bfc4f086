"""The site: what its notebooks' pages are made of, and these pages in a real Chrome, which `make browse` opens."""

import functools
import http.server
import importlib.util
import re
import threading
from pathlib import Path

import nbformat
import pytest

from tests.test_browser import slide_all
from vaenb import plots

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
_spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)


def outputs(notebook: Path, kind: str) -> list[dict]:
    """What the notebook's cells show of one kind."""
    cells = nbformat.read(notebook, as_version=4).cells
    found = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [data[kind] for data in found if kind in data]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_becomes_live_figures_notes_and_folded_code(notebook):
    book = pages.read(notebook.read_text())
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = "".join(output.get("data", {}).get("text/html", "") for cell in codes for output in cell.outputs)
    assert shown.count('class="live-figure"') == len(outputs(notebook, pages.FIGURE))
    assert shown.count(pages.NOTE) == len(outputs(notebook, pages.WIDGET))
    assert [cell for cell in codes if "hide-input" not in cell.metadata.tags] == [
        cell for cell in codes if "parameters" in cell.metadata.tags
    ]


def test_a_figure_can_hold_no_tag_that_ends_its_script():
    figure = {"data": [], "layout": {"width": 3, "height": 2, "title": {"text": 'a </script> "b"'}}}
    shown = pages.figure_html(figure, "aa\naa\n")
    assert shown.count("</script>") == 1 and 'alt="a   &quot;b&quot;"' in shown and "base64,aaaa" in shown


def test_a_docstring_keeps_its_equations_and_its_code():
    lines = ["With |z| and x_t, `a_b`:", "", "    KL   β *x*", "", "Then:", "- one", "  more", "- two"]
    expected = [r"With \|z\| and x\_t, `a_b`::", "", "    KL   β *x*", "", "Then:", "", "- one", "  more", "- two"]
    assert pages.plain(lines) == expected


def test_the_site_lists_every_page_of_the_docs():
    assert sorted(pages.DOCS) == sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


# --- in a real Chrome

browsed = [
    pytest.mark.site,
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="there is no build/site; `make site` builds it"),
    pytest.mark.skipif(not plots.chrome(), reason="there is no Chrome or Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # 2026-11: playwright leaves its pipes to the collector
]


def on_site(test):
    """Mark a test that opens what `make site` has built."""
    return functools.reduce(lambda marked, mark: mark(marked), browsed, test)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(site, chrome):
    """A page that collects errors, what is not found, and requests to another host."""
    page = chrome.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(180_000)
    page.problems, page.asked = [], []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda r: page.asked.append(r.url))
    yield page
    outside = [url for url in page.asked if not url.startswith((f"{site}/", "data:", "blob:"))]
    page.close()
    assert outside == []


@on_site
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_draws_its_figures_and_formulas_and_its_slider_moves(page, site, notebook):
    page.goto(f"{site}/notebooks/{notebook.stem}.html")
    title = nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
    assert page.title().replace("’", "'") == f"{title} - vaenb"
    figures = outputs(notebook, pages.FIGURE)
    boxes = page.locator(".live-figure")
    assert boxes.count() == len(figures) > 0
    for box in boxes.all():
        box.scroll_into_view_if_needed()
        box.locator(".main-svg").first.wait_for()
        column = box.bounding_box()
        drawn = box.locator(".js-plotly-plot").bounding_box()
        assert drawn["width"] <= column["width"] + 1 and abs(drawn["height"] - column["height"]) < 2
    page.wait_for_function("() => document.querySelectorAll('.live-figure > img').length == 0")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.math')].every(formula => formula.querySelector('mjx-container > svg'))"
    )
    assert page.locator("[data-mml-node=merror], [data-mjx-error], mjx-container [fill=red]").count() == 0
    assert page.locator(".kernel").count() == len(outputs(notebook, pages.WIDGET))
    if any(figure["layout"].get("sliders") for figure in figures):
        slide_all(page)
    assert page.problems == []


@on_site
def test_the_search_finds_the_aaddc(page, site):
    page.goto(f"{site}/index.html")
    search = page.locator("input[name=q]").first
    search.fill("AADDC")
    search.press("Enter")
    for place in ("notebooks/", "docs/your-model"):  # results come one by one
        page.locator(f'#search-results li a[href*="{place}"]').first.wait_for()
    assert page.problems == []


@on_site
def test_the_front_page_leads_to_the_notebooks_and_to_the_package(page, site):
    page.goto(f"{site}/")
    links = page.locator(".sidebar-tree a.reference.internal")
    named = [link.get_attribute("href") for link in links.all()]
    assert [f"notebooks/{path.stem}.html" for path in NOTEBOOKS] == [link for link in named if "notebooks/" in link]
    page.goto(f"{site}/docs/api/vaenb/attacks/latent/index.html")
    assert page.locator("dt.sig", has_text="spectral_attack").is_visible()
    assert not any("plotly" in url for url in page.asked) and page.problems == []


@on_site
def test_no_page_names_another_host_for_what_it_loads():
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]*|<link[^>]*\shref=\"(?:https?:)?//[^\"]*"
    )
    found = {str(path.relative_to(SITE)): loaded.findall(path.read_text()) for path in SITE.rglob("*.html")}
    assert {name: tags for name, tags in found.items() if tags} == {}
