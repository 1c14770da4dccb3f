"""Tools to test what was built with pywsapp, or for it.

`check_broker` checks a broker of your own against every rule that pywsapp relies on. `BROKER_CHECKS` has the same
checks one by one, for a test each.
"""

from pywsapp.testing.broker import BROKER_CHECKS, check_broker

__all__ = ("BROKER_CHECKS", "check_broker")
