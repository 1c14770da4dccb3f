"""URLs of proxies, and the proxies that the environment names."""

from __future__ import annotations

import os

import pytest

from pywsapp import ConfigurationError, connect
from pywsapp._connecting.proxies import Proxy, choose_proxy, parse_proxy
from pywsapp._connecting.target import parse_url

pytestmark = pytest.mark.once
WS, WSS = parse_url("ws://chat.example/"), parse_url("wss://chat.example/")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy", Proxy("http", "proxy", 80, None, "")),
        ("https://proxy", Proxy("https", "proxy", 443, None, "")),
        ("socks5://proxy/", Proxy("socks5", "proxy", 1080, None, "")),
        ("socks4a://proxy:9", Proxy("socks4a", "proxy", 9, None, "")),
        ("http://[::1]:3128", Proxy("http", "::1", 3128, None, "")),
        ("http://ana:p%40ss%20@proxy", Proxy("http", "proxy", 80, "ana", "p@ss ")),
        ("http://ana@proxy", Proxy("http", "proxy", 80, "ana", "")),
    ],
)
def test_valid_urls(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url) == proxy


@pytest.mark.parametrize(
    "url",
    [
        "proxy:3128",
        "ftp://ana:hunter2@proxy",
        "http://",
        "http://ana:hunter2@proxy:99999",
        "http://ana:hunter2@[::1",
        "http://ana:hunter2@proxy/path",
        "http://ana:hunter2@proxy?query",
        "http://ana:hunter2@proxy#part",
        "http://ana:hunter2@proxy\r\nX: y",
        "http://ana:hunter2%0d%0a@proxy",
        "http://a%3ana:hunter2@proxy",
        "socks5://ana:hunter2%C3%BC@proxy",
        f"socks5://ana:hunter2{'x' * 255}@proxy",
        "http://ana:hunter2@pro xy",
        3,
    ],
)
def test_invalid_urls_are_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_proxy(url)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigurationError):
        connect("ws://localhost/", proxy=url)


def test_the_text_of_a_proxy_has_no_credentials() -> None:
    proxy = parse_proxy("http://ana:hunter2@proxy:3128")
    assert (str(proxy), repr(proxy)) == ("http://proxy:3128", "<Proxy http://proxy:3128>")
    assert proxy.authorization == "Basic YW5hOmh1bnRlcjI="
    assert str(parse_proxy("http://[::1]:3128")) == "http://[::1]:3128"


def test_the_environment_counts_only_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://secure:1")
    assert choose_proxy(None, WSS) is None
    assert choose_proxy(False, WSS) is None
    assert choose_proxy(True, WSS) == Proxy("http", "secure", 1, None, "")
    assert choose_proxy("socks5://other", WSS) == Proxy("socks5", "other", 1080, None, "")
    assert choose_proxy(True, WS) is None


def test_the_variables_for_each_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen() -> list[str]:
        return [proxy.host if (proxy := choose_proxy(True, target)) else "-" for target in (WS, WSS)]

    assert chosen() == ["-", "-"]
    for name, expected in [
        ("all_proxy", ["all_proxy", "all_proxy"]),
        ("HTTP_PROXY", ["HTTP_PROXY".lower(), "all_proxy"]),
        ("HTTPS_PROXY", ["http_proxy", "https_proxy"]),
        ("ws_proxy", ["ws_proxy", "https_proxy"]),
        ("wss_proxy", ["ws_proxy", "wss_proxy"]),
    ]:
        monkeypatch.setenv(name, f"http://{name.lower()}:1")
        assert chosen() == expected
    monkeypatch.setenv("REQUEST_METHOD", "GET")  # of CGI, where a client sets HTTP_PROXY by a Proxy field
    monkeypatch.delenv("ws_proxy")
    assert chosen() == ["all_proxy", "wss_proxy"]


@pytest.mark.parametrize("value", ["chat.example", ".example", "*", "foo,chat.example"])
def test_hosts_without_a_proxy(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://secure:1")
    monkeypatch.setenv("no_proxy", value)
    assert choose_proxy(True, WSS) is None
    assert (choose_proxy(True, parse_url("wss://chat.other/")) is None) == (value == "*")


def test_a_value_of_the_environment_without_scheme_or_with_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "secure:3128")
    assert choose_proxy(True, WSS) == Proxy("http", "secure", 3128, None, "")
    monkeypatch.setenv("https_proxy", "http://ana:hunter2@secure:99999")
    with pytest.raises(ConfigurationError, match=r"^the environment variable https_proxy is not a URL$"):
        choose_proxy(True, WSS)


def test_arguments_that_exclude_each_other() -> None:
    for arguments in (
        {"proxy": "http://proxy", "unix_path": "/tmp/socket"},
        {"max_redirects": 1, "unix_path": "/tmp/socket"},
        {"max_redirects": -1},
        {"max_redirects": True},
    ):
        with pytest.raises(ConfigurationError):
            connect("ws://localhost/", **arguments)
