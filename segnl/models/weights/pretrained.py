"""Pretrained weights of a backbone: finds or fetches the file, and loads it strictly."""

import re
import socket
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from segnl.core.config import suggest
from segnl.core.errors import ConfigError, MachineError
from segnl.core.log import log
from segnl.models.weights.files import listed, read_checkpoint, tensors_in
from segnl.models.weights.strict import ImportReport, load_strict, renamed

KEY = "model.backbone.weights"
_FETCH_TIMEOUT_S = 30.0


def weights_path(weights: str, names: Sequence[str] = ()) -> Path:
    """Returns the path that `weights` is; raises ConfigError for a word, naming the known ones, `names`."""
    if re.search(r"[/\\.]", weights):
        return Path(weights)
    raise ConfigError(f"{KEY}: holds {weights!r}{suggest(weights, names) if names else ''}; or the path of a file")


def fetch(url: str) -> Path:
    """Returns the file of `url` in torch.hub's cache; downloads it if it is missing and checks the hash in its name.

    Raises MachineError when it cannot be fetched.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_FETCH_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (urllib.error.URLError, OSError, RuntimeError) as err:
        reason = getattr(err, "reason", None) or err
        raise MachineError(f"{url}: not fetched ({reason}); put the file at {path}, or its path into {KEY}") from err
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def backbone_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a classification network, or those of the backbone of a segmentation model, by name."""
    state = tensors_in(read_checkpoint(path), str(path))
    for prefix in ("backbone.", "model.backbone."):
        if any(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def load_backbone(
    backbone: nn.Module,
    state: Mapping[str, Tensor],
    source_name: Callable[[str], str] = renamed({}),  # noqa: B008  a pure function
    *,
    where: str,
    skip: str = "-",
) -> ImportReport:
    """Loads `state` strictly; only modules of a name that the backbone does not have, such as `fc`, are left out.

    source_name, skip: as of `load_strict`. Raises CheckpointError when the tensors do not fit.
    """
    modules = {source_name(name).split(".")[0] for name in backbone.state_dict() if not name.startswith(skip)}
    weights = {name: value for name, value in state.items() if name.split(".")[0] in modules}
    report = load_strict(backbone, weights, source_name, where=where, skip=skip)
    report.left_out = {name: "not of the backbone" for name in state if name not in weights}
    left_out = f"; left out: {listed(list(report.left_out))}" if report.left_out else ""
    log.info("%s: %s: %d tensors taken%s", KEY, where, report.num_used, left_out)
    return report
