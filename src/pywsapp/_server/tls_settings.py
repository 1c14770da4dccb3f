"""The TLS of a listening socket as a program writes it: files, and what clients must show."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field

from pywsapp._server.tls import FilePath, Password
from pywsapp.exceptions import ConfigurationError


@dataclass(frozen=True)
class Tls:
    """The certificate files of a listening socket; the App reads them again when they change.

    Args:
        certificate: PEM file with the certificate, followed by its chain.
        key: PEM file with the private key; by default the certificate's file.
        password: the password of an encrypted key, or a function that returns it. The function is called in a thread,
            each time that the files are read.

    Raises:
        ConfigurationError: an argument is not valid. The files are read when the App is created.
    """

    certificate: FilePath
    key: FilePath | None = None
    password: Password | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_path("certificate", self.certificate)
        if self.key is not None:
            _check_path("key", self.key)
        if self.password is not None and not (isinstance(self.password, (str, bytes)) or callable(self.password)):
            raise ConfigurationError(
                f"the password of Tls must be text or a function, not {type(self.password).__name__}"
            )

    @property
    def files(self) -> list[FilePath]:
        """The files that are read."""
        return [path for path in (self.certificate, self.key) if path is not None]


#: What `tls` of an App can be.
TlsArgument = Tls | ssl.SSLContext | FilePath | tuple[FilePath, FilePath]


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigurationError(f"{name} of Tls must be the path of a PEM file, not {value!r}")
