"""The server: listening sockets, HTTP before the upgrade, TLS, trusted proxies."""
