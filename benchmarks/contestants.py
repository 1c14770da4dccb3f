"""The servers that are measured: the script, environment and features of each."""

from __future__ import annotations

from dataclasses import dataclass, field

PYWSAPP = "pywsapp"  # the environment that this checkout is installed in
PEERS = "peers"
NODE = "node"
_APP = ("--application", "pywsapp")
_ASYNCIO = ("--loop", "asyncio")


@dataclass(frozen=True)
class Contestant:
    """One server: a script in peers/ with its options.

    Args:
        name: its name in the tables.
        script: the file in peers/.
        options: the options of the script; several contestants can share a script.
        kind: the environment that it runs in.
        variables: additional environment variables.
        tls: whether the script has the option --tls.
        only: the scenarios that it supports; empty for all.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()
    kind: str = PEERS
    variables: dict[str, str] = field(default_factory=dict)
    tls: bool = False
    only: tuple[str, ...] = ()

    def supports(self, scenario: str, instance: str) -> bool:
        """Return whether it supports a scenario, in the state `instance` of `scenarios.py`."""
        return (not self.only or scenario in self.only) and (self.tls or instance != "tls")


def _pywsapp(name: str, *options: str, pure: bool = False) -> Contestant:
    variables = {"PYWSAPP_PURE": "1"} if pure else {}
    return Contestant(name, "pywsapp_server.py", options, PYWSAPP, variables, tls=True)


def _minimal(name: str, *options: str) -> Contestant:
    # It supports frames of less than 126 bytes only.
    only = ("echo16", "echo16x16", "rate5k", "connect", "idle2000")
    return Contestant(name, "minimal_server.py", options, PYWSAPP, only=only)


def _hosted(name: str, script: str, *options: str, tls: bool = False) -> Contestant:
    """Return an App on an ASGI server, or another ASGI application on uvicorn with the protocol of pywsapp."""
    return Contestant(name, script, options, PYWSAPP, tls=tls)


def _peer(name: str, script: str, *options: str, tls: bool = False) -> Contestant:
    return Contestant(name, script, options, tls=tls)


ALL = (
    _pywsapp("pywsapp+uvloop", "--loop", "uvloop"),
    _pywsapp("pywsapp+uvloop async", "--loop", "uvloop", "--handler", "async"),
    _pywsapp("pywsapp+uvloop pure", "--loop", "uvloop", pure=True),
    _pywsapp("pywsapp", "--loop", "asyncio"),
    _pywsapp("pywsapp pure", "--loop", "asyncio", pure=True),
    _pywsapp("pywsapp+trio", "--loop", "trio"),
    _peer("websockets", "websockets_server.py", tls=True),
    _peer("websockets+uvloop", "websockets_server.py", "--uvloop", tls=True),
    _peer("picows", "picows_server.py", tls=True),
    _peer("picows+uvloop", "picows_server.py", "--uvloop", tls=True),
    _peer("picows.websockets", "picows_compat_server.py"),
    _peer("picows.websockets+uvloop", "picows_compat_server.py", "--uvloop"),
    _peer("aiohttp", "aiohttp_server.py", tls=True),
    _peer("aiohttp+uvloop", "aiohttp_server.py", "--uvloop", tls=True),
    _peer("uvicorn-sansio", "uvicorn_server.py", "--ws", "websockets-sansio", tls=True),
    _peer("uvicorn-websockets", "uvicorn_server.py", "--ws", "websockets", tls=True),
    _peer("uvicorn-wsproto", "uvicorn_server.py", "--ws", "wsproto", tls=True),
    _peer("uvicorn-sansio-asyncio", "uvicorn_server.py", "--ws", "websockets-sansio", "--loop", "asyncio", tls=True),
    _peer("uvicorn-wsproto-asyncio", "uvicorn_server.py", "--ws", "wsproto", "--loop", "asyncio", tls=True),
    _hosted("uvicorn-pywsapp", "uvicorn_server.py", "--ws", "pywsapp", tls=True),
    _hosted("uvicorn-pywsapp-asyncio", "uvicorn_server.py", "--ws", "pywsapp", *_ASYNCIO, tls=True),
    _hosted("app on uvicorn-pywsapp", "uvicorn_server.py", "--ws", "pywsapp", *_APP, tls=True),
    _hosted("app on uvicorn-pywsapp-asyncio", "uvicorn_server.py", "--ws", "pywsapp", *_ASYNCIO, *_APP, tls=True),
    *(
        _hosted(f"app in {framework}", "uvicorn_server.py", "--ws", "pywsapp", "--application", framework)
        for framework in ("fastapi", "litestar", "django")
    ),
    _hosted("app on uvicorn-sansio", "uvicorn_server.py", "--ws", "websockets-sansio", *_APP, tls=True),
    _hosted("app on hypercorn", "hypercorn_server.py", "--worker", "uvloop", *_APP),
    _hosted("app on hypercorn-trio", "hypercorn_server.py", "--worker", "trio", *_APP),
    _hosted("app on granian", "granian_server.py", "--loop", "uvloop", *_APP),
    _hosted("app on daphne", "daphne_server.py"),
    _peer("hypercorn-asyncio", "hypercorn_server.py", "--worker", "asyncio"),
    _peer("hypercorn-uvloop", "hypercorn_server.py", "--worker", "uvloop"),
    _peer("hypercorn-trio", "hypercorn_server.py", "--worker", "trio"),
    _peer("granian", "granian_server.py", "--loop", "uvloop"),
    _peer("granian-asyncio", "granian_server.py", "--loop", "asyncio"),
    _peer("trio-websocket", "trio_websocket_server.py"),
    _peer("tornado", "tornado_server.py"),
    _peer("tornado+uvloop", "tornado_server.py", "--uvloop"),
    _peer("autobahn", "autobahn_server.py", "--backend", "asyncio"),
    _peer("autobahn+uvloop", "autobahn_server.py", "--backend", "uvloop"),
    _peer("autobahn-twisted", "autobahn_server.py", "--backend", "twisted"),
    _peer("socketify", "socketify_server.py"),
    Contestant("ws-node", "ws_node_server.js", kind=NODE),
    _peer("naive-asyncio", "naive_wsproto_anyio.py", "--backend", "asyncio"),
    _peer("naive-uvloop", "naive_wsproto_anyio.py", "--backend", "uvloop"),
    _peer("naive-trio", "naive_wsproto_anyio.py", "--backend", "trio"),
    _minimal("minimal+uvloop", "--loop", "uvloop"),
    _minimal("minimal", "--loop", "asyncio"),
)
BY_NAME = {contestant.name: contestant for contestant in ALL}

QUICK = (
    "pywsapp+uvloop",
    "pywsapp+uvloop async",
    "pywsapp+uvloop pure",
    "websockets+uvloop",
    "picows+uvloop",
    "aiohttp+uvloop",
    "minimal+uvloop",
)
MEDIUM = (
    *QUICK,
    "pywsapp",
    "pywsapp+trio",
    "websockets",
    "picows.websockets+uvloop",
    "uvicorn-sansio",
    "tornado+uvloop",
    "trio-websocket",
    "socketify",
    "ws-node",
)
LONG = tuple(BY_NAME)
