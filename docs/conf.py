"""Sphinx configuration; build with `make docs`."""

import os
import sys
from importlib.metadata import version as _version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api as _api

_api.write(Path(__file__).parent / "reference" / "api")

project = "ff_lightning"
author = "The ff_lightning authors"
copyright = "the ff_lightning authors"
release = _version("ff-lightning")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_title = f"ff_lightning {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_inherit_docstrings = False  # Lightning's own docstrings belong to Lightning's own pages
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses and named tuples are documented once

# Links into the pages of torch and Lightning need the network, and a build must not: ask for them.
if os.environ.get("DOCS_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
        "torchmetrics": ("https://lightning.ai/docs/torchmetrics/stable", None),
    }

# Attributes of one name in several classes, such as `labels`: a mention of the word alone links to neither.
suppress_warnings = ["ref.python"]
