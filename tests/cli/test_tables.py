"""Tables for the terminal: columns of characters that are wide, or have no width."""

from __future__ import annotations

import pytest

from pywsapp.cli.tables import cut, table, width_of

pytestmark = pytest.mark.once


def test_columns_are_aligned_by_the_width_of_characters() -> None:
    found = table(["NAME", "OPEN"], [["/a", "1"], ["/\u804a\u5929", "22"], ["/e\u0301", "3"]], numbers=[1])
    assert found == "NAME   OPEN\n/a        1\n/\u804a\u5929    22\n/e\u0301        3\n"
    assert {width_of(line) for line in found.splitlines()} == {11}


@pytest.mark.parametrize(
    ("text", "columns", "found"),
    [("abc", 2, "ab"), ("\u804a\u5929", 3, "\u804a"), ("\u804a\u5929", 4, "\u804a\u5929"), ("e\u0301x", 1, "e\u0301")],
)
def test_a_text_is_cut_at_columns(text: str, columns: int, found: str) -> None:
    assert cut(text, columns) == found
