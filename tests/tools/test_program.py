"""`Program` of the tests reads the output up to its end, which can come after that of the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.program import Program

CHILD = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("more", flush=True)
time.sleep(0.3)
print("the last line")
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}, {file!r}])
os._exit(0)
"""


def test_output_that_follows_the_end_of_the_process(tmp_path: Path) -> None:
    file = tmp_path / "go on"
    with Program(PARENT.format(child=CHILD, file=str(file))) as program:
        program.process.wait()
        file.touch()
        program.until("the last line")


def test_output_that_never_comes_fails_at_the_end() -> None:
    with Program("print('hello')") as program:
        with pytest.raises(AssertionError, match=r"did not write 'bye' but:\nhello"):
            program.until("bye")
        assert program.end() == 0
