"""Sphinx configuration; `make docs` builds with warnings as errors and needs no network."""

from __future__ import annotations

import importlib
from pathlib import Path

import lowrank_opt

project = "lowrank_opt"
author = "lowrank_opt developers"
copyright = "2026, lowrank_opt developers"  # noqa: A001, RUF100
version = release = lowrank_opt.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# CONTRIBUTING.md and CHANGELOG.md are included from the top of the repository.
suppress_warnings = ["myst.header"]

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # numpydoc's sections say it, with shapes
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
extlinks = {
    "arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s"),
    "doi": ("https://doi.org/%s", "doi:%s"),
}

html_theme = "pydata_sphinx_theme"
html_title = f"lowrank_opt {version}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
# These pages have no sections beside them.
html_sidebars = {
    page: []
    for page in ("get_started", "choosing_a_solver", "performance", "contributing", "whats_new")
}
html_show_sourcelink = False


def write_api_pages() -> None:
    """Write one page a room from its ``__all__``, so that no public name can be forgotten."""
    rooms = {
        "recovery": "Matrix completion",
        "transport": "Optimal transport",
        "block_coordinate": "Block coordinate methods and sparse linear models",
        "lipschitz": "Lipschitz bounds of neural networks",
        "monotone": "Fixed points, monotone inclusions, games, linear programs",
        "core": "Contract: problems, solvers, results",
        "numerics": "Projections, proximal operators, sketches",
        "datasets": "Data sets",
        "plotting": "Plots",
        "testing": "Checks for solvers and problems",
        "papers": "Reproductions",
    }
    folder = Path(__file__).parent / "api" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for room, title in rooms.items():
        module = importlib.import_module(f"lowrank_opt.{room}")
        names = [name for name in module.__all__ if callable(getattr(module, name))]
        heading = f"``lowrank_opt.{room}``: {title}"
        lines = [
            heading,
            "=" * len(heading),
            "",
            f".. currentmodule:: lowrank_opt.{room}",
            "",
            ".. autosummary::",
            "   :toctree:",
            "",
            *(f"   {name}" for name in names),
        ]
        text = "\n".join(lines) + "\n"
        page = folder / f"{room}.rst"
        # An unchanged page keeps its time, so that Sphinx need not read it again.
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


write_api_pages()
