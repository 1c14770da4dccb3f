"""The client role below `pywsapp.client`: arguments, the handshake, receiving, reconnecting."""
