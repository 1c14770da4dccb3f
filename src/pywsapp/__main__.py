"""`python -m pywsapp`."""

import sys

from pywsapp.cli import main

if __name__ == "__main__":
    sys.exit(main())
