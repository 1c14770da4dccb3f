"""Tools to test what was built with pywsapp, or for it.

`check_broker` checks a broker of your own against every rule that pywsapp relies on, `check_session_store` a store of
sessions, `check_ticket_store` a store of tickets, and `check_codec` a codec. `BROKER_CHECKS`, `SESSION_STORE_CHECKS`,
`TICKET_STORE_CHECKS` and `CODEC_CHECKS` have the same checks one by one, for a test each.
"""

from pywsapp.testing.broker import BROKER_CHECKS, check_broker
from pywsapp.testing.codecs import CODEC_CHECKS, check_codec
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, check_session_store
from pywsapp.testing.tickets import TICKET_STORE_CHECKS, check_ticket_store

__all__ = (
    "BROKER_CHECKS",
    "CODEC_CHECKS",
    "SESSION_STORE_CHECKS",
    "TICKET_STORE_CHECKS",
    "check_broker",
    "check_codec",
    "check_session_store",
    "check_ticket_store",
)
