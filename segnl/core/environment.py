"""What a bug report, a checkpoint and a result file must say of where they come from. Imports no torch by itself."""

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
    """{"commit": hex or null, "dirty": bool}; null outside a checkout or without git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": False}
    return {"commit": commit, "dirty": bool(status.strip())}


def versions() -> dict[str, str]:
    """Installed versions of Python, segnl and what it stands on."""
    found = {"python": platform.python_version()}
    for name in ("segnl", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and system."""
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": _cpu_name(), "cores": os.cpu_count()}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
