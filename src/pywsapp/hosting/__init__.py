"""What brings bytes to a link and takes them away: transports, listeners, TLS, memory."""
