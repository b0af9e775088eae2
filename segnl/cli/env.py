"""Versions, devices and git state: what a bug report needs."""

import argparse
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Prints versions, processor, devices and the git state of segnl's checkout, one fact per line."""
    import torch

    from segnl.core.environment import git_state, machine, versions

    state = git_state(Path(__file__).parent)
    commit = "not a checkout" if state["commit"] is None else state["commit"] + (" + changes" if state["dirty"] else "")
    lines = {**versions(), "git": commit, **{key: str(value) for key, value in machine().items()}}
    lines["threads"] = str(torch.get_num_threads())
    lines["cuda"] = torch.version.cuda or "not built in"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["devices"] = ", ".join(devices) if devices else "cpu only"
    width = max(len(name) for name in lines)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
