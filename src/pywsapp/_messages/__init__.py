"""Typed messages: handlers that get objects instead of text and bytes, by the annotations of a component."""
