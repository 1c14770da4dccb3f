"""The states of an open connection, and what changes them.

Theory

A connection is two machines that run side by side. The first one is the closing handshake (RFC 6455, section 7.1); its
states and transitions are the table below.

    OPEN              messages go both ways
    CLOSE_RECEIVED    the peer has sent its close frame while a handler was busy: this side may still send, and answers
                      the close frame when the handlers have finished what came before it, or when it calls `close`
    CLOSE_SENT        this side has sent its close frame and waits for the peer's
    FINISHING         both close frames are there, or the peer broke the protocol, or its stream has ended: what is
                      queued leaves, then the transport is closed
    ABORTED           this side has aborted the transport
    LOST              the transport has ended; handlers may still be busy

An event that is not in the row of a state changes nothing there: a second `close`, for instance.

The second machine is the handlers: `Lifecycle.is_busy` says that the handler task has a handler to await, or messages
to deliver. Only while it is False are handlers called right where bytes come in. It stays True from the moment
`on_close` is due, so that no other handler is called after it.

Whether messages still reach the component does not follow from the state: those that came before the peer closed, or
was lost, are delivered, and those that come after this side called `close` or `abort` are not.
`StateMachine.is_discarding` is that one fact.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A state of a connection in the closing handshake."""

    OPEN = "open"
    CLOSE_RECEIVED = "close received"
    CLOSE_SENT = "close sent"
    FINISHING = "finishing"
    ABORTED = "aborted"
    LOST = "lost"

    __hash__ = object.__hash__  # Enum's own is a Python function, and the table below is read at every handshake


class Event(Enum):
    """An event that can change the state of a connection."""

    CLOSE = "this side closes"
    PEER_CLOSES = "the peer's close frame has come, and is answered at once"
    PEER_CLOSES_WHILE_BUSY = "the peer's close frame has come, and is answered when the handlers have finished"
    ANSWER = "the answer to the peer's close frame is due"
    FAILURE = "the peer broke the protocol, and the frame that says so is queued"
    PEER_ENDS = "the peer's stream has ended, and frames for it are still queued"
    ABORT = "this side aborts the transport"
    LOSS = "the transport has ended"

    __hash__ = object.__hash__


#: The state after each event. What is missing changes nothing.
TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OPEN: {
        Event.CLOSE: State.CLOSE_SENT,
        Event.PEER_CLOSES: State.FINISHING,
        Event.PEER_CLOSES_WHILE_BUSY: State.CLOSE_RECEIVED,
        Event.FAILURE: State.FINISHING,
        Event.PEER_ENDS: State.FINISHING,
        Event.ABORT: State.ABORTED,
        Event.LOSS: State.LOST,
    },
    State.CLOSE_RECEIVED: {
        Event.ANSWER: State.FINISHING,
        Event.ABORT: State.ABORTED,
        Event.LOSS: State.LOST,
    },
    State.CLOSE_SENT: {
        Event.PEER_CLOSES: State.FINISHING,
        Event.PEER_CLOSES_WHILE_BUSY: State.FINISHING,  # there is nothing left to answer
        Event.FAILURE: State.FINISHING,
        Event.PEER_ENDS: State.FINISHING,
        Event.ABORT: State.ABORTED,
        Event.LOSS: State.LOST,
    },
    State.FINISHING: {
        Event.ABORT: State.ABORTED,
        Event.LOSS: State.LOST,
    },
    State.ABORTED: {
        Event.LOSS: State.LOST,
    },
    State.LOST: {},
}

#: States in which messages can be sent.
SENDING = frozenset({State.OPEN, State.CLOSE_RECEIVED})
#: States in which the closing handshake has begun and the transport still exists; it must end in time.
CLOSING = frozenset({State.CLOSE_RECEIVED, State.CLOSE_SENT, State.FINISHING, State.ABORTED})


def next_state(state: State, event: Event) -> State:
    """Return the state after an event."""
    return TRANSITIONS[state].get(event, state)
