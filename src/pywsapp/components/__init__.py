"""Floor 4: components that stand around or beside a person's own: router, origin check, IP list, echo, static files."""
