"""Every test of a transport with a `kind` runs on all kinds."""

from __future__ import annotations

import pytest
from support.transports import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
