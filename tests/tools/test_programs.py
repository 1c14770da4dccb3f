"""`support.program` waits for what a program writes, also for the last line of one that ends at once."""

from __future__ import annotations

import pytest
from support.program import Program

pytestmark = pytest.mark.once


def test_the_last_line_of_a_program_that_has_ended() -> None:
    with Program("print('\\n' * 60_000 + 'the end')") as program:
        program.until("the end")
