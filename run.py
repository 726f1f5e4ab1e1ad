"""The one entry: `python run.py [task=...] [group=option ...] [key=value ...]`; `--help` lists them all."""

import sys

from pgdlab.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
