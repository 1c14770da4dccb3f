"""Optional third-party libraries, each imported in one file; the person who wants one imports it."""
