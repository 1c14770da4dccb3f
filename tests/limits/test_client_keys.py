from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pywsapp._limits.client_keys import address_key, user_key


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "local"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_network_counts_as_one_client(address: str, key: str) -> None:
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("user", "key"),
    [
        (None, None),
        ("ana", "ana"),
        (7, "7"),
        ({"sub": "ana", "id": 1}, "ana"),
        ({"id": 1}, "1"),
        (SimpleNamespace(sub=None, id="x"), "x"),
        (SimpleNamespace(id=12), "12"),
    ],
)
def test_a_user_has_a_name(user: Any, key: str | None) -> None:
    assert user_key(user) == key


@pytest.mark.parametrize("user", [{}, object(), {"id": object()}, 1.5])
def test_a_user_without_a_name_is_a_mistake(user: Any) -> None:
    with pytest.raises(TypeError, match="pass a function that returns the name"):
        user_key(user)
