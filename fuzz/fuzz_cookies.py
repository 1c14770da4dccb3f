"""Any Cookie field is read as RFC 6265 says, and a cookie that is set is read again as the same.

A value that would end the Set-Cookie field, or add an attribute to it, is refused.
"""

from __future__ import annotations

from harness import fuzz, instrumented

with instrumented():
    from pywsapp.exceptions import ConfigurationError
    from pywsapp.http import Request
    from pywsapp.sessions.cookies import MAX_COOKIE_BYTES, SessionCookie

COOKIE = SessionCookie()
SCOPED = SessionCookie(name="s", path="/app", domain="example.com", same_site="strict", http_only=False)


def unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value.startswith('"') and value.endswith('"') else value


def check_read(fields: list[str]) -> None:
    """Check that each cookie is the first one of its name."""
    cookies = Request(headers=[("Cookie", field) for field in fields]).cookies
    pairs = [pair.strip(" \t") for field in fields for pair in field.split(";")]
    for name, value in cookies.items():
        assert not set(name) & set(";=")
        assert name == name.lstrip(" \t")
        assert ";" not in value
        sent = [pair[len(name) + 1 :] for pair in pairs if pair.startswith(f"{name}=")]
        assert unquoted(sent[0]) == value
    assert len(cookies) <= len(pairs)
    again = "; ".join(f'{name}="{value}"' for name, value in cookies.items())
    assert Request(headers=[("Cookie", again)]).cookies == cookies


def check_set(value: str) -> None:
    for cookie in (COOKIE, SCOPED):
        for is_secure in (False, True):
            try:
                field = cookie.set_field(value, 60, is_secure=is_secure)
            except ValueError:
                continue
            name = cookie.name_for(is_secure=is_secure)
            plain = cookie.set_field("x", 60, is_secure=is_secure)
            assert field == plain.replace(f"{name}=x;", f"{name}={value};", 1)
            assert field.count(";") == plain.count(";")
            assert field.isascii()
            assert field.isprintable()
            scheme = "https" if is_secure else "http"
            sent = Request(scheme=scheme, headers=[("Cookie", f"a=b; {field.partition(';')[0]}")])
            assert (cookie.read(sent) or "") == (value if len(value) <= MAX_COOKIE_BYTES else "")


def check_attributes(text: str) -> None:
    """Check that names, paths and domains are refused, or add nothing to the field."""
    plain = SCOPED.set_field("x", None, is_secure=True)
    for arguments in ({"name": text}, {"path": text}, {"domain": text}):
        try:
            cookie = SessionCookie(**{"name": "s", "path": "/app", "domain": "example.com", **arguments})  # type: ignore[arg-type]
        except ConfigurationError:
            continue
        field = cookie.set_field("x", None, is_secure=True)
        assert field.count(";") == plain.count(";") + 1  # HttpOnly
        assert field.isascii()
        assert field.isprintable()


def one_input(data: bytes) -> None:
    """Run one input: Cookie fields, separated by line feeds; the same text is the value of a cookie."""
    text = data.decode("latin-1")
    check_read(text.split("\n"))
    check_set(text)
    check_attributes(text)


def seeds() -> list[bytes]:
    return [
        b"a=b; c=d",
        b'session="quoted"; a="',
        b"__Host-session=x; session=y",
        b"a=1; a=2\na=3",
        b"=; ==; a==b=; ;",
        b"a",
        b" \t a\t=\tb \t",
        b'a=""; b="""; c="',
        b"x" * 4097,
        b"x; Secure",
        b"x\r\nSet-Cookie: y",
        b"/app; Domain=evil.example",
        b"a,b",
        b"\xff\xfe=\xe9",
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
