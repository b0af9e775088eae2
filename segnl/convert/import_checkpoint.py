"""`segnl import`: another project's weights as a checkpoint of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segnl.convert.import_file import import_file
from segnl.core.config import load_mapping
from segnl.core.environment import git_state, versions
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import ensure_writable
from segnl.data.find import DATASETS
from segnl.runs.checkpoint import save_checkpoint
from segnl.runs.classes import class_table_to_dict
from segnl.runs.recipe import compose


def adopt(
    file: Path,
    kind: str,
    config: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    peer: Path | None = None,
    recurrence: int = 2,
    abn: Literal["plain", "abs"] = "abs",
) -> list[str]:
    """Writes a checkpoint of step 0 at `out`; returns the report, one fact a line.

    config: the recipe whose data, eval and other sections go with the weights; its model section is replaced by the
    imported one, which carries mean, std, channel order and align_corners. peer: mmsegmentation's own config file.
    recurrence, abn: of CCNet, as in `import_file`.

    Raises CheckpointError when a tensor is neither used nor explained, or the number of classes is not the data set's;
    ConfigError for overrides of the model, which would change nothing.
    """
    idle = next((override for override in overrides if override.strip().startswith("model")), None)
    if idle is not None:
        raise ConfigError(f"--set {idle}: the imported file says what the model is; leave it out")
    mapping = load_mapping(config, overrides)
    recipe = compose(mapping, file=str(config))
    ensure_writable(out.parent)
    found = import_file(file, kind, config_file=peer, recurrence=recurrence, abn=abn)
    table = DATASETS.find(recipe.data.name).class_table(recipe.data)
    if found.num_classes != table.num_classes:
        raise CheckpointError(
            f"{file}: predicts {found.num_classes} classes, {config} has {table.num_classes}; "
            "give a recipe of the data set it was trained on"
        )
    imported = compose({**mapping, "model": found.model}, file=str(config))
    save_checkpoint(
        out,
        model=found.state,
        optimiser={},
        step=0,
        recipe=imported.to_dict(),
        classes=class_table_to_dict(table),
        origin={
            "imported": {"from": kind, "file": file.name},
            "git": git_state(Path(__file__).parent),
            "versions": versions(),
        },
    )
    return [*found.report.lines(), f"{out}: ready; segnl eval --checkpoint {out}"]
