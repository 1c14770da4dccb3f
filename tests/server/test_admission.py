"""The limits of connections by address and by user: the rules, and a model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pywsapp import App, ConfigurationError, Request, TooMany
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._limits.over_limit import OverLimit
from pywsapp._server.admission import Admission, Counting
from pywsapp._server.proxies import Proxies
from pywsapp._server.server import make_reports


class User(NamedTuple):
    """A user as a program can make one."""

    id: int


class Conn:
    """A connection that records its close."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.closed: tuple[int, str] | None = None

    def close(self, code: int, reason: str) -> None:
        self.closed = int(code), reason


def user_of(request: Request) -> str | None:
    return request.query_string or None


def made(trusted: tuple[str, ...] = (), **limits: Any) -> Admission:
    counting = Counting(user_key=user_of)
    return Admission(ConnectionLimits(**limits), counting, Proxies(trusted), make_reports())


def opened(admission: Admission, address: str = "", user: str = "") -> Conn:
    """Do a handshake; raises OverLimit if it is refused."""
    request = Request(remote_address=address, query_string=user)
    admission.check(request)
    place: Any = admission.admit(request)
    place.conn = conn = Conn(request)
    return conn


def count_opened(admission: Admission, address: str, times: int) -> int:
    count = 0
    for _ in range(times):
        with suppress(OverLimit):
            opened(admission, address)
            count += 1
    return count


# -- by address --------------------------------------------------------------------------------------------------------


def test_an_address_has_so_many_connections() -> None:
    admission = made(max_connections_per_address=3)
    assert count_opened(admission, "192.0.2.1", 5) == 3
    assert count_opened(admission, "192.0.2.2", 5) == 3
    assert admission.reports["max_connections_per_address"].count == 4


def test_an_address_that_is_refused_uses_up_no_handshakes_of_others() -> None:
    admission = made(max_connections_per_address=1, max_handshakes_per_second=2)
    assert count_opened(admission, "192.0.2.1", 50) == 1
    assert count_opened(admission, "192.0.2.2", 1) == 1


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (["192.0.2.1", "192.0.2.2"], 2),
        (["2001:db8::1", "2001:db8::ffff:1", "2001:DB8:0:0::2"], 1),
        (["2001:db8:0:1::1", "2001:db8:0:2::1"], 2),
        (["::ffff:192.0.2.1", "192.0.2.1"], 1),
        (["fe80::1%eth0", "fe80::2%eth1"], 1),
    ],
)
def test_ipv6_addresses_count_by_their_network_of_64_bits(addresses: list[str], networks: int) -> None:
    admission = made(max_connections_per_address=1)
    assert sum(count_opened(admission, address, 1) for address in addresses) == networks


@pytest.mark.parametrize("address", ["", "10.1.2.3", "fd00::1"])
def test_trusted_proxies_and_unix_sockets_do_not_count(address: str) -> None:
    admission = made(("10.0.0.0/8", "fd00::/8"), max_connections_per_address=1)
    assert count_opened(admission, address, 10) == 10
    assert count_opened(admission, "192.0.2.1", 10) == 1


def test_many_refusals_of_a_private_address_point_to_a_missing_proxy(caplog: pytest.LogCaptureFixture) -> None:
    admission = made(max_connections_per_address=1)
    count_opened(admission, "192.168.0.7", 10)
    assert "trusted_proxies" not in caplog.text
    count_opened(admission, "192.168.0.7", 100)
    assert caplog.text.count("trusted_proxies") == 1
    assert "192.168.0.7" in caplog.messages[-1]
    assert len(caplog.messages) == 2, "a flood has few lines"
    assert admission.reports["untrusted_proxy"].count == 100
    count_opened(made(max_connections_per_address=1), "93.184.215.14", 100)
    assert caplog.text.count("trusted_proxies") == 1


# -- by user -----------------------------------------------------------------------------------------------------------


def test_a_user_has_so_many_connections() -> None:
    admission = made(max_connections_per_user=2)
    first, second = opened(admission, user="ana"), opened(admission, user="ana")
    with pytest.raises(OverLimit) as refused:
        opened(admission, user="ana")
    assert refused.value.status == 429
    for _ in range(5):
        opened(admission)  # no user, no limit
    opened(admission, user="ben")
    admission.release(first.request)
    opened(admission, user="ana")
    assert (first.closed, second.closed) == (None, None)
    assert admission.reports["max_connections_per_user"].count == 1


def test_a_user_that_is_refused_does_not_count_for_its_address() -> None:
    admission = made(max_connections_per_user=1, max_connections_per_address=2)
    opened(admission, "192.0.2.1", "ana")
    for _ in range(3):
        with pytest.raises(OverLimit, match="of this user"):
            opened(admission, "192.0.2.1", "ana")
    opened(admission, "192.0.2.1", "ben")


def test_the_oldest_connection_of_a_user_is_closed() -> None:
    admission = made(max_connections_per_user=2, on_too_many=TooMany.CLOSE_OLDEST)
    conns = [opened(admission, user="ana") for _ in range(4)]
    assert [conn.closed for conn in conns] == [(1008, "too many connections of this user")] * 2 + [None] * 2
    admission.release(conns[2].request)
    opened(admission, user="ana")
    assert conns[3].closed is None
    for conn in conns:
        admission.release(conn.request)  # in any order, also those that were closed
    assert len(admission) == 1


def test_a_connection_that_cannot_be_closed_is_aborted(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Conn):
        aborted = False

        def close(self, code: int, reason: str) -> None:
            raise AttributeError("the transport is half gone")

        def abort(self) -> None:
            self.aborted = True

    admission = made(max_connections_per_user=1, on_too_many=TooMany.CLOSE_OLDEST)
    request = Request(query_string="ana")
    place: Any = admission.admit(request)
    place.conn = failing = Failing(request)
    opened(admission, user="ana")
    assert failing.aborted
    assert "half gone" in caplog.text


# -- against a model ---------------------------------------------------------------------------------------------------


class AdmissionModel(RuleBasedStateMachine):
    """The admission beside lists of the connections that count."""

    policy = TooMany.REFUSE

    def __init__(self) -> None:
        super().__init__()
        self.admission = made(max_connections_per_address=3, max_connections_per_user=2, on_too_many=self.policy)
        self.open: list[Conn] = []  # that count for their address, oldest first
        self.of_users: list[Conn] = []  # that count for their user too
        self.ended: list[Conn] = []

    @rule(
        address=st.sampled_from(["", "192.0.2.1", "2001:db8::1", "2001:db8::2"]), user=st.sampled_from(["", "a", "b"])
    )
    def connect(self, address: str, user: str) -> None:
        same = [conn for conn in self.open if self.network(conn) == (address and address[:8])]
        own = [conn for conn in self.of_users if conn.request.query_string == user]
        full = bool(address) and len(same) >= 3
        too_many = bool(user) and len(own) >= 2
        if full or (too_many and self.policy is TooMany.REFUSE):
            with pytest.raises(OverLimit):
                opened(self.admission, address, user)
            return
        conn = opened(self.admission, address, user)
        self.open.append(conn)
        if user:
            self.of_users.append(conn)
        if too_many:
            assert own[0].closed is not None
            self.of_users.remove(own[0])

    @rule(number=st.integers(0, 20))
    def end(self, number: int) -> None:
        if self.open:
            conn = self.open.pop(number % len(self.open))
            self.admission.release(conn.request)
            self.ended.append(conn)
            if conn in self.of_users:
                self.of_users.remove(conn)

    @rule(number=st.integers(0, 20))
    def end_again(self, number: int) -> None:
        if self.ended:
            self.admission.release(self.ended[number % len(self.ended)].request)

    @staticmethod
    def network(conn: Conn) -> str:
        return conn.request.remote_address[:8]

    @invariant()
    def counts(self) -> None:
        counting = self.admission.counting
        assert len(self.admission) == len(self.open)
        assert counting.addresses.total("192.0.2.1") == [self.network(conn) for conn in self.open].count("192.0.2.")
        assert counting.addresses.total("2001:db8::/64") == [self.network(conn) for conn in self.open].count("2001:db8")
        for user in ("a", "b"):
            assert counting.users.total(user) == [conn.request.query_string for conn in self.of_users].count(user)
        if not self.open:
            assert (len(counting.addresses), len(counting.users)) == (0, 0)
        for conn in self.of_users:
            assert conn.closed is None


class ClosingModel(AdmissionModel):
    policy = TooMany.CLOSE_OLDEST


TestRefuse = AdmissionModel.TestCase
TestCloseOldest = ClosingModel.TestCase


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_connections_per_address", "max_connections_per_user"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_limits_of_connections_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number from 1 on"):
        App(**{name: value})


@pytest.mark.parametrize("value", [0, -1, True, "10", float("inf"), float("nan")])
def test_the_rate_of_handshakes_is_a_number(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_handshakes_per_second must be a number greater than 0"):
        App(max_handshakes_per_second=value)


def test_the_policy_is_checked() -> None:
    value: Any = "refuse"
    with pytest.raises(ConfigurationError, match="on_too_many must be a TooMany"):
        App(on_too_many=value)
    with pytest.raises(ConfigurationError, match="on_too_many needs max_connections_per_user"):
        App(on_too_many=TooMany.CLOSE_OLDEST)
