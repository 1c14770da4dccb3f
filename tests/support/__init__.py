"""What tests share: servers, clients, services and programs to test against."""
