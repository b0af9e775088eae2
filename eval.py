"""`python eval.py ...` is `segnl eval ...`."""

import sys

from segnl.__main__ import run

if __name__ == "__main__":
    sys.exit(run(["eval", *sys.argv[1:]]))
