"""daphne with an App of pywsapp; it has no permessage-deflate."""

from __future__ import annotations

from _common import HOST, arguments
from daphne.cli import CommandLineInterface

args = arguments()
CommandLineInterface().run(["-b", HOST, "-p", str(args.port), "-v", "0", "pywsapp_components:app"])
