"""A refusal by a limit."""

from __future__ import annotations

from pywsapp.exceptions import Refuse


class OverLimit(Refuse):
    """A refusal by a limit of the server; a `LimitReport` logs it, so that a flood of clients cannot flood the log."""
