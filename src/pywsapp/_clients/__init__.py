"""Clients of other servers, independent of what uses them: one Redis connection, asyncio under trio, a log filter."""
