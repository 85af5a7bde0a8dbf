"""Where a result comes from: source revision, processor, system."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .. import __config__

__all__ = ["git_hash", "machine", "usable_cores"]


def git_hash() -> str | None:
    """Commit of the source tree this package runs from, with "+" if it was changed; None outside a repository."""
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here:
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def usable_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Processor, its vector extensions, number of usable cores, system, Python, and how pydlx was built."""
    return {
        **__config__.cpu(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "build": __config__.info(),
    }
