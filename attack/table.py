"""All attacks."""

from __future__ import annotations

from attack import bodies, bombs, floods, garbage, handlers, handshakes, heads, proxies, slow

_MODULES = (floods, bombs, slow, handlers, heads, bodies, proxies, garbage, handshakes)
#: All attacks by name.
ATTACKS = {attack.name: attack for module in _MODULES for attack in module.ATTACKS}
