"""Settings of Sphinx for the site. scripts/docs.py calls Sphinx: it collects the pages of the site before."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from pygments.lexers.javascript import JavascriptLexer
from sphinx import addnodes
from sphinx.application import Sphinx

import pywsapp

project = "pywsapp"
author = "the pywsapp contributors"
copyright = "the pywsapp contributors"
version = release = pywsapp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_*"]
language = "en"
nitpicky = True
#: Code in docstrings is often no name, and signatures have types of other libraries and types that no program names.
nitpick_ignore_regex = [("py:.*", ".*")]

# -- pages -------------------------------------------------------------------------------------------------------------

myst_heading_anchors = 6  # the anchors of GitHub
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure", "myst.header"]  # JSON with "..."; tables of benchmarks below an H1
html_theme = "furo"
html_title = f"pywsapp {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("versions.js", {"defer": "defer"})]
templates_path = ["_templates"]
_SIDEBAR = ("brand", "versions", "search", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [f"sidebar/{part}.html" for part in _SIDEBAR]}
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None  # the same sources make the same files

# -- names -------------------------------------------------------------------------------------------------------------

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def convert_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Change a docstring to reStructuredText: code is in single backticks, or indented after a colon."""
    code_indent: int | None = None
    pending: list[str] = []
    converted: list[str] = []

    def convert_pending() -> None:
        text = re.sub(r"(``?)([^`]+)\1|([*|_\\])", convert_span, "\n".join(pending))
        converted.extend(text.split("\n") if pending else ())
        pending.clear()

    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_indent is not None and line and indent <= code_indent:
            code_indent = None
        if code_indent is not None:
            converted.append(line)
        elif line.endswith(":") and lines[number + 1 : number + 2] == [""] and is_indented(lines[number + 2 :], indent):
            pending.append(line)
            convert_pending()
            converted[-1] += ":"
            code_indent = indent
        else:
            pending.append(line)
    convert_pending()
    lines[:] = converted


def is_indented(lines: list[str], indent: int) -> bool:
    """Return whether the first line is indented further."""
    return bool(lines) and len(lines[0]) - len(lines[0].lstrip()) > indent


def convert_span(found: re.Match[str]) -> str:
    """Return code as a reference if it can be a name, else as a literal; escape what has a meaning outside of code."""
    _, code, special = found.groups()
    if special:
        return f"\\{special}"
    return f"`{code}`" if re.fullmatch(r"[A-Za-z_][\w.]*", code) else f"``{code}``"


def replace_toctree(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Replace the function that makes the sidebar.

    That of Sphinx copies the tables of contents of all pages for each page, a fifth of the time of a build.
    """
    env = app.env

    def entries(names: Iterable[str], level: int) -> str:
        return f"<ul>{''.join(entry(name, level) for name in names)}</ul>"

    def entry(name: str, level: int) -> str:
        below = env.toctree_includes.get(name, [])
        current = " current" if page == name or page in below else ""
        link = f'<a class="reference internal{current}" href="{app.builder.get_relative_uri(page, name)}">'
        title = html.escape(env.titles[name].astext())
        return (
            f'<li class="toctree-l{level}{current}">{link}{title}</a>{entries(below, level + 1) if below else ""}</li>'
        )

    def toctree(**_: object) -> str:
        lists = env.tocs[root_doc].findall(addnodes.toctree)
        return "".join(
            f'<p class="caption" role="heading"><span class="caption-text">{found["caption"]}</span></p>'
            + entries(found["includefiles"], 1)
            for found in lists
        )

    context["toctree"] = toctree


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link a public name in the code of a page, such as `Topic.broadcast`, to its reference; once on each page."""
    if page.startswith("reference/api/"):
        return
    targets: dict[str, str] = {}
    names = app.env.get_domain("py").get_objects()
    for name, _, _, other, anchor, _ in sorted(names, key=lambda found: found[0].count(".")):
        short = re.sub(r"^(?:[a-z]\w*\.)+(?=[A-Z])|^pywsapp\.", "", name)  # Topic.broadcast, connect
        targets.setdefault(short, f"{app.builder.get_relative_uri(page, other)}#{anchor}")
    for literal in list(doctree.findall(nodes.literal)):
        if literal.astext() not in targets or isinstance(literal.parent, (nodes.reference, nodes.title)):
            continue
        link = nodes.reference("", "", internal=True, refuri=targets.pop(literal.astext()))
        literal.replace_self(link)
        link += literal


def setup(app: Sphinx) -> None:
    """Register what Sphinx does not know by itself."""
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)  # before napoleon
    app.connect("html-page-context", replace_toctree, priority=400)  # before furo
    app.connect("doctree-resolved", link_names)
    app.add_lexer("jsx", JavascriptLexer)
