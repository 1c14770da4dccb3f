"""Build the documentation site: build/docs/index.html, from docs/, the other Markdown pages and the docstrings.

The pages are plain Markdown, which GitHub shows as well. So this program writes what a site needs beside them into
build/docs-source, and calls Sphinx there: the lists of docs/index.md become the sidebar, each group of how-to guides
gets a page, links to files outside of docs/ get their places in the site, and each group of public names gets a page.
The program needs no network. Exit status: 1 if there was a warning.
"""

from __future__ import annotations

import argparse
import enum
import gc
import importlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

from sphinx.cmd.build import build_main
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
INDEX = DOCS / "index.md"
#: Pages outside of docs/, and their names in the site.
OTHER_PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "benchmarks/RESULTS.md": "project/benchmark-results.md",
    "conformance/README.md": "project/conformance.md",
    "examples/README.md": "project/examples.md",
}
#: Modules whose names are documented beside those of the package itself: a page for each top-level module. A program
#: imports the modules with three parts only if it needs them.
MODULES = (
    "pywsapp.asgi",
    "pywsapp.asgi.uvicorn",
    "pywsapp.auth",
    "pywsapp.auth.django",
    "pywsapp.auth.first_message",
    "pywsapp.auth.jwt",
    "pywsapp.brokers",
    "pywsapp.brokers.nats",
    "pywsapp.brokers.rabbitmq",
    "pywsapp.brokers.redis",
    "pywsapp.client",
    "pywsapp.close_codes",
    "pywsapp.codecs",
    "pywsapp.component",
    "pywsapp.logs",
    "pywsapp.sessions",
    "pywsapp.sessions.django",
    "pywsapp.sessions.django_cookie",
    "pywsapp.sessions.flask",
    "pywsapp.sessions.flask_session",
    "pywsapp.sessions.memcached",
    "pywsapp.sessions.php_redis",
    "pywsapp.sessions.redis",
    "pywsapp.sessions.signed_cookie",
    "pywsapp.sessions.starlette",
    "pywsapp.stats",
    "pywsapp.telemetry",
    "pywsapp.telemetry.otlp",
    "pywsapp.testing",
    "pywsapp.topics",
)
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
#: A link, whose text can contain code, or code.
LINK = re.compile(r"(?P<text>!?\[(?:[^\]`]|`[^`]*`)*\])\((?P<target>[^)\s]+)\)|`[^`\n]*`")
MENU = "\n```{{toctree}}\n:hidden:\n{options}\n{pages}\n```\n"


class Fault(Exception):
    """A mistake in the pages; the message says what to write."""


class Group(NamedTuple):
    """A part of docs/index.md: a section, or a group of pages in it.

    Args:
        title: the heading.
        text: what follows the heading, up to the next one.
    """

    title: str
    text: str


def slug(title: str) -> str:
    """Return the name of the file of a page with this title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


# -- links -------------------------------------------------------------------------------------------------------------


def name_in_site(path: Path) -> str | None:
    """Return the name of a page in the site; None for a file that is no page of it."""
    if path.is_dir():
        path /= "README.md"
    if path.suffix == ".md" and path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return OTHER_PAGES.get(path.relative_to(ROOT).as_posix())


def move_links(text: str, origin: Path, name: str, source: Path) -> str:
    """Return a page whose relative links fit its place in the site.

    Args:
        text: the page.
        origin: the file whose directory the links begin in.
        name: the name of the page in the site.
        source: the directory of all pages.
    """
    directory = (source / name).parent

    def moved(link: re.Match[str]) -> str:
        path, separator, anchor = (link["target"] or "").partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:", path):
            return link[0]
        file = (origin.parent / path).resolve()
        page = name_in_site(file)
        target = os.path.relpath(source / page if page else file, directory).replace(os.sep, "/")
        return f"{link['text']}({target}{separator}{anchor})"

    position, parts = 0, []
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(moved, text[position : fence.start()]), fence[0]]
        position = fence.end()
    return "".join([*parts, LINK.sub(moved, text[position:])])


def pages_in(text: str) -> list[str]:
    """Return the names of the pages that a part of docs/index.md lists, in order, each once."""
    targets = [link["target"].partition("#")[0] for link in LINK.finditer(text) if link["target"]]
    files = [(DOCS / target).resolve() for target in targets if target]
    return list(dict.fromkeys(filter(None, map(name_in_site, files))))


# -- the lists of docs/index.md ----------------------------------------------------------------------------------------


def split(text: str, level: int) -> list[Group]:
    """Return the parts of a text below the headings of a level."""
    parts = re.split(rf"^{'#' * level} +(.+)$", text, flags=re.MULTILINE)[1:]
    return [Group(title, content.strip()) for title, content in zip(parts[::2], parts[1::2], strict=True)]


def check_lists(sections: list[Group]) -> None:
    """Raise Fault for a page of docs/ that no list has."""
    listed = {page for section in sections for page in pages_in(section.text)}
    for path in sorted(DOCS.rglob("*.md")):
        name = path.relative_to(DOCS).as_posix()
        if path != INDEX and name not in listed:
            raise Fault(
                f"docs/{name} is in no list of docs/index.md, so readers cannot find it: add a line "
                f"`- [its title]({name}): what it is for` to the list that it fits; the site makes its sidebar from it"
            )


def index_pages(source: Path) -> Iterator[tuple[str, str]]:
    """Return the start page with the sidebar, and a page for each group of how-to guides: names and contents."""
    text = INDEX.read_text(encoding="utf-8")
    sections = split(text, 2)
    check_lists(sections)
    menus = []
    for section in sections:
        caption = section.title.partition(":")[0]
        entries = []
        for group in split(section.text, 3):
            name = f"howto/{slug(group.title)}.md"
            if (DOCS / name).exists():
                raise Fault(f"docs/{name} has the name of a group in docs/index.md: rename one of them")
            pages = pages_in(group.text)
            menu = MENU.format(options="", pages="\n".join(f"/{page}" for page in pages))
            yield name, f"# {group.title}\n\n{move_links(group.text, INDEX, name, source)}\n{menu}"
            entries.append(f"/{name}")
        entries = entries or [f"/{page}" for page in pages_in(section.text)]
        if caption == "Reference":
            entries.append("/reference/api/index.md")
        menus.append(MENU.format(options=f":caption: {caption}\n", pages="\n".join(entries)))
    yield "index.md", move_links(text, INDEX, "index.md", source) + "".join(menus)


# -- the pages of public names -----------------------------------------------------------------------------------------


def public_names(module: ModuleType) -> list[str]:
    """Return the public names of a module: `__all__`, or the classes and functions that the module defines."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and issubclass(type(value), (type, FunctionType))  # isinstance would load the settings of Django
        and value.__module__ == module.__name__
    ]
    return list(getattr(module, "__all__", names))


class Api:
    """The public names of all modules, each documented in one place."""

    def __init__(self) -> None:
        package = importlib.import_module("pywsapp")
        self._places: dict[int, str] = {}
        self._groups: dict[str, list[str]] = {}
        self._modules: dict[str, list[str]] = {}
        for title, lines in re.findall(r"^(\w.*)\n((?:    .*\n)+)", package.__doc__ or "", re.MULTILINE):
            self._groups[title] = re.findall(r"^    (\w+) ", lines, re.MULTILINE)
            self._places |= {id(getattr(package, name)): f"pywsapp.{name}" for name in self._groups[title]}
        for module in map(importlib.import_module, MODULES):
            self._modules[module.__name__] = public_names(module)
            for name in public_names(module):
                self._places.setdefault(id(getattr(module, name)), f"{module.__name__}.{name}")

    def pages(self) -> Iterator[tuple[str, str]]:
        """Return the pages: their names and contents."""
        contents = {
            slug(title): f"# API: {title}\n\n{self._directives('pywsapp', names)}"
            for title, names in self._groups.items()
        }
        for module in self._modules:
            page = ".".join(module.split(".")[:2])
            contents[page] = contents.get(page, "") + self._part(module, "#" if page == module else "##")
        for page, content in contents.items():
            yield f"reference/api/{page}.md", content
        yield "reference/api/index.md", API_INDEX.format(pages="\n".join(contents))

    def _part(self, module: str, level: str) -> str:
        """Return the part of a page about one module."""
        found = importlib.import_module(module)
        places = {name: self._places[id(getattr(found, name))] for name in self._modules[module]}
        own = [name for name, place in places.items() if place == f"{module}.{name}"]
        links = [f"{{py:obj}}`{place}`" for name, place in places.items() if name not in own]
        text = f"{level} {module}\n\n{(inspect.getdoc(found) or '').splitlines()[0]}\n\n"
        return text + (f"Further names: {', '.join(links)}.\n\n" if links else "") + self._directives(module, own)

    def _directives(self, module: str, names: list[str]) -> str:
        """Return the directives of Sphinx that document names of a module."""
        blocks = []
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value):
                kind = "exception" if issubclass(value, BaseException) else "class"
                options = "".join(f"   :{option}\n" for option in self._options_of_class(value))
                blocks.append(f".. auto{kind}:: {module}.{name}\n{options}")
            elif callable(value):
                blocks.append(f".. autofunction:: {module}.{name}\n")
            else:
                blocks.append(f".. py:data:: {module}.{name}\n\n   {comment_of(module, name)}\n")
        return "```{eval-rst}\n" + "\n".join(blocks) + "```\n\n"

    def _options_of_class(self, value: type) -> list[str]:
        """Return the options of the directive of a class: it includes what hidden base classes have."""
        shown = [base for base in value.__mro__[1:] if not is_ours(base) or id(base) in self._places]
        options = ["members:"]
        if len(shown) < len(value.__mro__) - 1:
            options.append("inherited-members: " + ", ".join(sorted({base.__name__ for base in shown})))
        if value.__bases__ != (object,) and all(base in shown for base in value.__bases__):
            options.append("show-inheritance:")
        if issubclass(value, enum.Enum):
            options.append("undoc-members:")
        return options


def comment_of(module: str, name: str) -> str:
    """Return the comment that documents data of a module, or of one of its submodules."""
    for place in sorted(found for found in sys.modules if found.startswith(module)):
        comment = ModuleAnalyzer.for_module(place).find_attr_docs().get(("", name))
        if comment:
            return " ".join(comment)
    raise Fault(f"{module}.{name} has no comment: write `#: what it is` in the line above it")


def is_ours(value: type) -> bool:
    """Return whether a class is one of the package."""
    return value.__module__.partition(".")[0] == "pywsapp"


API_INDEX = """# API

The reference of all public names comes from their docstrings. The {{ref}}`index <genindex>` has the names in
alphabetical order.

```{{toctree}}
:maxdepth: 2

{pages}
```
"""


# -- the site ----------------------------------------------------------------------------------------------------------


def all_pages(source: Path) -> Iterator[tuple[str, str]]:
    """Return the names and the contents of all pages of the site."""
    yield from index_pages(source)
    yield from Api().pages()
    for path in DOCS.rglob("*.md"):
        if path != INDEX:
            name = path.relative_to(DOCS).as_posix()
            yield name, move_links(path.read_text(encoding="utf-8"), path, name, source)
    for original, name in OTHER_PAGES.items():
        yield name, move_links((ROOT / original).read_text(encoding="utf-8"), ROOT / original, name, source)


def collect(source: Path) -> None:
    """Write all pages to a directory. Files that do not change keep their time, so Sphinx reads them once."""
    wanted = {source / name: content for name, content in all_pages(source)}
    for path in set(source.rglob("*.md")) - set(wanted):
        path.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")


def main() -> int:
    """Build the site."""
    parser = argparse.ArgumentParser(description="Build the documentation site; it needs no network.")
    parser.add_argument("--directory", type=Path, default=BUILD, help="where docs, the site, is written")
    parser.add_argument("--sample", metavar="PAGE,PAGE", help="check all pages, but write these only; for the tests")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    os.environ["PYWSAPP_PURE"] = "1"  # extension modules have no signatures
    sys.path.insert(0, str(ROOT / "src"))
    source, site = directory / "docs-source", directory / "docs"
    try:
        collect(source)
    except Fault as exc:
        print(exc, file=sys.stderr)
        return 1
    gc.disable()  # the program ends soon, and collections take a fifth of its time
    cache = directory / "docs-cache"
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-c", str(DOCS), "-d", str(cache)]
    if arguments.sample:
        options += ["-D", f"sample={arguments.sample}"]
    status = build_main([*options, str(source), str(site)])
    if status == 0:
        print(site / "index.html")
    else:
        shutil.rmtree(cache, ignore_errors=True)  # Sphinx warns of a page only when it reads it
    return status


if __name__ == "__main__":
    sys.exit(main())
