"""`segnl import`: a file of another project to a section `model` of a recipe and tensors under our names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segnl.convert.ccnet import from_ccnet
from segnl.convert.config_text import read_config_text
from segnl.convert.imported_model import Import, ImportedModel
from segnl.convert.mmseg import from_mmseg
from segnl.convert.torchvision import from_torchvision
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.weights.files import read_checkpoint

KINDS = ("mmseg", "ccnet", "torchvision")


def import_file(
    path: Path, kind: str, *, config_file: Path | None = None, recurrence: int = 2, abn: Literal["plain", "abs"] = "abs"
) -> Import:
    """A whole model out of `path`, strictly, with its input convention (mean, std, channel order) and align_corners.

    kind: `mmseg`, `ccnet` or `torchvision`. config_file: mmsegmentation's own config, flattened, where the file does
    not carry it. recurrence, abn: of CCNet, whose files do not say (see `from_ccnet`; "abs" is how its CUDA code read
    them).

    Raises ConfigError for an unknown kind or a setting that we cannot represent, CheckpointError for what does not fit.
    """
    if kind not in KINDS:
        raise ConfigError(f"--from {kind}: unknown; known: {', '.join(KINDS)}")
    content = read_checkpoint(path)
    if kind == "mmseg":
        model = from_mmseg(_mmseg_config(content, path, config_file), content)
    elif kind == "ccnet":
        model = from_ccnet(content, recurrence=recurrence, abn=abn)
    else:
        model = from_torchvision(content)
    if not isinstance(model, ImportedModel):
        raise CheckpointError(f"{path}: holds a head alone; `segnl import` needs a whole model")
    if kind == "ccnet":
        model.report.notes.append(f"recurrence {recurrence}; in-place batch norm read as {abn!r}")
    return model.as_import()


def _mmseg_config(content: Mapping[str, Any], path: Path, config_file: Path | None) -> dict[str, Any]:
    """The section `model` of mmsegmentation's config, with its input convention beside it."""
    if config_file is not None:
        try:
            text: Any = config_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"{config_file}: cannot be read ({err}); give mmsegmentation's config") from err
    else:
        meta = content.get("meta")
        text = (meta.get("cfg") or meta.get("config")) if isinstance(meta, Mapping) else None
    where = str(config_file or path)
    if not isinstance(text, str):
        raise CheckpointError(f"{where}: carries no config; give mmsegmentation's config file beside it")
    config = read_config_text(text, where)
    model = config.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{where}: the config has no readable `model = dict(...)`; expected a flattened config")
    if model.get("data_preprocessor") is None:
        norm = config.get("img_norm_cfg")  # mmsegmentation 0.x
        old = {**norm, "bgr_to_rgb": norm.get("to_rgb", True)} if isinstance(norm, dict) else None
        model = {**model, "data_preprocessor": config.get("data_preprocessor") or old}
    return model
