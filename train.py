"""`python train.py ...` is `segnl train ...`."""

import sys

from segnl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
