"""The cookie of a session: its name, its attributes, and the Set-Cookie field (RFC 6265)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request

#: Bytes of a Set-Cookie field that every browser accepts (RFC 6265 section 6.1).
MAX_COOKIE_BYTES = 4096
#: With this prefix a browser accepts the cookie only over TLS, for the path / and without a domain (RFC 6265bis). So
#: another host of the same domain cannot set it.
_HOST_PREFIX = "__Host-"
_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}
_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")
_ATTRIBUTE = re.compile(r"[ -:<-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCookie:
    """How a session cookie is named and set.

    Args:
        name: the name. Over TLS it gets the prefix `__Host-`, if `path` and `domain` have their defaults.
        path: the paths that the browser sends it to.
        domain: the domain that it is sent to, with all hosts below it; None for the host that sets it.
        same_site: "lax", "strict" or "none": whether requests from pages of other sites have it.
        secure: whether the browser sends it over TLS only. None for yes if the request came over TLS.
        http_only: whether scripts of pages cannot read it.
        host_prefix: whether the name gets the prefix; False for a cookie that another program reads.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    name: str = "session"
    path: str = "/"
    domain: str | None = None
    same_site: str = "lax"
    secure: bool | None = None
    http_only: bool = True
    host_prefix: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"{self.name!r} cannot be the name of a cookie")
        if not self.path.startswith("/") or not _ATTRIBUTE.fullmatch(self.path):
            raise ConfigurationError(f"{self.path!r} cannot be the path of a cookie: write '/' or '/app'")
        if self.domain is not None and not _ATTRIBUTE.fullmatch(self.domain):
            raise ConfigurationError(f"{self.domain!r} cannot be the domain of a cookie")
        if self.same_site not in _SAME_SITE:
            raise ConfigurationError(f"same_site is 'lax', 'strict' or 'none', not {self.same_site!r}")
        if self.same_site == "none" and self.secure is False:
            raise ConfigurationError("browsers accept same_site='none' with secure=True only")

    def name_for(self, *, is_secure: bool) -> str:
        """Return the name of the cookie.

        Args:
            is_secure: whether the request came over TLS.
        """
        if not self.host_prefix or self.path != "/" or self.domain is not None or not self._is_secure(is_secure):
            return self.name
        return _HOST_PREFIX + self.name

    def read(self, request: Request) -> str | None:
        """Return the value of the cookie in a request; None if it is missing, or larger than a cookie can be."""
        value = request.cookies.get(self.name_for(is_secure=request.scheme == "https"))
        return value if value and len(value) <= MAX_COOKIE_BYTES else None

    def set_field(self, value: str, seconds: int | None, *, is_secure: bool) -> str:
        """Return the value of a Set-Cookie field.

        Args:
            value: the value of the cookie.
            seconds: how long the browser keeps it; 0 deletes it, None keeps it until the browser ends.
            is_secure: whether the request came over TLS.

        Raises:
            ValueError: the value has characters that a cookie cannot have.
        """
        if not _VALUE.fullmatch(value):
            raise ValueError("the value has characters that a cookie cannot have")
        parts = [f"{self.name_for(is_secure=is_secure)}={value}", f"Path={self.path}"]
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if seconds is not None:
            parts.append(f"Max-Age={seconds}")
        if self.http_only:
            parts.append("HttpOnly")
        if self._is_secure(is_secure):
            parts.append("Secure")
        parts.append(f"SameSite={_SAME_SITE[self.same_site]}")
        return "; ".join(parts)

    def _is_secure(self, is_secure: bool) -> bool:
        return is_secure if self.secure is None else self.secure
