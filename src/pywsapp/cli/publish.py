"""`pywsapp publish`: publish a message on a topic."""

from __future__ import annotations

import argparse
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
    command.add_argument("topic", help="the name of the topic")
    command.add_argument("message", help="the text, or - for the standard input")
    command.add_argument("--id", help="an id; a message that is published again with its id is delivered once")


def _act(chosen: argparse.Namespace) -> None:
    from pywsapp.publisher import Publisher

    with Publisher(chosen.broker, key=broker_key()) as publisher:
        text = sys.stdin.read() if chosen.message == "-" else chosen.message
        publisher.publish(chosen.topic, text, message_id=chosen.id)
