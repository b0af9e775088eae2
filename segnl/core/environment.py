"""Versions, git state and machine, for bug reports, checkpoints and result files. Imports no torch."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "albumentations", "opencv-python", "opencv-python-headless", "numpy",
    "pillow", "pydantic", "pyyaml", "safetensors", "cityscapesscripts", "scipy",
)  # fmt: skip


def git_state(folder: Path) -> dict[str, Any]:
    """Returns {"commit": hex or null, "dirty": bool}; null outside a checkout or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": False}
    return {"commit": commit, "dirty": bool(status)}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Returns the installed versions of Python, segnl and the packages that decide its numbers."""
    by_name = {"python": platform.python_version()}
    for name in ("segnl", *PACKAGES):
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            by_name[name] = "not installed"
    return by_name


def machine() -> dict[str, Any]:
    """Returns the system, the processor's name and the number of cores."""
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": _cpu_name(), "cores": os.cpu_count()}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
