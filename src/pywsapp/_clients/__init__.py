"""Access to Redis and the asyncio bridge, which several ports share."""
