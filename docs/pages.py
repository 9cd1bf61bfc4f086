"""What the site needs beyond its tools: live figures, local formulas, docstrings as text, the list of pages.

The tools show a plotly figure as a picture only, and fetch MathJax from another host. Here a figure can be moved, and a
page asks no host but its own.
"""

import html
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import plotly

if TYPE_CHECKING:  # tests read notebooks by this file, and need not have it
    from sphinx.application import Sphinx

FIGURE, WIDGET, PICTURE = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json", "image/png"
NOTE = (
    '<div class="admonition note kernel"><p class="admonition-title">These controls need a kernel</p><p>They run the '
    "model. Open this notebook in JupyterLab (<code>make lab</code>), and run this cell to move them.</p></div>"
)
DOCS = ("your-model", "data", "sweeps", "results", "claims", "zoo")
PROJECT = ("CONTRIBUTING", "CHANGELOG", "Licences of the images <vaenb/data/embedded/LICENSES>")


def read(text: str) -> nbformat.NotebookNode:
    """Read a notebook so that its page shows live figures, notes in place of widgets, and folded code."""
    book = nbformat.reads(text, as_version=4)
    for cell in book.cells:
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.setdefault("tags", [])
        if "parameters" not in tags:
            tags.append("hide-input")
        for output in cell.outputs:
            if content := _as_html(output.get("data", {})):
                output.data = nbformat.from_dict({"text/html": content})
    return book


def _as_html(data: dict) -> str | None:
    if WIDGET in data:
        return NOTE
    return figure_html(data[FIGURE], data.get(PICTURE)) if FIGURE in data else None


def figure_html(figure: dict, picture: str | None) -> str:
    """A figure that figures.js draws when it comes near the window; until then its picture, if any, stands there."""
    layout = figure["layout"]
    content = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")
    image = ""
    if picture:
        words = html.escape(re.sub("<.*?>", " ", layout.get("title", {}).get("text") or "a figure"))
        size = f'width="{layout["width"]}" height="{layout["height"]}"'
        image = f'<img src="data:image/png;base64,{"".join(picture.split())}" {size} alt="{words}">'
    return f'<div class="live-figure">{image}<script type="application/json">{content}</script></div>'


def _list_pages(app: "Sphinx", name: str, source: list[str]) -> None:
    """Add the list of all pages to the front page, which on a code host needs none."""
    if name != app.config.root_doc:
        return
    notebooks = []
    for path in sorted((Path(app.srcdir) / "notebooks").glob("[0-9]*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        notebooks.append(f"{path.stem[:2]} · {title} <notebooks/{path.stem}>")
    docs = [f"docs/{page}" for page in DOCS] + ["The package <docs/api/vaenb/index>"]
    parts = {"Notebooks": notebooks, "Documentation": docs, "Project": PROJECT}
    for caption, pages in parts.items():
        source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def _plain(app: "Sphinx", kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    lines[:] = plain(lines)


def plain(lines: list[str]) -> list[str]:
    """Mark a docstring up as it is meant: equations set apart stay as they are typed, and no sign is markup."""
    marked: list[str] = []
    apart = False  # within a block that is indented below a line with a colon
    for line in lines:
        before = next((text for text in reversed(marked) if text.strip()), "")
        indent, indent_before = (len(text) - len(text.lstrip()) for text in (line, before))
        if line.strip() and not apart and indent > indent_before and before.endswith(":") and not marked[-1].strip():
            marked[len(marked) - 1 - marked[::-1].index(before)] += ":"  # :: begins such a block
            apart, outside = True, indent_before
        elif line.strip() and apart and indent <= outside:
            apart = False
        if line.startswith("- ") and marked and marked[-1].strip() and not marked[-1].startswith(("- ", " ")):
            marked.append("")
        marked.append(line if apart else _escaped(line))
    return marked


def _escaped(line: str) -> str:
    parts = re.split("(``.*?``|`.*?`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts)


def _draw_figures(app: "Sphinx", name: str, template: str, context: dict, doctree: object) -> None:
    if name.startswith("notebooks/"):
        app.add_js_file("plotly.min.js", loading_method="defer")
        app.add_js_file("figures.js", loading_method="defer")


def _finish(app: "Sphinx", error: Exception | None) -> None:
    """Put the two libraries beside the pages, and the front page where a host looks for it."""
    if error:
        return
    out = Path(app.outdir)
    libraries = Path(plotly.__file__).parent / "package_data", Path(sys.prefix, "node_modules", "mathjax", "es5")
    for folder, script in zip(libraries, ("plotly.min.js", app.config.mathjax_path), strict=True):
        shutil.copy(folder / script, out / "_static")
    shutil.copy(out / f"{app.config.root_doc}.html", out / "index.html")


def setup(app: "Sphinx") -> dict:
    """Join Sphinx."""
    app.connect("source-read", _list_pages)
    app.connect("autodoc-process-docstring", _plain)
    app.connect("html-page-context", _draw_figures)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
