"""The oldest connection of a user is closed, in whichever process it is: the messages, and a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pywsapp import Request, TooMany
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._limits.key_counts import KeyCounts
from pywsapp._server.admission import Admission, Counting
from pywsapp._server.proxies import Proxies
from pywsapp._server.server import make_reports
from pywsapp._server.user_limit import MAX_TIMES


class SharedCounts(KeyCounts):
    """The counts of one process, which sees those of the others."""

    def __init__(self, everything: list[SharedCounts]) -> None:
        super().__init__()
        self._everything = everything
        everything.append(self)

    def total(self, key: str) -> int:
        return sum(counts._numbers.get(key, 0) for counts in self._everything)


class Network:
    """Carries the messages between processes when a test says so, in the order of each sender."""

    def __init__(self) -> None:
        self.counts: list[SharedCounts] = []
        self.processes: list[Process] = []
        self.waiting: deque[tuple[Process, list[str]]] = deque()
        self.sent: list[str] = []

    def deliver(self, times: int | None = None) -> None:
        while self.waiting and times != 0:
            receiver, words = self.waiting.popleft()
            receiver.receive(words)
            times = None if times is None else times - 1


class Conn:
    """A connection that records its close."""

    is_open = True

    def __init__(self, request: Request) -> None:
        self.request = request
        self.code: int | None = None

    def close(self, code: int, reason: str) -> None:
        self.code, self.is_open = int(code), False


class Process:
    """A process with its admission; it is the `Peers` of it."""

    receive: Callable[[Sequence[str]], None]

    def __init__(self, network: Network, limit: int) -> None:
        self.name = str(len(network.processes))
        self._network = network
        network.processes.append(self)
        counting = Counting(
            users=SharedCounts(network.counts), peers=self, user_key=lambda request: request.query_string or None
        )
        limits = ConnectionLimits(max_connections_per_user=limit, on_too_many=TooMany.CLOSE_OLDEST)
        self.admission = Admission(limits, counting, Proxies(), make_reports())

    def send(self, *words: object) -> None:
        texts = [str(word) for word in words]
        self._network.sent.append(texts[0])
        self._network.waiting += [(one, texts) for one in self._network.processes if one is not self]

    def token(self, key: str) -> str:
        return f"token-{key}"

    def open(self, user: str) -> Conn:
        request = Request(query_string=user)
        place: Any = self.admission.admit(request)
        place.conn = conn = Conn(request)
        return conn


def processes(count: int, limit: int) -> tuple[Network, list[Process]]:
    network = Network()
    return network, [Process(network, limit) for _ in range(count)]


def test_the_oldest_connection_is_closed_in_another_process() -> None:
    network, (first, second, third) = processes(3, limit=2)
    oldest, middle = first.open("ana"), second.open("ana")
    first.open("ben")
    network.deliver()
    assert network.sent == [], "below the limit nothing is asked"
    newest = third.open("ana")
    network.deliver()
    assert [conn.code for conn in (oldest, middle, newest)] == [1008, None, None]
    assert first.admission.reports["max_connections_per_user"].count == 1
    again = third.open("ana")
    network.deliver()
    assert [conn.code for conn in (middle, newest, again)] == [1008, None, None]


def test_a_process_that_asks_closes_its_own_if_they_are_the_oldest() -> None:
    network, (first, second) = processes(2, limit=2)
    oldest = first.open("ana")
    others = [second.open("ana"), first.open("ana")]
    network.deliver()
    assert oldest.code == 1008
    assert [conn.code for conn in others] == [None, None]
    assert "close" not in network.sent


def test_many_connections_above_the_limit_are_closed_by_and_by() -> None:
    """As after a deploy with a lower limit, or when messages were lost."""
    network, (first, second) = processes(2, limit=40)
    old = [first.open("ana") for _ in range(40)]
    for _ in range(40):
        second.open("ana")
        network.deliver()
    assert all(conn.code == 1008 for conn in old)
    assert len(network.sent) == 3 * 40
    network, (first, second) = processes(2, limit=40)
    old = [first.open("ana") for _ in range(40)]
    new = [second.open("ana") for _ in range(40)]
    network.waiting.clear()  # all messages are lost
    new.append(second.open("ana"))  # and closes the oldest of its own process, which is above the limit by itself
    network.deliver()
    assert sum(conn.code == 1008 for conn in old) == MAX_TIMES
    assert [conn.code for conn in new] == [1008] + [None] * 40


def test_a_user_that_changes_closes_the_oldest_of_the_new_one() -> None:
    network, (first, second) = processes(2, limit=1)
    ana, ben = first.open("ana"), second.open("ben")
    ben.request.query_string = "ana"
    second.admission.user_changed(ben)  # type: ignore[arg-type]
    network.deliver()
    assert (ana.code, ben.code) == (1008, None)
    first.open("ben")
    network.deliver()
    assert (ben.code, len(second.admission.counting.users)) == (None, 1)


class Machine(RuleBasedStateMachine):
    """Three processes whose messages arrive at any time; afterwards the newest connections are open."""

    limit = 2

    @initialize()
    def begin(self) -> None:
        self.network, self.processes = processes(3, self.limit)
        self.open: list[tuple[Process, Conn]] = []

    @rule(number=st.integers(0, 2), user=st.sampled_from("ab"))
    def connect(self, number: int, user: str) -> None:
        process = self.processes[number]
        self.open.append((process, process.open(user)))

    @rule(number=st.integers(0, 2), user=st.sampled_from("ab"))
    def change_user(self, number: int, user: str) -> None:
        """Change a user while no message is on its way, as for `end`: the connection ends for the old user."""
        self.network.deliver()
        self.drop_closed()
        for place, (process, conn) in enumerate(self.open):
            if process is self.processes[number] and conn.is_open and conn.request.query_string != user:
                conn.request.query_string = user
                process.admission.user_changed(conn)  # type: ignore[arg-type]
                self.open.append(self.open.pop(place))
                return

    @rule(times=st.integers(1, 3))
    def deliver_some(self, times: int) -> None:
        self.network.deliver(times)

    @rule()
    def deliver_all_and_check(self) -> None:
        self.network.deliver()
        for user in "ab":
            own = [conn for _, conn in self.open if conn.request.query_string == user]
            assert [conn.is_open for conn in own] == [place >= len(own) - self.limit for place in range(len(own))]
            assert self.network.counts[0].total(user) == min(len(own), self.limit)
        self.drop_closed()

    @rule(number=st.integers(0, 10))
    def end(self, number: int) -> None:
        """End a connection while no message is on its way, so that the model knows which ones are closed."""
        self.network.deliver()
        self.drop_closed()
        if self.open:
            process, conn = self.open.pop(number % len(self.open))
            process.admission.release(conn.request)

    def drop_closed(self) -> None:
        for process, conn in self.open:
            if not conn.is_open:
                process.admission.release(conn.request)
        self.open = [(process, conn) for process, conn in self.open if conn.is_open]

    @invariant()
    def newest_are_open(self) -> None:
        """At no time is a connection closed that is among the newest ones of its user."""
        if hasattr(self, "open"):
            for user in "ab":
                own = [conn for _, conn in self.open if conn.request.query_string == user]
                assert all(conn.is_open for conn in own[-self.limit :])


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30)
