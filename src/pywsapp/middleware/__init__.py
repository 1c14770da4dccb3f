"""Middleware: components around components."""

from pywsapp.middleware.base import ComponentMiddleware, HandshakeMiddleware
from pywsapp.middleware.ip_filter import IpBlackList, IpFilter
from pywsapp.middleware.origin import OriginCheck

__all__ = ("ComponentMiddleware", "HandshakeMiddleware", "IpBlackList", "IpFilter", "OriginCheck")
