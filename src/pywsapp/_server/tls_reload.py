"""Certificates that are read again when their files change, without a restart.

A `ReloadingCertificate` never changes a context that is in use. It creates another one from the files, in a thread, and
puts it in the place of the old one when everything has succeeded:

- Open connections and handshakes keep the context that they began with.
- Files that are written half, or a certificate whose key has not been replaced yet, never reach a client.
- What a context can only add to, such as trusted authorities, can be taken away too.
- Session tickets of the old context are not valid any more, so the next handshake of every client is a full one.

A change can take several steps: the certificate is replaced, then its key. So the first failure after a change is
logged at debug level. If the next look finds the same files and fails again, it logs a warning, once for each change. A
failed reload is tried again at each look, because its reason can lie outside of the files.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from pywsapp._log_fields import log_fields
from pywsapp._server.certificate_dates import days_left, fingerprint
from pywsapp._server.server_names import drop_reports
from pywsapp._server.tls import FilePath, check_server_context, server_context
from pywsapp._server.tls_settings import Pair, Tls, TlsArgument, pairs_of_hosts
from pywsapp.exceptions import ConfigurationError

logger = logging.getLogger("pywsapp")

#: Seconds between two looks at the files.
CHECK_SECONDS = 5.0


class FileVersion(NamedTuple):
    """The values of `stat` that change with a file. Permissions change the `changed` time only."""

    modified: int
    changed: int
    size: int
    device: int
    inode: int


Versions = list[FileVersion | None]
ChooseContext = Callable[[Any, Any, ssl.SSLContext], None]


class ReloadingCertificate:
    """One certificate with its key; reads the files, so creating one blocks.

    Args:
        pair: the files of the certificate and the key.
        settings: the other settings of the listening socket.
        choose: returns the context for the name that a client asks for; None for this one always.

    Attributes:
        context: the context for new connections; another object after each reload.
        pem: the content of the certificate's file.

    Raises:
        ConfigurationError: a file cannot be used.
    """

    def __init__(self, pair: Pair, settings: Tls, choose: ChooseContext | None = None) -> None:
        self._pair = pair
        self._settings = settings
        self._choose = choose
        self._versions = self._look()
        self._failed: Versions | None = None  # the versions of the last failure
        self._is_warned = False
        self.context = self._load()
        self.pem = _content(pair[0])

    def reload(self, *, at_once: bool = False) -> None:
        """Load the files if they have changed; blocks, and is called in a thread.

        Args:
            at_once: load them if they have not changed too, and log the first failure as a warning.
        """
        versions = self._look()
        if versions == self._versions and not at_once:
            return
        try:
            self.context = self._load()
        except Exception as exc:  # the function for the password can raise any exception
            self._note_failure(exc, versions, at_once=at_once)
            return
        self._versions, self._failed, self._is_warned = versions, None, False
        self.pem = _content(self._pair[0])
        logger.info(
            "reloaded the TLS certificate %r; %s",
            os.fspath(self._pair[0]),
            _valid_for(self.pem),
            extra=log_fields("tls.reloaded", file=os.fspath(self._pair[0])),
        )

    def _note_failure(self, exc: Exception, versions: Versions, *, at_once: bool) -> None:
        if versions != self._failed:
            self._is_warned = False
        is_settled = versions == self._failed or at_once
        self._failed = versions
        if is_settled and not self._is_warned:
            self._is_warned = True
            reason = exc if isinstance(exc, ConfigurationError) else repr(exc)
            logger.warning(
                "reloading a TLS certificate failed: %s; the old one stays in use; %s",
                reason,
                _valid_for(self.pem),
                extra=log_fields("tls.reload_failed", file=os.fspath(self._pair[0]), error=str(reason)),
            )
        else:
            logger.debug(
                "reloading a TLS certificate failed, trying again: %r",
                exc,
                extra=log_fields("tls.reload_failed", file=os.fspath(self._pair[0]), error=repr(exc)),
            )

    def _load(self) -> ssl.SSLContext:
        settings = self._settings
        context = server_context(
            *self._pair,
            settings.password,
            settings.client_ca,
            needs_client_certificate=settings.client_certificate == "required",
        )
        if self._choose is not None:
            context.sni_callback = self._choose
        return context

    def _look(self) -> Versions:
        return [_version(path) for path in (*self._pair, self._settings.client_ca) if path is not None]


class ReloadingTls:
    """The TLS of a listening socket, from files; reads the files, so creating one blocks.

    Args:
        settings: the files.

    Raises:
        ConfigurationError: a file cannot be used.
    """

    def __init__(self, settings: Tls) -> None:
        self.settings = settings
        pair = (settings.certificate, settings.key)
        self._default = ReloadingCertificate(pair, settings, self._choose if settings.hosts else None)
        hosts = pairs_of_hosts(settings.hosts)
        if hosts:
            drop_reports()
        self._hosts = {name: ReloadingCertificate(pair, settings) for name, pair in hosts.items()}

    def __repr__(self) -> str:
        return f"ReloadingTls({self.settings!r})"

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        return self._default.context

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint of the certificate."""
        return fingerprint(self._default.pem)

    def reload(self, *, at_once: bool = False) -> None:
        """Reload each certificate on its own, see `ReloadingCertificate.reload`; blocks."""
        for certificate in (self._default, *self._hosts.values()):
            certificate.reload(at_once=at_once)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """Select the certificate for the name that a client asks for (RFC 6066, section 3)."""
        if name:
            name = name.lower()
            found = self._hosts.get(name) or self._hosts.get("*." + name.partition(".")[2])
            if found is not None:
                connection.context = found.context


ServerTls = ReloadingTls | ssl.SSLContext


class CertificateWatch:
    """Reloads the certificates of a server when their files change.

    Args:
        found: the TLS of each listening socket; contexts of the program are left alone.
    """

    def __init__(self, found: Sequence[ServerTls | None]) -> None:
        self._reloading = [tls for tls in found if isinstance(tls, ReloadingTls)]
        self._requested = anyio.Event()
        self._thread = anyio.CapacityLimiter(1)  # the handlers of the program can keep all other threads busy

    def __bool__(self) -> bool:
        return bool(self._reloading)

    def reload_now(self) -> None:
        """Reload all certificates at once, in a thread; does not block."""
        self._requested.set()

    async def run(self) -> None:
        """Look at the files every few seconds, until cancelled."""
        while True:
            with anyio.move_on_after(CHECK_SECONDS):
                await self._requested.wait()
            at_once = self._requested.is_set()
            if at_once:
                self._requested = anyio.Event()
            await anyio.to_thread.run_sync(self._reload, at_once, abandon_on_cancel=True, limiter=self._thread)

    def _reload(self, at_once: bool) -> None:
        for tls in self._reloading:
            tls.reload(at_once=at_once)


def as_server_tls(tls: TlsArgument) -> ServerTls:
    """Return an SSLContext unchanged, or the TLS of `Tls`, a file or a pair (certificate, key).

    Raises:
        ConfigurationError: a file is wrong, or the value is none of these, or the context is a client's.
    """
    if isinstance(tls, ssl.SSLContext):
        check_server_context(tls)
        return tls
    if isinstance(tls, Tls):
        return ReloadingTls(tls)
    if isinstance(tls, (str, os.PathLike)):
        if tls == "self-signed" and not os.path.exists(tls):
            raise ConfigurationError(
                "there is no file 'self-signed'; a certificate for development is Tls.self_signed()"
            )
        return ReloadingTls(Tls(tls))
    if isinstance(tls, tuple) and len(tls) == 2:
        return ReloadingTls(Tls(*tls))
    raise ConfigurationError(
        f"tls must be a Tls, an SSLContext, a PEM file or (certificate file, key file), not {type(tls).__name__}"
    )


def reloads_on_request(found: Iterable[ServerTls | None]) -> bool:
    """Return whether SIGHUP reloads certificates; a server for development must end when its terminal is closed."""
    return any(isinstance(tls, ReloadingTls) and not tls.settings.is_self_signed for tls in found)


def context_of(tls: ServerTls) -> ssl.SSLContext:
    """Return the context for a new connection."""
    return tls.context if isinstance(tls, ReloadingTls) else tls


def _version(path: FilePath) -> FileVersion | None:
    """Return the version of a file; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileVersion(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino)


def _content(path: FilePath) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _valid_for(pem: bytes) -> str:
    days = days_left(pem)
    if days is None:
        return "its end is not known"
    return f"it is valid for {days:.0f} days" if days >= 0 else f"it ended {-days:.0f} days ago"
