"""`segnl import`: a weight file of another project to a checkpoint of segnl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from segnl.convert.ccnet import from_ccnet
from segnl.convert.imported import ImportedModel
from segnl.convert.mmaction import from_mmaction
from segnl.convert.mmseg import from_mmseg
from segnl.convert.mmseg_config import MAX_WORD, read_config_text
from segnl.convert.torchvision import from_torchvision
from segnl.core.config import JSONDict, load_mapping
from segnl.core.environment import code_state
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import read_bytes
from segnl.data.find import DATASETS
from segnl.labels.table import ClassTable, plain_name
from segnl.models.weights.files import listed, read_checkpoint
from segnl.models.weights.strict import ImportReport
from segnl.runs.checkpoint import Checkpoint, class_table_to_dict, require_weights_file, save_checkpoint
from segnl.runs.recipe import compose
from segnl.video.classifier import save

Source = Literal["mmseg", "ccnet", "torchvision"]


@dataclass(frozen=True)
class ImportSettings:
    """Settings of an import."""

    source: Source
    """The project that the file comes from."""
    source_config: Path | None = None
    """mmsegmentation's own config, flattened; needed where the file does not hold it."""
    recurrence: int = 2
    """Of CCNet, whose files do not hold it."""
    abn: Literal["plain", "abs"] = "abs"
    """How CCNet's in-place batch norm used its weight (`from_ccnet`); its CUDA code took the absolute value."""


def import_video(file: Path, config_file: Path | None, out: Path) -> ImportReport:
    """Writes a video classifier of mmaction2 to `out`, which `segnl.video.load` opens.

    config_file: mmaction2's own config, flattened; needed where the file does not hold it.

    Raises ConfigError for a setting that segnl cannot represent, CheckpointError for tensors that do not fit.
    """
    require_weights_file(out, "import")
    content = read_checkpoint(file)
    model = from_mmaction(_source_config(content, file, config_file, "mmaction2"), content)
    save(model, out, command="import")
    return model.report


def import_checkpoint(
    file: Path, settings: ImportSettings, recipe_file: Path, out: Path, overrides: tuple[str, ...] = ()
) -> ImportReport:
    """Writes the weights of `file` as a checkpoint of step 0 at `out`.

    recipe_file: the recipe whose sections go with the weights, but for `model`, which the import sets, with mean, std,
    channel order and align_corners.

    Raises CheckpointError when a tensor is neither used nor explained, or the number or the order of the classes is not
    the data set's; ConfigError for overrides of the model, which would have no effect.
    """
    for override in overrides:
        if override.strip().startswith("model"):
            raise ConfigError(f"--set {override}: the imported file says what the model is; leave it out")
    mapping = load_mapping(recipe_file, overrides)
    recipe = compose(mapping, file=str(recipe_file))
    require_weights_file(out, "import")
    imported = import_file(file, settings)
    num_classes, table = imported.segmenter.num_classes, DATASETS.find(recipe.data.name).table_of(recipe.data)
    if num_classes != table.num_classes:
        raise CheckpointError(
            f"{file}: predicts {num_classes} classes, {recipe_file} has {table.num_classes}; "
            "give a recipe of the data set it was trained on"
        )
    imported.report.notes += _renamed_classes(file, imported.class_names, table)
    resolved = compose({**mapping, "model": imported.model}, file=str(recipe_file)).to_dict()
    origin = {"imported": {"from": settings.source, "file": file.name}} | code_state()
    weights = imported.segmenter.state_dict()
    save_checkpoint(Checkpoint(out, 0, resolved, class_table_to_dict(table), origin, model=weights), command="import")
    return imported.report


def _renamed_classes(file: Path, names: Sequence[str], table: ClassTable) -> list[str]:
    """Returns a note about classes of the file that have other names in the table.

    Raises CheckpointError for a class that is another one of the table, and for another number of them.
    """
    if names and len(names) != table.num_classes:
        raise CheckpointError(f"{file}: names {len(names)} classes, but predicts {table.num_classes}; correct its meta")
    theirs, ours = ([{*map(plain_name, name.split(","))} for name in own] for own in (names, table.names))
    renamed = [i for i, words in enumerate(theirs) if not words & ours[i]]
    for i in renamed:
        place = next((j for j, words in enumerate(ours) if words & theirs[i]), None)
        if place is not None:
            raise CheckpointError(
                f"{file}: its class {i} is {names[i]!r}, class {place} of {table.title}; give a recipe with the "
                "classes in the file's order"
            )
    pairs = listed([f"{names[i]!r} is '{table.names[i]}'" for i in renamed])
    return [f"classes have the names of the recipe: {pairs}"] if renamed else []


def import_file(path: Path, settings: ImportSettings) -> ImportedModel:
    """Builds the whole model in `path`, strictly, with its input convention (mean, std, channel order).

    Raises ConfigError for an unknown source or a setting that segnl cannot represent, CheckpointError for tensors that
    do not fit or a head without a backbone.
    """
    if settings.source not in get_args(Source):
        raise ConfigError(f"--from {settings.source}: unknown; known: {', '.join(get_args(Source))}")
    content = read_checkpoint(path)
    if settings.source == "mmseg":
        model = from_mmseg(_mmseg_model(content, path, settings.source_config), content)
        if isinstance(model, ImportedModel):
            model.class_names = _mmseg_names(content)
    elif settings.source == "ccnet":
        model = from_ccnet(content, recurrence=settings.recurrence, abn=settings.abn)
        model.report.notes.append(f"recurrence {settings.recurrence}; in-place batch norm read as {settings.abn!r}")
    else:
        model = from_torchvision(content)
    if not isinstance(model, ImportedModel):
        raise CheckpointError(f"{path}: holds a head alone; `segnl import` needs a whole model")
    return model


def _mmseg_model(content: Mapping[str, Any], path: Path, config_file: Path | None) -> JSONDict:
    """Returns the section `model` of mmsegmentation's config, with its input convention inside."""
    config = _source_config(content, path, config_file, "mmsegmentation")
    model: JSONDict = config["model"]
    if model.get("data_preprocessor") is None:
        norm = config.get("img_norm_cfg")  # mmsegmentation 0.x
        if isinstance(norm, dict):
            norm = {"to_rgb": True} | norm
            norm["bgr_to_rgb"] = norm.pop("to_rgb")
        model = {**model, "data_preprocessor": config.get("data_preprocessor") or norm}
    return model


def _mmseg_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of classes in mmsegmentation's checkpoint; none where it has none."""
    meta = content.get("meta")
    for holder in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        for key in ("classes", "CLASSES"):
            names = holder.get(key) if type(holder) is dict else None
            if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
                return tuple(name[:MAX_WORD] for name in names)
    return ()


def _source_config(content: Mapping[str, Any], path: Path, config_file: Path | None, project: str) -> JSONDict:
    """Returns the config in the file, or that in config_file, with its section `model`."""
    text: Any
    if config_file is not None:
        try:
            text = read_bytes(config_file).decode("utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"{config_file}: cannot be read ({err}); give {project}'s config") from err
    else:
        meta = content.get("meta")
        texts = [meta.get("cfg"), meta.get("config")] if isinstance(meta, Mapping) else []
        text = next((text for text in texts if isinstance(text, str) and text), None)
    where = str(config_file or path)
    if not isinstance(text, str):
        raise CheckpointError(f"{where}: carries no config; give {project}'s config file beside it")
    config = read_config_text(text, where)
    if not isinstance(config.get("model"), dict):
        raise ConfigError(f"{where}: the config has no readable `model = dict(...)`; expected a flattened config")
    return config
