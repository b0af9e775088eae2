"""`python eval.py ...` is `segnl eval ...`."""

import sys

from segnl.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
