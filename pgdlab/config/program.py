"""Where the program's files lie, and what it is called: in a checkout, and where a wheel was installed."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """A folder of the distribution: inside the package where it was installed from a wheel, beside it in a checkout."""
    inside = PACKAGE / name  # looked for first: beside an installed package lie those of others
    return inside if inside.is_dir() else PACKAGE.parent / name


CONFIGS, SWEEPS = shipped("configs"), shipped("sweeps")
ASSETS, OURS = PACKAGE / "domains" / "assets", "pgdlab:"


def located(name: str) -> Path:
    """The path that a user names; `pgdlab:emoji/clip` is emoji/clip of what ships in the package."""
    return ASSETS / name.removeprefix(OURS) if name.startswith(OURS) else Path(name).expanduser()


def program() -> str:
    """How the user calls this program: for advice that can be copied into a shell, and for command.txt."""
    called = Path(sys.argv[0])
    if called.stem == "pgdlab":
        return "pgdlab"
    if called.name == "__main__.py" and called.parent.name == "pgdlab":
        return "python -m pgdlab"
    return "python run.py" if (PACKAGE.parent / "run.py").is_file() else "pgdlab"


def extra(name: str) -> str:
    """The command that installs an extra."""
    return f"pip install -e '.[{name}]'" if (PACKAGE.parent / "run.py").is_file() else f"pip install 'pgdlab[{name}]'"
