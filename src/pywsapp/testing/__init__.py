"""Tools to test what was built with pywsapp, or for it.

`check_broker` checks a broker of your own against every rule that pywsapp relies on, and `check_session_store` a store
of sessions. `BROKER_CHECKS` and `SESSION_STORE_CHECKS` have the same checks one by one, for a test each.
"""

from pywsapp.testing.broker import BROKER_CHECKS, check_broker
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, check_session_store

__all__ = ("BROKER_CHECKS", "SESSION_STORE_CHECKS", "check_broker", "check_session_store")
