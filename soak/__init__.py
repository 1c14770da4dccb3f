"""A soak test: everything an installation lives through, for an hour, with proof that nothing leaks or is lost."""
