"""`python train.py ...` is `segnl train ...`."""

import sys

from segnl.__main__ import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
