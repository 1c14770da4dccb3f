"""The table of states: its transitions, and that a connection behaves as the table says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import Pipe, Recorder, close_frame, frame

from pywsapp._lifecycle.states import CLOSING, SENDING, TRANSITIONS, Event, State, next_state

#: The order of the states; a connection only moves to a higher rank.
RANK = {
    State.OPEN: 0,
    State.CLOSE_RECEIVED: 1,
    State.CLOSE_SENT: 1,
    State.FINISHING: 2,
    State.ABORTED: 3,
    State.LOST: 4,
}


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(RANK) == set(State)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_event_leads_to_a_later_state_or_changes_nothing(state: State, event: Event) -> None:
    after = next_state(state, event)
    assert after is state or RANK[after] > RANK[state]


@pytest.mark.parametrize("state", State)
def test_every_connection_can_be_lost(state: State) -> None:
    assert next_state(state, Event.LOSS) is State.LOST


@pytest.mark.parametrize("state", [state for state in State if state is not State.LOST])
def test_every_connection_can_be_aborted(state: State) -> None:
    assert next_state(state, Event.ABORT) is State.ABORTED


def test_a_state_is_open_or_closing_or_lost() -> None:
    assert frozenset({State.OPEN, State.LOST}) | CLOSING == frozenset(State)
    assert State.OPEN not in CLOSING
    assert State.LOST not in CLOSING
    assert {State.OPEN} == SENDING - CLOSING


STEPS: dict[str, Callable[[Pipe], object]] = {
    "close": lambda pipe: pipe.conn.close(4000, "over"),
    "abort": lambda pipe: pipe.conn.abort(),
    "send": lambda pipe: pipe.conn.send("x"),
    "turn": lambda pipe: pipe.turn(),
    "peer closes": lambda pipe: pipe.client.transport.write(close_frame()),
    "peer breaks the protocol": lambda pipe: pipe.client.transport.write(frame(3)),
    "peer sends": lambda pipe: pipe.client.transport.write(frame(1, b"y")),
    "peer is lost": lambda pipe: pipe.client.transport.abort(),
    "time passes": lambda pipe: pipe.lifecycle.tick(1000.0 + len(pipe.client.frames)),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_a_connection_follows_the_table(steps: list[str]) -> None:
    component = Recorder()
    pipe = Pipe(component)
    machine = pipe.lifecycle.machine
    for step in steps:
        before = machine.state
        STEPS[step](pipe)
        assert RANK[machine.state] >= RANK[before]
        assert machine.outbox.is_open == (machine.state in SENDING)
        assert pipe.conn.is_open == (machine.state is State.OPEN)
        assert (pipe.conn.close_code is None) == (machine.state is State.OPEN)
    pipe.client.transport.abort()
    pipe.turn()
    assert machine.state is State.LOST
    assert component.names().count("close") == 1
