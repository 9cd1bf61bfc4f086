"""How `make site` turns README, docs, the notebooks and the docstrings into static pages.

The project's folder is the source and not docs/, so that a link between README, a notebook and a page of docs holds
here as it does on a code host. Nothing is executed: figures and tables are those that were committed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for pages.py

project = html_title = "vaenb"
root_doc = "README"
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb", "vaenb/data/embedded/*.md"]
exclude_patterns = ["**/.*", "docs/_static"]
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.mathjax", "sphinx.ext.githubpages", "pages"]

# Notebooks and Markdown
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_custom_formats = {".ipynb": "pages.read"}
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

# Formulas: pages.py puts this script beside the pages, one file with all its glyphs as outlines, which loads nothing
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"options": {"ignoreHtmlClass": "page", "processHtmlClass": "math", "enableMenu": False}}

# The package, from its source: nothing of it is imported, so that the site needs no PyTorch
autoapi_dirs = ["vaenb"]
autoapi_root = "docs/api"
autoapi_add_toctree_entry = False  # pages.py lists it beside docs
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_member_order = "bysource"
autoapi_python_class_content = "both"
default_role = "code"  # a docstring's `name`
add_module_names = False
python_use_unqualified_type_names = True
suppress_warnings = ["autoapi.python_import_resolution"]  # it does not see `A, B = 4, 5`

# Pages
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = False
html_show_copyright = False
