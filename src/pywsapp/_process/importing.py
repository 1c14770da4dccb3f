"""The module that the command line imports, which must not run its App meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pywsapp.exceptions import ConfigurationError

_imported_module: str | None = None


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Make `check_not_importing` raise: the command line imports a module, and runs its App afterwards."""
    global _imported_module
    _imported_module = module
    try:
        yield
    finally:
        _imported_module = None


def check_not_importing(call: str) -> None:
    """Check that the command line does not import a module at the moment.

    Args:
        call: what the module calls, such as "app.run()".

    Raises:
        ConfigurationError: it does, so the module would run the App while it is imported.
    """
    if _imported_module is not None:
        raise ConfigurationError(
            f"the module {_imported_module!r} calls {call} while `pywsapp run` imports it; "
            f'put the call under `if __name__ == "__main__":`'
        )
