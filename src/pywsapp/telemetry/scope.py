"""The instrumentation scope of all metrics and spans."""

#: Its name; the version is that of the package.
SCOPE = "pywsapp"
