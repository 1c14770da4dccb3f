"""Middleware: components around components."""

from pywsapp.middleware.base import ComponentMiddleware, HandshakeMiddleware
from pywsapp.middleware.ip_filter import IpBlackList, IpFilter
from pywsapp.middleware.origin import OriginCheck
from pywsapp.middleware.rate_limit import Exceeded, RateLimit
from pywsapp.middleware.session import SessionMiddleware

__all__ = (
    "ComponentMiddleware",
    "Exceeded",
    "HandshakeMiddleware",
    "IpBlackList",
    "IpFilter",
    "OriginCheck",
    "RateLimit",
    "SessionMiddleware",
)
