"""Versions, git state and machine, for bug reports, checkpoints and result files. Imports no torch."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "albumentations", "opencv-python", "opencv-python-headless", "numpy",
    "pillow", "pydantic", "pyyaml", "safetensors", "cityscapesscripts", "scipy",
)  # fmt: skip


_GIT = ("git", "--no-optional-locks")  # a `git status` that is killed must not leave .git/index.lock behind


def git_state(folder: Path) -> dict[str, Any]:
    """Returns {"commit": hex or null, "dirty": bool}; null where git does not track the folder, and without git."""
    questions = (
        ("ls-files", "--error-unmatch", "."),  # fails in a .venv, which may lie in another project's repository
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
    )
    try:
        _, commit, status = (
            subprocess.run([*_GIT, *words], cwd=folder, capture_output=True, check=True, timeout=10).stdout
            for words in questions
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": False}
    return {"commit": commit.decode(errors="replace").strip(), "dirty": bool(status)}


def versions() -> dict[str, str]:
    """Returns the installed versions of Python, segnl and the packages that decide its numbers."""
    by_name = {"python": platform.python_version()}
    for name in ("segnl", *PACKAGES):
        try:
            by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            by_name[name] = "not installed"
    return by_name


def code_state() -> dict[str, Any]:
    """Returns git state and versions of the code that runs, which every checkpoint keeps."""
    return {"git": git_state(Path(__file__).parent), "versions": versions()}


def machine() -> dict[str, Any]:
    """Returns the system, the processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    cpu = name[1] if name else platform.processor() or "unknown"
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": cpu, "cores": os.cpu_count()}
