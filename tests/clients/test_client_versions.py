"""The client libraries of brokers have upper bounds, because our brokers use parts of them that are not public."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.once
@pytest.mark.parametrize("extra", ["redis", "rabbitmq", "nats"])
def test_the_library_of_a_broker_has_an_upper_bound(extra: str) -> None:
    found = re.search(rf'^{extra} = \["([^"]*)"', PYPROJECT, re.MULTILINE)
    assert found is not None
    requirement = Requirement(found[1])
    assert "<" in {specifier.operator for specifier in requirement.specifier}
    assert requirement.specifier.contains(version(requirement.name)), "the tests run with a version in the bounds"
