"""Django Channels on uvicorn; its processes use the pub/sub layer of channels_redis."""

from __future__ import annotations

import os
from typing import Any

import django
from _common import PROCESSES, arguments
from _processes import serve, share
from django.conf import settings

args = arguments(PROCESSES)
listening = share(args.port, int(args.processes))
layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [os.environ["BROKER"]]}}
settings.configure(CHANNEL_LAYERS={"default": layer}, LOGGING_CONFIG=None)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402  (it reads the settings)
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc, unused-ignore]
    async def connect(self) -> None:
        await self.channel_layer.group_add("chat", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("chat", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "chat.message", "text": text_data, "sender": self.channel_name}
        await self.channel_layer.group_send("chat", event)

    async def chat_message(self, event: dict[str, Any]) -> None:
        if event["sender"] != self.channel_name:
            await self.send(text_data=event["text"])


serve(ProtocolTypeRouter({"websocket": Chat.as_asgi()}), listening)
