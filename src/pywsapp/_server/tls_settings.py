"""The TLS of a listening socket as a program writes it: files, and what clients must show."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Literal

from pywsapp._extras import import_extra
from pywsapp._server.tls import FilePath, Password
from pywsapp.exceptions import ConfigurationError

#: A certificate and its key; without a key, it is in the file of the certificate.
Pair = tuple[FilePath, FilePath | None]
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class Tls:
    """The certificate files of a listening socket; the App reads them again when they change.

    Args:
        certificate: PEM file with the certificate, followed by its chain.
        key: PEM file with the private key; by default the certificate's file.
        password: the password of an encrypted key, or a function that returns it. The function is called in a thread,
            each time that the files are read.
        client_ca: PEM file with the authorities whose certificates clients can show. By default clients are not asked.
        client_certificate: "required" refuses clients without a certificate in the TLS handshake, "optional" does not.
            `client_ca` decides which certificates are valid.
        hosts: further certificates, by the name that a client asks for: a file with the certificate and its key, or a
            pair (certificate, key). The name "*.example.com" stands for every name with one more label. A client that
            asks for another name, or for none, gets `certificate`. They have the same `password`.

    Attributes:
        is_self_signed: whether this is the result of `Tls.self_signed`.

    Raises:
        ConfigurationError: an argument is not valid. The files are read when the App is created.
    """

    certificate: FilePath
    key: FilePath | None = None
    password: Password | None = field(default=None, repr=False)
    _: KW_ONLY
    client_ca: FilePath | None = None
    client_certificate: Literal["required", "optional"] = "required"
    hosts: Mapping[str, FilePath | tuple[FilePath, FilePath]] = field(default_factory=dict, hash=False)

    is_self_signed: bool = field(default=False, init=False)

    @classmethod
    def self_signed(cls) -> Tls:
        """Return the TLS of development: a certificate for localhost, 127.0.0.1 and ::1 that signs itself.

        The certificate is created once and stored in the cache directory of the user, so browsers ask about it once.
        A program that sets `cafile` to the file `certificate` trusts it. Blocks while it reads or writes that file.

        Raises:
            ConfigurationError: the package `cryptography` is missing, or the file cannot be written.
        """
        module = import_extra("pywsapp._server.development_certificate", "dev-tls")
        tls = cls(module.development_certificate())
        object.__setattr__(tls, "is_self_signed", True)
        return tls

    def __post_init__(self) -> None:
        _check_path("certificate", self.certificate)
        if self.key is not None:
            _check_path("key", self.key)
        if self.password is not None and not (isinstance(self.password, (str, bytes)) or callable(self.password)):
            raise ConfigurationError(
                f"the password of Tls must be text or a function, not {type(self.password).__name__}"
            )
        if self.client_ca is not None:
            _check_path("client_ca", self.client_ca)
        if self.client_certificate not in ("required", "optional"):
            raise ConfigurationError(
                f"client_certificate of Tls must be 'required' or 'optional', not {self.client_certificate!r}"
            )
        if self.client_certificate == "optional" and self.client_ca is None:
            raise ConfigurationError("client_certificate of Tls needs client_ca, the authorities of the clients")
        if not isinstance(self.hosts, Mapping):
            raise ConfigurationError(f"hosts of Tls must be a dict, not {type(self.hosts).__name__}")
        if len(pairs_of_hosts(self.hosts)) < len(self.hosts):
            raise ConfigurationError("hosts of Tls has a name twice, written in different ways")
        object.__setattr__(self, "hosts", MappingProxyType(dict(self.hosts)))


#: The types of the argument `tls` of an App.
TlsArgument = Tls | ssl.SSLContext | FilePath | tuple[FilePath, FilePath]


def pairs_of_hosts(hosts: Mapping[str, FilePath | tuple[FilePath, FilePath]]) -> dict[str, Pair]:
    """Return the certificates and keys of `Tls.hosts`, by the names that clients send.

    Raises:
        ConfigurationError: a name is no host name, or has no files.
    """
    return {_host_name(name): _host_files(name, files) for name, files in hosts.items()}


def _host_name(name: object) -> str:
    """Return a name as clients ask for it: in lower case, international names in their ASCII form."""
    try:
        if not isinstance(name, str):
            raise TypeError
        wildcard, rest = ("*.", name[2:]) if name.startswith("*.") else ("", name)
        plain = rest.removesuffix(".").encode("idna").decode().lower()
    except (TypeError, UnicodeError):
        plain = ""
    if not _HOST_NAME.fullmatch(plain):
        raise ConfigurationError(f"a name in hosts of Tls is a host name such as 'a.example.com', not {name!r}")
    return wildcard + plain


def _host_files(name: str, files: object) -> Pair:
    pair = files if isinstance(files, tuple) else (files, None)
    if len(pair) != 2:
        raise ConfigurationError(f"hosts of Tls has a file or (certificate, key) for each name, not {files!r}")
    _check_path(f"the certificate of {name!r} in hosts", pair[0])
    if isinstance(files, tuple):
        _check_path(f"the key of {name!r} in hosts", pair[1])
    return pair


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigurationError(f"{name} of Tls must be the path of a PEM file, not {value!r}")
