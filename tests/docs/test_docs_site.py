"""The documentation site builds without a warning, is complete, loads nothing from elsewhere, and works in Chromium."""

from __future__ import annotations

import functools
import html
import http.server
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("support.browser")

from support.browser import Browser, Page, expect  # noqa: E402 - not before the line above

import pywsapp  # noqa: E402

pytest.importorskip("sphinx", reason="the site needs `pip install 'pywsapp[docs]'`")

pytest_plugins = ["support.browser"]
pytestmark = [pytest.mark.once, pytest.mark.timeout(400)]
ROOT = Path(__file__).parent.parent.parent
BUILD_SECONDS = 360
#: A start page, a how-to guide with tables, a page of the reference with tables, and one from docstrings.
SHOWN = ("index", "howto/deploy-behind-a-load-balancer", "reference/options", "reference/api/applications-and-routing")
#: The pages that the tests look at. Sphinx reads all pages, and warns of each link that leads nowhere.
WRITTEN = (
    *SHOWN,
    "howto/deploy",
    "howto/route-components",
    "howto/show-online-users",
    "project/examples",
    "reference/api/client",
    "reference/api/pywsapp.sessions",
    "reference/api/users",
)
OTHER_VERSION = "0.0.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the site, with some of its pages."""
    directory = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        str(ROOT / "scripts/docs.py"),
        f"--directory={directory}",
        f"--sample={','.join(WRITTEN)}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{directory / 'docs' / 'index.html'}\n"
    return directory / "docs"


@pytest.fixture(scope="module")
def texts(site: Path) -> dict[Path, str]:
    """The HTML of the pages that were written."""
    paths = [path for path in site.rglob("*.html") if "_downloads" not in path.parts]
    return {path: path.read_text(encoding="utf-8") for path in paths}


# -- files -------------------------------------------------------------------------------------------------------------


def test_links_lead_to_a_file_and_an_anchor(site: Path, texts: dict[Path, str]) -> None:
    others = {site / f"{name}.html" for name in names_by_kind(site, "std")["doc"]} - set(texts)

    @functools.cache
    def anchors(path: Path) -> set[str]:
        return set(map(html.unescape, re.findall(r'\b(?:id|name)="([^"]+)"', texts[path])))

    broken = set()
    for page, text in texts.items():
        for link in set(re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text)):
            url = urllib.parse.urlsplit(html.unescape(link))
            if url.scheme or url.netloc or link == "/":  # that of 404.html, whose script replaces it
                continue
            target = (page.parent / urllib.parse.unquote(url.path)).resolve() if url.path else page
            if target in others:
                continue
            fragment = urllib.parse.unquote(url.fragment)
            if not target.is_file() or (fragment and fragment not in anchors(target)):
                broken.add((page.name, link))
    assert broken == set()


def test_nothing_is_loaded_from_another_host(site: Path, texts: dict[Path, str]) -> None:
    loaded = re.compile(r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc="([^"]+)"|<link\b[^>]*\bhref="([^"]+)\"""")
    others = {url for text in texts.values() for pair in loaded.findall(text) for url in pair if "//" in url}
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        others |= {url for url in re.findall(r"""url\(["']?([^"')]+)|@import""", text) if "//" in url[:8]}
    assert others == set()


# -- public names ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """All names of Python that the site documents."""
    return set().union(*names_by_kind(site).values())


@pytest.fixture(scope="module")
def objects(site: Path) -> dict[str, Any]:
    """The documented classes, functions and data."""
    kinds = names_by_kind(site)
    names = [name for kind in ("class", "exception", "function", "data") for name in kinds.get(kind, ())]
    return {name: pkgutil.resolve_name(name) for name in names}


def names_by_kind(site: Path, domain: str = "py") -> dict[str, set[str]]:
    """Return the names of a domain in objects.inv: four lines, and then a compressed line for each name."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(rf"^(\S+) {domain}:(\w+) ", zlib.decompress(packed).decode(), re.MULTILINE):
        found.setdefault(kind, set()).add(name)
    return found


def modules_with_names() -> list[str]:
    """Return the public modules that list their names; `pywsapp` itself has its list from `pywsapp._public`."""
    found = ["pywsapp"]
    for path in (ROOT / "src" / "pywsapp").rglob("*.py"):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(name.startswith("_") for name in names) and "\n__all__ = " in path.read_text(encoding="utf-8"):
            found.append(".".join(names))
    return sorted(found)


def names_in_programs() -> set[str]:
    """Return what the programs of the pages and the examples import."""
    found = set()
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]:
        for module, names in re.findall(
            r"^ *from (pywsapp[\w.]*) import ([\w, ]+)", path.read_text("utf-8"), re.MULTILINE
        ):
            found |= {f"{module}.{name.strip()}" for name in names.split(",") if not re.search(r"\._", module)}
    return found


def test_every_public_name_is_documented(objects: dict[str, Any]) -> None:
    documented = set(map(id, objects.values()))
    names = names_in_programs()
    for module in modules_with_names():
        names |= {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    missing = {name for name in names if id(pkgutil.resolve_name(name)) not in documented}
    assert missing == {"pywsapp.__version__"}, "add the module to MODULES in scripts/docs.py"


def test_every_public_method_is_documented(documented: set[str], objects: dict[str, Any]) -> None:
    places: dict[type, list[str]] = {}  # the documented one, and the one that defines it
    for name, value in objects.items():
        if inspect.isclass(value):
            places.setdefault(value, []).append(name)
    missing = set()
    for value, names in places.items():
        for member, found in vars(value).items():
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            is_public = not member.startswith("_") and inspect.isroutine(function) and function.__doc__
            if is_public and not {f"{name}.{member}" for name in names} & documented:
                missing.add(f"{names[0]}.{member}")
    assert missing == set()


def test_signatures_show_what_a_program_can_write(texts: dict[Path, str]) -> None:
    signatures = {
        path.stem: [
            " ".join(html.unescape(re.sub(r"<[^>]+>", "", found)).split())
            for found in re.findall(r'<dt class="sig .*?</dt>', text, re.DOTALL)
        ]
        for path, text in texts.items()
        if path.parent.name == "api"
    }
    assert [one for found in signatures.values() for one in found if re.search(r"= ?_|NoReturn", one)] == []
    (app,) = (one for one in signatures["applications-and-routing"] if one.startswith("class App( "))
    assert "http_host: str | Sequence[str] = 'localhost'" in app
    (connect,) = (one for one in signatures["client"] if one.startswith("connect( "))
    assert connect.startswith("connect( url: str, *, headers: ")


# -- the lists of docs/index.md ----------------------------------------------------------------------------------------


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program that builds the site, for a directory with a start page and one how-to guide."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("docs")
    monkeypatch.setattr(module, "DOCS", tmp_path)
    monkeypatch.setattr(module, "INDEX", tmp_path / "index.md")
    (tmp_path / "howto").mkdir()
    (tmp_path / "howto" / "test.md").write_text("# Test a component\n")
    (tmp_path / "index.md").write_text("# Pages\n\n## How-to guides\n\n### Build\n\n- [Test](howto/test.md): a `b`\n")
    return module


def test_a_page_without_a_place_is_named_with_the_line_to_add(docs: Any, tmp_path: Path) -> None:
    pages = dict(docs.index_pages(tmp_path / "source"))
    assert "- [Test](test.md): a `b`\n" in pages["howto/build.md"]
    assert "/howto/build.md" in pages["index.md"]
    (tmp_path / "howto" / "new.md").write_text("# New\n")
    with pytest.raises(docs.Fault) as raised:
        list(docs.index_pages(tmp_path / "source"))
    assert str(raised.value) == (
        "docs/howto/new.md is in no list of docs/index.md, so readers cannot find it: add a line "
        "`- [its title](howto/new.md): what it is for` to the list that it fits; the site makes its sidebar from it"
    )


def test_links_in_code_stay_and_others_fit_the_place_of_the_page(docs: Any, tmp_path: Path) -> None:
    text = "[`a`](howto/test.md#b) `[x](y.md)`\n\n```\n[x](y.md)\n```\n[web](https://example.com) [own](#own)\n"
    moved = docs.move_links(text, tmp_path / "index.md", "project/start.md", tmp_path / "source")
    assert moved == text.replace("howto/test.md", "../howto/test.md")


# -- in Chromium -------------------------------------------------------------------------------------------------------


class HostHandler(http.server.SimpleHTTPRequestHandler):
    """A host of static sites: it answers for missing files with 404.html of its root."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        page = (Path(self.directory) / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """The address of the site as a release publishes it: a directory for each version, and the list of them."""
    root = site.parent
    version = root / pywsapp.__version__
    version.symlink_to(site, target_is_directory=True)
    (root / OTHER_VERSION).mkdir()
    (root / OTHER_VERSION / "index.html").write_text("<title>The other version</title>")
    (root / "versions.json").write_text(json.dumps([pywsapp.__version__, OTHER_VERSION]))
    shutil.copy(site / "404.html", root)
    handler = functools.partial(HostHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{pywsapp.__version__}"
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Any]:
    """Return a function that opens a page of the site; the pages must load nothing from elsewhere and log no error."""
    requests: list[str] = []
    errors: list[str] = []
    contexts = []

    def start(name: str, width: int = 1180, *, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/{name}.html")
        return page

    yield start
    for context in contexts:
        context.close()
    origin = url.rpartition("/")[0]
    assert [request for request in requests if not request.startswith((origin, "data:"))] == []
    assert errors == []


@pytest.mark.parametrize(("width", "dark"), [(1180, False), (360, True)], ids=["desktop", "phone-dark"])
def test_pages_fit_the_window(opened: Any, url: str, pictures: Path, width: int, dark: bool) -> None:
    page = opened("index", width, dark=dark)
    for name in SHOWN:
        page.goto(f"{url}/{name}.html")
        picture = f"site-{name.replace('/', '-')}-{width}{'-dark' if dark else ''}.png"
        page.screenshot(path=pictures / picture)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is too wide: see {picture}"


def test_search_finds_a_page(opened: Any) -> None:
    page = opened("index")
    page.get_by_placeholder("Search").first.fill("presence")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results")).to_contain_text("Show online users")


def test_search_finds_numbers(opened: Any) -> None:
    page = opened("search")
    for words in ("1013", "close 1013"):
        page.get_by_placeholder("Search").first.fill(words)
        page.keyboard.press("Enter")
        expect(page.locator("#search-results")).to_contain_text("Options")


@pytest.mark.parametrize("place", ["howto/show-users", "howto/a/b/show-users", "show-users"])
def test_a_missing_page_leads_to_the_start_page_and_the_search(
    opened: Any, url: str, pictures: Path, place: str
) -> None:
    page = opened(place)
    expect(page.get_by_role("heading")).to_have_text("Page not found")
    page.screenshot(path=pictures / "site-404.png")
    assert page.get_by_role("link").evaluate("it => it.href") == f"{url}/index.html"
    page.get_by_label("Words").fill("users")
    page.get_by_role("button").click()
    expect(page.locator("#search-results")).to_contain_text("Show online users")


def test_the_menu_of_versions_leads_to_another_version(opened: Any) -> None:
    page = opened("howto/route-components")
    menu = page.get_by_label("Version")
    expect(menu).to_have_value(pywsapp.__version__)
    menu.select_option(OTHER_VERSION)
    expect(page).to_have_title("The other version")
