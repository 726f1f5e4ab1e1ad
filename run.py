"""The one entry: `python run.py [task=...] [group=option ...] [key=value ...]`; `--help` lists them all."""

import sys

from pgdlab.__main__ import start

if __name__ == "__main__":
    sys.exit(start())
