"""The test kit: what is useful for testing what was built with, or for, pywsapp."""

from pywsapp.testing.broker import BROKER_CHECKS, check_broker

__all__ = ("BROKER_CHECKS", "check_broker")
