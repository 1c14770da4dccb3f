"""Support for the tests: servers, clients, services and programs to test against."""
