"""The performance budgets of pywsapp: ratios to its peers in one session, and one bound on memory."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Results, Spread

WEBSOCKETS = "websockets+uvloop"
PICOWS = "picows+uvloop"
#: Servers with a protocol in Python or Cython. socketify is C++ and granian is Rust, each under a thin layer of Python.
PYTHON_PEERS = (
    PICOWS,
    "picows.websockets+uvloop",
    "aiohttp+uvloop",
    WEBSOCKETS,
    "uvicorn-sansio",
    "uvicorn-websockets",
    "uvicorn-wsproto",
    "hypercorn-uvloop",
    "tornado",
    "tornado+uvloop",
    "autobahn+uvloop",
)


@dataclass(frozen=True)
class Budget:
    """One requirement.

    Args:
        what: its name in the table.
        contestant: the server that must meet it.
        metric: the figure.
        bound: the smallest ratio to the references; without references, the largest figure.
        references: the servers to compare with; of several, the best one in each round counts.
    """

    what: str
    contestant: str
    metric: str
    bound: float
    references: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The name of the references in the table."""
        if not self.references:
            return "an absolute bound"
        return self.references[0] if len(self.references) == 1 else "the best Python peer"

    def measured(self, results: Results) -> Spread | None:
        """Return the ratio or the figure; None if one side was not measured."""
        if self.references:
            return results.ratio(self.contestant, self.references, self.metric)
        return results.spread(self.contestant, self.metric)

    def is_met(self, spread: Spread) -> bool:
        return spread.median >= self.bound if self.references else spread.median <= self.bound


ALL = (
    Budget("echo 16 B", "pywsapp+uvloop", "echo16", 1.1, (PICOWS,)),
    Budget("echo 16 B", "pywsapp+uvloop", "echo16", 3.5, (WEBSOCKETS,)),
    Budget("echo 16 B, 16 in flight", "pywsapp+uvloop", "echo16x16", 3.5, (PICOWS,)),
    Budget("echo 16 B, async def", "pywsapp+uvloop async", "echo16", 0.8, ("pywsapp+uvloop",)),
    Budget("echo 16 B, async def", "pywsapp+uvloop async", "echo16", 1.0, ("picows.websockets+uvloop",)),
    Budget("echo 64 KiB", "pywsapp+uvloop", "echo64k", 1.0, PYTHON_PEERS),
    Budget("echo 1 MiB", "pywsapp+uvloop", "echo1m", 1.0, PYTHON_PEERS),
    Budget("echo 16 B, pure Python", "pywsapp+uvloop pure", "echo16", 2.5, (WEBSOCKETS,)),
    Budget("echo 16 B, asyncio", "pywsapp", "echo16", 2.0, ("websockets",)),
    Budget("echo 16 B, trio", "pywsapp+trio", "echo16", 4.0, ("trio-websocket",)),
    Budget("broadcast to 500", "pywsapp+uvloop", "bcast500", 5.0, (PICOWS,)),
    Budget("broadcast to 500, deflate", "pywsapp+uvloop", "bcast500-deflate", 10.0, (WEBSOCKETS,)),
    Budget("handshakes", "pywsapp+uvloop", "connect", 2.0, (WEBSOCKETS,)),
    Budget("RSS of an idle connection, KiB", "pywsapp+uvloop", "idle2000", 4.0),
)
