"""Runs of segnl's commands, and the commit of a result, for the benchmarks that train."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_segnl(*words: str) -> None:
    """Runs a segnl command; exits with its code when it fails."""
    done = subprocess.run([sys.executable, "-m", "segnl", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def commit_text(git: dict[str, Any]) -> str:
    """Returns the commit of a result file as its page shows it."""
    return (git["commit"] or "none")[:9] + (" + changes" if git["dirty"] else "")
