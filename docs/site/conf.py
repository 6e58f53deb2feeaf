"""How Sphinx builds the documentation site; :mod:`build` says where the pages come from."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from greendaphne import __version__  # noqa: E402 - found by the path above

project = "greendaphne"
author = "the authors of greendaphne"
copyright = author  # noqa: A001 - Sphinx' name
version = ".".join(__version__.split(".")[:2])
release = __version__

extensions = ["links", "search_numbers", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["site"]
language = "en"
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
nitpick_ignore_regex = [
    # Other projects' names and internal modules, which have no pages here.
    ("py:.*", r"(?!greendaphne).*"),
    ("py:.*", r"greendaphne\.(?!Server$|server\.Server$|config\.|worker\.|testing\.|threaded\.|layers\.memory\.|layers\.redis\.Redis).*"),
]

html_theme = "furo"
html_title = f"greendaphne {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = str(HERE / "static" / "icon.svg")
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1a6b3c", "color-brand-content": "#1a6b3c", "color-brand-visited": "#1a6b3c"},
    "dark_css_variables": {"color-brand-primary": "#7ddba0", "color-brand-content": "#7ddba0", "color-brand-visited": "#7ddba0"},
}
# Prompts are not copied.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp"
