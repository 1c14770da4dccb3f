"""How pytest-xdist distributes the tests over processes: whole files, the slowest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """Assign one file at a time to each process, so that a file's fixtures are made once.

    Args:
        together: the names of files that go to one process, because they share a fixture, and the fixture.
    """

    def __init__(self, config: pytest.Config, log: Any, together: Mapping[str, str]) -> None:
        super().__init__(config, log)
        self._together = together
        config.option.loadscopereorder = False  # tests/conftest.py has the order; xdist's is by the number of tests

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return self._together.get(file.rpartition("/")[2], file)
