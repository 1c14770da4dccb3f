"""Routing: which component, HTTP handler or folder answers which path and host."""
