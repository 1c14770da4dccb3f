"""The broker over Redis and Valkey."""
