"""The keys that verify tokens: a set of public keys from a URL or a file (RFC 7517), or a shared secret.

Rules

1. A request is made only to the URL that the program has named, never to one that a token names.
2. Each set is cached by itself: an issuer has one, and a `kid` means a key of that set only.
3. A key is loaded again after `max_age` seconds, and when a token names an unknown `kid`, but at most once in
   `min_interval` seconds, so that invented names cause no requests.
4. While the URL does not answer, the last keys are used for `max_stale` seconds.
5. A set of public keys has no secrets: a symmetric key in it is ignored, so that a public text can never be the secret
   of an HMAC. Keys of fewer than 2048 bits (RSA) and for encryption are ignored too.
"""

from __future__ import annotations

import base64
import http.client
import inspect
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from pywsapp._clocks import monotonic_clock
from pywsapp._extras import missing_extra
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp.exceptions import ConfigurationError, Refuse

try:
    from joserfc import jwk
    from joserfc.errors import JoseError
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "jwt") from exc

logger = logging.getLogger("pywsapp")

#: Bytes of a set of keys, and the keys in it.
MAX_SIZE = 256 * 1024
MAX_KEYS = 100
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RETRY_SECONDS = 5.0
_CHUNK = 16 * 1024
#: Algorithms by the type of the key, and for curves by their names (RFC 7518, RFC 8037, RFC 9864).
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_ALGORITHMS = (*_RSA, "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
#: The fields that are read of a key; a private part, if there is one, is not read.
_PUBLIC_MEMBERS = ("kty", "n", "e", "crv", "x", "y")
_MIN_RSA, _MAX_RSA = 2048, 8192
_MIN_SECRET = 32  # bytes (RFC 7518, section 3.2)

Load = Callable[[], "Mapping[str, Any] | Awaitable[Mapping[str, Any]]"]


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key, and the algorithms that it can be used with."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any = field(repr=False)


class KeySource(Protocol):
    """The keys of one issuer."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that its keys can have."""

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the keys with a name that can verify an algorithm; all of these if the token names none.

        Raises:
            Refuse: 503, the keys cannot be loaded.
        """


class SharedSecret:
    """A secret that the issuer and this server share, for HS256, HS384 and HS512.

    Args:
        secrets: at least 32 bytes, or several that are all accepted, so that a secret can be replaced.

    Raises:
        ConfigurationError: a secret is too short, or it is a public key.
    """

    algorithms = HMAC_ALGORITHMS

    def __init__(self, secrets: str | bytes | Sequence[str | bytes]) -> None:
        given = [secrets] if isinstance(secrets, (str, bytes)) else list(secrets)
        self._keys = [VerifyingKey(None, HMAC_ALGORITHMS, _secret_key(secret)) for secret in given]
        if not self._keys:
            raise ConfigurationError("SharedSecret needs a secret")

    def __repr__(self) -> str:
        return f"SharedSecret({len(self._keys)} secrets)"

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the secrets, if the algorithm is an HMAC; they have no names."""
        return self._keys if algorithm in HMAC_ALGORITHMS else ()


def _secret_key(secret: object) -> Any:
    data = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(data, bytes) or len(data) < _MIN_SECRET:
        raise ConfigurationError(
            f"a shared secret needs at least {_MIN_SECRET} bytes; secrets.token_hex(32) makes a good one"
        )
    if b"-----BEGIN" in data or data.lstrip().startswith((b"{", b"ssh-", b"ecdsa-")):
        raise ConfigurationError("this is a key of another kind and no shared secret: use Jwks for public keys")
    try:
        return jwk.OctKey.import_key(data)
    except (JoseError, ValueError) as exc:
        raise ConfigurationError(f"this cannot be a shared secret: {type(exc).__name__}") from None


class Jwks:
    """A set of public keys that is loaded when it is first needed, and again when it changes.

    Args:
        load: a def or async def that returns the set: `{"keys": [...]}`. `Jwks.from_url` and `Jwks.from_file` are
            usual.
        name: what is loaded, for the log.
        timeout: seconds that loading may take.
        max_age: seconds after which the set is loaded again.
        min_interval: seconds between two attempts to load it because of a name that is not in it.
        max_stale: seconds for which the last keys are used while the set cannot be loaded.
        clock: returns seconds of a monotonic clock.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    algorithms = PUBLIC_ALGORITHMS

    def __init__(
        self,
        load: Load,
        name: str = "the key set",
        *,
        timeout: float = 5,
        max_age: float = 600,
        min_interval: float = 30,
        max_stale: float = 24 * 3600,
        clock: Callable[[], float] = monotonic_clock,
    ) -> None:
        if not callable(load):
            raise ConfigurationError(f"load must be a function that returns the key set, not {type(load).__name__}")
        self._load = load
        self._name = name
        self._timeout = timeout
        self._max_age = max_age
        self._min_interval = min_interval
        self._max_stale = max_stale
        self._clock = clock
        self._keys: list[VerifyingKey] = []
        self._loaded_at: float | None = None
        self._attempted_at: float | None = None
        self._loading: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"Jwks({self._name})"

    @classmethod
    def from_url(cls, url: str, *, tls: ssl.SSLContext | None = None, timeout: float = 5, **options: Any) -> Jwks:
        """Return the keys at an https URL. Redirects are not followed, and proxies are not used.

        Args:
            url: the `jwks_uri` of the issuer. http is for hosts such as localhost only.
            tls: the context; by default, certificates are checked against the system's trust store.
            timeout: seconds that loading may take.
            options: further arguments of `Jwks`.

        Raises:
            ConfigurationError: the URL is not valid.
        """
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.scheme not in ("https", "http"):
            raise ConfigurationError("the URL of a key set looks like https://issuer.example/keys.json")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ConfigurationError("the URL of a key set must be https: whoever can change the keys can make tokens")
        download = _Download(url, tls, timeout)
        return cls(download, f"{parts.scheme}://{parts.netloc}{parts.path}", timeout=timeout, **options)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Jwks:
        """Return the keys in a file, which can change while the server runs.

        Args:
            path: the file.
            options: further arguments of `Jwks`.
        """

        async def load() -> Mapping[str, Any]:
            data = await anyio.to_thread.run_sync(_read_file, Path(path))
            return _parsed(data)

        return cls(load, str(path), **options)

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """Return the keys with a name that can verify an algorithm; all of these if the token names none.

        Raises:
            Refuse: 503, the keys cannot be loaded.
        """
        if self._is_older_than(self._max_age) and not (self._keys and self._loading is not None):
            await self._reload()
        if kid is not None and all(key.kid != kid for key in self._keys):
            await self._reload()
        if self._is_older_than(self._max_stale):
            raise Refuse(503, {"Retry-After": "5"}, "the keys for tokens cannot be loaded")
        return [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]

    def _is_older_than(self, seconds: float) -> bool:
        return self._loaded_at is None or self._clock() - self._loaded_at >= seconds

    async def _reload(self) -> None:
        """Load the keys, unless that was tried just now; wait for another task that loads them."""
        if self._loading is not None:
            await self._loading.wait()
            return
        pause = self._min_interval if self._loaded_at is not None else min(self._min_interval, _RETRY_SECONDS)
        if self._attempted_at is not None and self._clock() - self._attempted_at < pause:
            return
        self._attempted_at = self._clock()
        self._loading = anyio.Event()
        try:
            # Shielded, because a client that leaves must not end the attempt for all others.
            with anyio.CancelScope(shield=True), anyio.fail_after(self._timeout):
                found = self._load()
                loaded = await found if inspect.isawaitable(found) else found
            self._keys = keys_of(loaded)
            self._loaded_at = self._clock()
        except Exception as exc:
            logger.warning(
                "loading the keys of %s failed: %s",
                self._name,
                one_line(_described(exc)),
                extra=log_fields("auth.keys_not_loaded", url=self._name, error=_described(exc)),
            )
        finally:
            self._loading.set()
            self._loading = None


def _described(exc: Exception) -> str:
    return str(exc) if isinstance(exc, _BadKeySet) else f"{type(exc).__name__} {exc}".rstrip()


class _BadKeySet(Exception):
    """The loaded document is no set of keys."""


def keys_of(loaded: object) -> list[VerifyingKey]:
    """Return the usable keys of a set; the others are ignored (RFC 7517, section 5).

    Raises:
        _BadKeySet: it is no set of keys, or has no usable one.
    """
    entries = loaded.get("keys") if isinstance(loaded, Mapping) else None
    if not isinstance(entries, list):
        raise _BadKeySet('it is no key set: {"keys": [...]}')
    if len(entries) > MAX_KEYS:
        raise _BadKeySet(f"it has more than {MAX_KEYS} keys")
    found = [key for entry in entries if (key := _key_of(entry)) is not None]
    if not found:
        raise _BadKeySet("it has no key that can verify signatures")
    return found


def _key_of(entry: object) -> VerifyingKey | None:
    if not isinstance(entry, Mapping) or entry.get("use", "sig") != "sig":
        return None
    operations, kid, only = entry.get("key_ops", ["verify"]), entry.get("kid"), entry.get("alg")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, (str, type(None))):
        return None
    kind, curve = entry.get("kty"), entry.get("crv")
    if kind == "RSA":
        algorithms: tuple[str, ...] = _RSA
    elif (kind == "EC" and curve in ("P-256", "P-384", "P-521")) or (kind == "OKP" and curve == "Ed25519"):
        algorithms = _CURVES[curve]
    else:
        return None
    if kind == "RSA" and not _MIN_RSA <= _bits(entry.get("n")) <= _MAX_RSA:
        return None
    if only is not None:
        algorithms = tuple([name for name in algorithms if name == only])
    try:
        key: Any = jwk.import_key({name: entry[name] for name in _PUBLIC_MEMBERS if name in entry})
        key.get_op_key("verify")
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return VerifyingKey(kid, algorithms, key) if algorithms else None


def _bits(modulus: object) -> int:
    """Return the size of an RSA key; 0 if it is malformed."""
    try:
        data = base64.urlsafe_b64decode(f"{modulus}==") if isinstance(modulus, str) else b""
    except ValueError:
        return 0
    return int.from_bytes(data, "big").bit_length()


# -- loading -----------------------------------------------------------------------------------------------------------


class _Download:
    """Loads a key set from one URL, in a thread."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, timeout: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = tls
        self._timeout = timeout

    async def __call__(self) -> Mapping[str, Any]:
        if self._secure:
            context = self._tls or ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        sockets: list[socket.socket] = []
        try:
            data = await anyio.to_thread.run_sync(self._read, connection, sockets, abandon_on_cancel=True)
        except BaseException:
            for sock in sockets:  # a thread that still reads ends then
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            raise
        return _parsed(data)

    def _read(self, connection: http.client.HTTPConnection, sockets: list[socket.socket]) -> bytes:
        """Read the answer in a thread; `sockets` gets the socket, which the other thread can shut down."""
        with closing(connection):
            connection.connect()
            sockets.append(connection.sock)
            connection.request("GET", self._target, headers={"Accept": "application/json", "Connection": "close"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _BadKeySet(f"the server answered {response.status}")
                data = bytearray()
                while len(data) <= MAX_SIZE and (piece := response.read(_CHUNK)):
                    data += piece
        return bytes(data)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_SIZE + 1)


def _parsed(data: bytes) -> Mapping[str, Any]:
    if len(data) > MAX_SIZE:
        raise _BadKeySet(f"it is larger than {MAX_SIZE} bytes")
    try:
        loaded: Mapping[str, Any] = json.loads(data)  # `keys_of` checks what it is
    except (ValueError, RecursionError):
        raise _BadKeySet("it is not JSON") from None
    return loaded
