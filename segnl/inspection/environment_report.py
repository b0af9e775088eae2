"""`segnl env`: what a bug report needs."""

from pathlib import Path

import torch

from segnl.core.environment import git_state, machine, versions


def environment_report() -> str:
    """Versions, processor, devices, git state of segnl's checkout; one fact a line."""
    state = git_state(Path(__file__).parent)
    commit = "not a checkout" if state["commit"] is None else state["commit"] + (" + changes" if state["dirty"] else "")
    lines = {**versions(), "git": commit, **{key: str(value) for key, value in machine().items()}}
    lines["threads"] = str(torch.get_num_threads())
    lines["cuda"] = torch.version.cuda or "not built in"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["devices"] = ", ".join(devices) if devices else "cpu only"
    width = max(len(name) for name in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
