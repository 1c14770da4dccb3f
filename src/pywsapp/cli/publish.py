"""`pywsapp publish`: publish a message on a topic."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from pywsapp.cli.options import BROKER_KEY, broker_key
from pywsapp.cli.parser import add_command


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands,
        "publish",
        _act,
        help="publish a message on a topic",
        epilog=f"The environment variable {BROKER_KEY} has the broker_key of the App, if it has one.",
    )
    command.add_argument("broker", metavar="URL", help="the URL of the broker: redis://..., amqp://..., nats://...")
    command.add_argument("topic", metavar="TOPIC", help="the name of the topic")
    command.add_argument("message", metavar="MESSAGE", help="the text, or - for the standard input")
    command.add_argument("--id", help="an id; a message that is published again with its id is delivered once")


def _act(chosen: argparse.Namespace) -> None:
    from pywsapp.exceptions import BrokerUnavailable
    from pywsapp.publisher import Publisher

    text = _text_of(chosen.message)
    reason = _ReasonOfBroker()
    logger = logging.getLogger("pywsapp")
    logger.addHandler(reason)
    try:
        with Publisher(chosen.broker, key=broker_key()) as publisher:
            publisher.publish(chosen.topic, text, message_id=chosen.id)
    except BrokerUnavailable as exc:
        if reason.text is None:
            raise
        raise BrokerUnavailable(f"{exc}: {reason.text}") from None
    finally:
        logger.removeHandler(reason)


class _ReasonOfBroker(logging.Handler):
    """Keeps why the broker is unavailable, which the log says, for the one line of the command."""

    text: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == "broker.unavailable":
            self.text = getattr(record, "error", None)


def _text_of(message: str) -> str:
    from pywsapp.exceptions import ConfigurationError

    if message == "-" and sys.stdin is None:
        raise ConfigurationError("the standard input is closed, and the message - stands for it")
    try:
        text = sys.stdin.read() if message == "-" else message
        text.encode()
    except UnicodeError:
        raise ConfigurationError("the message is not text in UTF-8") from None
    return text
