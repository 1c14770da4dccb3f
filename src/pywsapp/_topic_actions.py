"""The actions of a connection on a topic, which `authorize` decides about."""

from __future__ import annotations

from typing import Literal, get_args

#: The actions for `authorize`: receiving messages, sending them, being shown as present, reading the history.
TopicAction = Literal["subscribe", "publish", "presence", "history"]

ACTIONS: tuple[TopicAction, ...] = get_args(TopicAction)
