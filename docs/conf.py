"""Settings of Sphinx for the site. scripts/docs.py calls Sphinx: it collects the pages of the site before."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from docutils import nodes
from pygments.lexers.javascript import JavascriptLexer
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.environment import BuildEnvironment
from sphinx.search.en import SearchEnglish

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
smartquotes = False  # text as GitHub shows it
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure", "myst.header"]  # JSON with "..."; tables of benchmarks below an H1
pygments_dark_style = "github-dark"  # that of the theme underlines names, as if they were links
html_theme = "furo"
html_title = f"pywsapp {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("versions.js", {"defer": "defer"})]
templates_path = ["_templates"]
html_additional_pages = {"404": "404.html"}  # hosts of static sites answer with it
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


def show_values(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Change a signature: show the values of constants, and hide a parameter that takes nothing but mistakes.

    A constant stays if its value is an object, which has no short form. A parameter of the type NoReturn exists for the
    message of an error.
    """
    if signature is None:
        return None
    function = inspect.unwrap(obj.__init__ if isinstance(obj, type) else obj)  # type: ignore[misc, arg-type]
    constants = getattr(function, "__globals__", {})

    def value_of(found: re.Match[str]) -> str:
        value = constants.get(found[0])
        return repr(value) if isinstance(value, (int, float, str, tuple)) else found[0]

    signature = re.sub(r"(?<== )[A-Z_]+(?=[,)])", value_of, signature)
    return re.sub(r"\*\w+: ~?(?:typing\.)?NoReturn\b", "*", signature), returned


def write_dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Write a dash between an argument and its description, which `smartquotes` would do everywhere."""
    if app.env.docname.startswith("reference/api/"):
        for text in list(doctree.findall(nodes.Text)):
            if text == " -- ":
                text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


@functools.cache
def places_of_names(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """Return the page and the anchor of each public name that pages can link to.

    They have names such as `Topic.broadcast`, `TopicComponent` and `connect_sync`. A name of one word can be something
    else in a page: the header `Connection`, the command `connect`.
    """
    places: dict[str, tuple[str, str]] = {}
    for name, _, _, page, anchor, _ in sorted(env.domains.python_domain.get_objects(), key=lambda it: it[0].count(".")):
        short = re.sub(r"^(?:[a-z]\w*\.)+(?=[A-Z])|^pywsapp\.", "", name)
        if re.search(r"[._]|[a-z][A-Z]", short):
            places.setdefault(short, (page, anchor))
    return places


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link the first use of each public name in the code of a page to its reference."""
    if page.startswith("reference/api/"):
        return
    places = dict(places_of_names(app.env))
    for literal in list(doctree.findall(nodes.literal)):
        if literal.astext() not in places or isinstance(literal.parent, (nodes.reference, nodes.title)):
            continue
        other, anchor = places.pop(literal.astext())
        link = nodes.reference("", "", internal=True, refuri=f"{app.builder.get_relative_uri(page, other)}#{anchor}")
        literal.replace_self(link)
        link += literal


class SearchWithNumbers(SearchEnglish):
    """The words of the search: also numbers such as a close code, a status, a port or an RFC."""

    def word_filter(self, word: str) -> bool:
        """Return whether the search finds a word."""
        return super().word_filter(word) or re.fullmatch(r"[0-9]{3,5}", word) is not None


def prepare_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Add the script for numbers to the page of the search, and the directories of pages to the 404 page."""
    if page == "search":
        app.add_js_file("numbers.js", loading_method="defer")
    if page == "404":
        context["directories"] = "|".join(sorted({name.split("/")[0] for name in app.env.found_docs if "/" in name}))


class SampleBuilder(StandaloneHTMLBuilder):
    """A builder that reads all pages and resolves their links, but writes the pages of the setting `sample` only."""

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        """Write a page."""
        if docname in self.config.sample:
            super().write_doc(docname, doctree)

    def write_doc_serialized(self, docname: str, doctree: nodes.document) -> None:
        """Add a page to the search."""
        if docname in self.config.sample:
            super().write_doc_serialized(docname, doctree)


def setup(app: Sphinx) -> None:
    """Register what Sphinx does not know by itself."""
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", show_values)
    app.connect("doctree-read", write_dashes)
    app.connect("doctree-resolved", link_names)
    app.connect("html-page-context", prepare_page)
    app.add_search_language(SearchWithNumbers)
    app.add_lexer("jsx", JavascriptLexer)
    app.add_config_value("sample", [], "", list)
    if app.config.sample:
        app.add_builder(SampleBuilder, override=True)
