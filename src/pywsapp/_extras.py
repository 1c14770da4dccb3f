"""Libraries that an optional extra installs: what a program reads when one of them is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pywsapp.exceptions import ConfigurationError

#: The distributions whose top-level modules have another name.
_DISTRIBUTIONS = {"google": "protobuf", "python_socks": "python-socks"}


def import_extra(module: str, extra: str) -> Any:
    """Import a module of pywsapp that needs an extra, and return it.

    Args:
        module: the name of the module.
        extra: the extra of pywsapp that installs what it needs.

    Raises:
        ConfigurationError: a library is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(_hint(exc, extra)) from exc


def missing_extra(exc: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """Return the exception for a module that a program imports itself, and whose library is not installed.

    Args:
        exc: the exception of the import of the library.
        extra: as in `import_extra`.
    """
    return ModuleNotFoundError(_hint(exc, extra), name=exc.name)


def _hint(exc: ModuleNotFoundError, extra: str) -> str:
    module = str(exc.name).partition(".")[0]
    library = _DISTRIBUTIONS.get(module, module)
    return f"{library} is not installed: pip install 'pywsapp[{extra}]'"
