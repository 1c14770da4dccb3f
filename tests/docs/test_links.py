"""Every relative link of every Markdown file leads to a file that exists and, behind the #, to one of its headings."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.once
#: Directories of tools, which are not part of the repository.
OUTSIDE = {".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", ".venvs", "build", "dist"}
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]*`")


def pages() -> list[Path]:
    """Return all Markdown files of the repository."""
    found = (path for path in ROOT.rglob("*.md") if not OUTSIDE & set(path.relative_to(ROOT).parts[:-1]))
    return sorted(path for path in found if "node_modules" not in path.parts)


def text_of(path: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@functools.cache
def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(text_of(path)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(text: str) -> list[str]:
    """Return the targets of all links of a page that stay in the repository."""
    targets = LINK.findall(CODE_SPAN.sub("", text))
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    found = []
    for link in links(text_of(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(text_of(index))}
    missing = sorted(str(path.relative_to(index.parent)) for path in set(index.parent.rglob("*.md")) - listed - {index})
    assert missing == [], "add a line `- [title](path): what it is for` to the list of docs/index.md that the page fits"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_a_page_ends_with_links(page: Path) -> None:
    last = text_of(page).rstrip().rpartition("\n\n")[2]
    assert links(last), f"the last paragraph has no link: {last!r}"


@pytest.mark.parametrize(
    "text",
    [
        "[page](missing.md)",
        "[anchor](page.md#missing)",
        "[own anchor](#missing)",
        "![picture](missing.png)",
        "[two\nlines](missing.md)",
    ],
)
def test_a_broken_link_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Page\n\n## A heading, with `code`\n\n```sh\n# not a heading\n```\n")
    page = tmp_path / "other.md"
    page.write_text(f"# Other\n\n{text}\n")
    assert len(broken(page)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[page](page.md)",
        "[anchor](page.md#a-heading-with-code)",
        "[own](#other)",
        "[web](https://example.com/missing)",
        "`[code](missing.md)`",
        "```\n[code](missing.md)\n```",
    ],
)
def test_a_good_link_passes(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Page\n\n## A heading, with `code`\n")
    page = tmp_path / "other.md"
    page.write_text(f"# Other\n\n{text}\n")
    assert broken(page) == []
