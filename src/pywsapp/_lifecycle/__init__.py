"""One open connection: the only caller of a component's methods."""
