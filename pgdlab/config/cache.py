"""Where prepared data are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$PGDLAB_CACHE, else pgdlab/ in the user's cache folder. It need not exist, and may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PGDLAB_CACHE") or Path(home) / "pgdlab")
