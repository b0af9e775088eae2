"""What the benchmarks that train share: segnl's own commands, and how a result names its commit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_segnl(*words: str) -> None:
    """Runs a segnl command to its end; stops everything when it fails."""
    done = subprocess.run([sys.executable, "-m", "segnl", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def commit_text(git: dict[str, Any]) -> str:
    """A result file's commit as its page shows it."""
    return (git["commit"] or "none")[:9] + (" + changes" if git["dirty"] else "")
