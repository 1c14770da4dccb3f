"""Any text is a path pattern or refused; a pattern matches the paths that a simple comparison of parts finds.

No path takes longer than its length says; the watchdog of the fuzzer finds others.
"""

from __future__ import annotations

import re
from typing import Any

from harness import check_text, fuzz, instrumented

with instrumented():
    from pywsapp.exceptions import ConfigurationError
    from pywsapp.routing.path_pattern import PathPattern

PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}", re.ASCII)
FORMS = {
    "int": re.compile(r"-?[0-9]{1,18}"),
    "float": re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?"),
    "uuid": re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"),
}


def parsed(text: str) -> PathPattern | None:
    try:
        return PathPattern(text)
    except ConfigurationError as exc:
        check_text(exc, 20_000)
        return None


def expected(pattern: str, path: str) -> dict[str, str] | None:
    """Return the texts of the parameters by comparing part by part; None if the path does not match."""
    parts, names = pattern.split("/"), path.split("/")
    found: dict[str, str] = {}
    for number, part in enumerate(parts):
        parameter = PARAMETER.search(part)
        if parameter is not None and parameter[2] == "path":
            found[parameter[1]] = "/".join(names[number:])
            return found if len(names) > number else None
        if number >= len(names):
            return None
        if parameter is None:
            if part != names[number]:
                return None
            continue
        before, after = part[: parameter.start()], part[parameter.end() :]
        value = names[number][len(before) : len(names[number]) - len(after)]
        form = FORMS.get(parameter[2] or "str")
        if before + value + after != names[number] or not value or (form and not form.fullmatch(value)):
            return None
        found[parameter[1]] = value
    return found if len(parts) == len(names) else None


def convert(pattern: str, values: dict[str, str]) -> dict[str, Any]:
    types = dict(PARAMETER.findall(pattern))
    return {name: {"int": int, "float": float}.get(types[name], str)(value) for name, value in values.items()}


def check(pattern: PathPattern, path: str) -> None:
    found, values = pattern.match(path), expected(pattern.text, path)
    if values is None:
        assert found is None
    else:
        assert found is not None
        plain = {name: value if isinstance(value, (int, float)) else str(value) for name, value in found.items()}
        wanted = convert(pattern.text, values)
        assert {name: str(value).lower() for name, value in plain.items()} == {
            name: str(value).lower() for name, value in wanted.items()
        }
    begun = pattern.match_prefix(path)
    if begun is not None:
        params, rest = begun
        assert rest == "" or rest[0] == "/"
        assert path.endswith(rest)
        if not pattern.text.endswith(("/", ":path}")):
            assert pattern.match(path.removesuffix(rest)) == params


def one_input(data: bytes) -> None:
    """Run one input: a pattern, a line feed, and a path; each is also tried as the other."""
    text, _, path = data.decode("utf-8", "replace").partition("\n")
    for one, other in ((text, path), (path, text)):
        pattern = parsed(one)
        if pattern is None:
            continue
        assert len(pattern.specificity) == one.count("/")
        for tried in (other, one, one + "/", other * 3):
            check(pattern, tried)


def seeds() -> list[bytes]:
    pairs = [
        ("/rooms/{name}", "/rooms/42"),
        ("/v{version:int}/users/{id:uuid}", "/v1/users/12345678-1234-1234-1234-123456789abc"),
        ("/a{x:float}b", "/a-1.50b"),
        ("/files/{rest:path}", "/files/a/b/c"),
        ("/", "/"),
        ("/a/", "/a"),
        ("/{a}/{b}-x/{c:int}", "/1/2-x/000000000000000000"),
        ("/aaa{x}aaa", "/" + "a" * 60),
        ("/{x:int}", "/\N{ARABIC-INDIC DIGIT FIVE}"),
        ("/.*+?()[]^$|\\", "/.*+?()[]^$|\\"),
        ("/{a}{b}", "/{}"),
        ("/{a:path}/b", "/{a"),
        ("/{a:nothing}", "/{1}"),
        ("/x?y", "/x#y"),
        ("/{x}", "/\r\n\0"),
    ]
    return [f"{pattern}\n{path}".encode() for pattern, path in pairs]


if __name__ == "__main__":
    fuzz(one_input, seeds())
