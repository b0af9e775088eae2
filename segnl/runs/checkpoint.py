"""Checkpoints: one safetensors file each, written atomically, with a checksum, without pickle.

Tensors are called `model.PATH`, `optim.PATH.KEY` and `ema.PATH`; everything else is JSON in the file's metadata.
"""

import copy
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn, optim

from segnl.core import IGNORE
from segnl.core.config import Config, JSONDict, validate
from segnl.core.distributed import ProcessGroup
from segnl.core.errors import CheckpointError, ConfigError
from segnl.core.files import cannot_write, ensure_writable, write_atomic
from segnl.core.outputs import mark, require_own
from segnl.labels.table import ClassTable
from segnl.models.weights.checksums import CHECKSUM_KEY, read_safetensors, to_safetensors
from segnl.models.weights.strict import require_finite

FORMAT = "segnl-1"
SUFFIX = ".safetensors"
KINDS = ("model", "optim", "ema")
"""Of tensors, the beginnings of their names in a file."""
NUM_KEPT = 2
_NAME = re.compile(rf"step-[0-9]+{re.escape(SUFFIX)}")
BEST = f"best{SUFFIX}"
"""The checkpoint with the highest validation mIoU so far, where a run validates."""


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint file; recipe, classes and origin are plain dicts."""

    path: Path
    step: int
    recipe: JSONDict
    classes: JSONDict
    """As `class_table_to_dict` makes it."""
    origin: JSONDict
    """Git state, versions and the like of the code that wrote the file."""
    model: dict[str, Tensor]
    optim: dict[str, Tensor] = field(default_factory=dict)
    """State of the optimiser by the parameters' names; empty in exported and imported files."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """Moving average of the weights; empty where the recipe has none."""
    loss_scale: JSONDict = field(default_factory=dict)
    """State of a float16 training's loss scale; empty for others."""
    checksum: str = ""
    """SHA-256 of the file that it was read from; empty before it is saved."""


def require_weights_file(out: Path, command: str) -> None:
    """Checks the file of weights that `segnl COMMAND` will write.

    Raises ConfigError for a name that a training run would take for its own checkpoint, and for a file that the command
    did not write; MachineError where none can be written.
    """
    if out.name == BEST or _NAME.fullmatch(out.name.removesuffix(SUFFIX) + SUFFIX):
        raise ConfigError(f"--out {out}: is how the checkpoints of a training are called; give another name")
    require_own(out, command, option="--out")
    ensure_writable(out.parent)


def save_checkpoint(checkpoint: Checkpoint, *, command: str | None = None) -> None:
    """Writes `checkpoint.path` with a checksum; an old file there stays whole until the new one is complete.

    command: that of segnl which the user gave the path; see core/outputs.py.
    Raises MachineError when the disk is full or refuses.
    """
    tensors = {f"{kind}.{name}": tensor for kind in KINDS for name, tensor in getattr(checkpoint, kind).items()}
    metadata = {
        "format": FORMAT,
        "step": str(checkpoint.step),
        "recipe": json.dumps(checkpoint.recipe),
        "classes": json.dumps(checkpoint.classes),
        "origin": json.dumps(checkpoint.origin),
        "loss_scale": json.dumps(checkpoint.loss_scale),
    }
    if command is not None:
        metadata["written_by"] = mark(command)
    write_atomic(checkpoint.path, to_safetensors(tensors, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint; nothing in the file is ever executed.

    Raises CheckpointError when the file cannot be read, is damaged or of another kind.
    """
    named, metadata = read_safetensors(path, "use an earlier checkpoint")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a segnl checkpoint (format {metadata.get('format')!r}, expected {FORMAT!r}); "
            "weights from elsewhere go through `segnl import`"
        )
    if CHECKSUM_KEY not in metadata:
        raise CheckpointError(f"{path}: damaged (it has no checksum); use an earlier checkpoint")
    contents = _contents(path, metadata)
    if _NAME.fullmatch(path.name) and step_of(path) != contents["step"]:
        raise CheckpointError(f"{path}: is of step {contents['step']}, not of that in its name; give it its own name")
    tensors: dict[str, Any] = {
        kind: {name.removeprefix(f"{kind}."): tensor for name, tensor in named.items() if name.startswith(f"{kind}.")}
        for kind in KINDS
    }
    return Checkpoint(path, **contents, **tensors, checksum=metadata[CHECKSUM_KEY])


_Byte = Annotated[int, Field(ge=0, le=255)]
_Number = Annotated[int, Field(ge=0, le=10**9)]


class _Classes(Config):
    """As `class_table_to_dict` makes it."""

    names: list[str]
    palette: list[tuple[_Byte, _Byte, _Byte]]
    file_ids: list[_Byte]
    void_id: _Byte


class _Origin(Config, extra="allow"):
    data: JSONDict = Field(default_factory=dict)


class _Model(Config, extra="allow"):
    backbone: JSONDict


class _Train(Config, extra="allow"):
    max_steps: _Number | None = None
    extended: list[JSONDict] = Field(default_factory=list)


class _Recipe(Config, extra="allow"):
    """The parts that are read without the whole recipe, which may name modules from elsewhere."""

    model: _Model
    data: JSONDict
    train: _Train


def _power_of_two(value: int) -> int:
    if value.bit_count() != 1:
        raise ValueError("expected a power of two")
    return value


class _LossScale(Config):
    """As training/loss_scale.py bounds it."""

    value: Annotated[int, Field(ge=1, le=2**24), AfterValidator(_power_of_two)] = 1
    good_steps: _Number = 0


class _Contents(Config):
    """What a checkpoint's metadata hold."""

    step: _Number
    recipe: _Recipe
    classes: _Classes
    origin: _Origin
    loss_scale: _LossScale = Field(default_factory=_LossScale)


def _contents(path: Path, metadata: Mapping[str, str]) -> JSONDict:
    """Checks and returns the metadata of a file whose checksum is right, which says nothing about who wrote it."""
    texts = {key: metadata[key] for key in _Contents.model_fields if key in metadata}
    try:
        mapping = {key: json.loads(text) for key, text in texts.items()}
        contents = validate(_Contents, mapping, file=str(path)).model_dump(mode="json", exclude_unset=True)
        class_table_from_dict(contents["classes"])
    except (ConfigError, ValueError, RecursionError) as err:
        reason = str(err).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: its metadata are not those of a checkpoint ({reason})") from err
    return contents


def checkpoint_path(run: Path, step: int) -> Path:
    """Returns the file of a step's checkpoint in the folder `run`; names sort as steps do."""
    return run / f"step-{step:08d}{SUFFIX}"


def checkpoints_of(run: Path) -> list[Path]:
    """Returns the paths of a run's checkpoints, newest first."""
    return sorted((path for path in run.glob(f"step-*{SUFFIX}") if _NAME.fullmatch(path.name)), reverse=True)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint, with a warning for each damaged one; None where the run has none at all.

    Raises CheckpointError when every one is damaged.
    """
    paths = checkpoints_of(run)
    for path in paths:
        try:
            return load_checkpoint(path)
        except CheckpointError as err:
            warnings.warn(f"{err} - falling back to the one before", stacklevel=2)
    if paths:
        best = f" ({run / BEST} may be whole: eval and predict take it)" if (run / BEST).exists() else ""
        raise CheckpointError(
            f"{run}: every step-*{SUFFIX} is damaged{best}; move them aside (segnl train --fresh does)"
        )
    return None


def open_checkpoint(run_or_file: Path) -> Checkpoint:
    """Reads a checkpoint file, or the last checkpoint of a run's folder. Raises CheckpointError where there is none."""
    if not os.path.isdir(run_or_file):  # unlike Path.is_dir, False for a name that no file can have
        return load_checkpoint(run_or_file)
    checkpoint = newest_checkpoint(run_or_file)
    if checkpoint is None:
        raise CheckpointError(f"{run_or_file}: holds no step-*{SUFFIX}; is it a run's folder, and has it been saved?")
    return checkpoint


def broadcast_checkpoint(checkpoint: Checkpoint | None, group: ProcessGroup) -> Checkpoint | None:
    """Returns rank 0's checkpoint on every rank, so that the other ranks need not see its file."""
    own = None if checkpoint is None else replace(checkpoint, model={}, optim={}, ema={})
    bare = group.run_on_rank0(lambda: own)
    if bare is None:
        return None
    tensors: dict[str, Any] = {kind: group.broadcast(getattr(checkpoint or bare, kind)) for kind in KINDS}
    return replace(bare, **tensors)


def quarantine_damaged(run: Path, newest_undamaged: Checkpoint) -> None:
    """Renames the checkpoints after `newest_undamaged`, so that they do not count among the two that are kept."""
    for path in checkpoints_of(run):
        if path.name > newest_undamaged.path.name:
            path.rename(path.with_suffix(".damaged"))


def drop_old_checkpoints(run: Path, keep_every: int | None = None, *, kept: Sequence[int] = ()) -> None:
    """Deletes all but the newest two (one is left if the disk spoils the other), every keep_every-th and the `kept`."""
    for path in checkpoints_of(run)[NUM_KEPT:]:
        if step_of(path) not in kept and (keep_every is None or step_of(path) % keep_every):
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """Returns the step in a checkpoint's name."""
    return int(path.name.removeprefix("step-").removesuffix(SUFFIX))


def keep_as_best(path: Path) -> None:
    """Makes RUN/best.safetensors the checkpoint `path`, atomically, and without a copy on disks with hard links."""
    best = path.with_name(BEST)
    temporary = path.with_name(f".{BEST}.segnl-linking1")  # a name that remove_leftovers knows
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            write_atomic(best, path.read_bytes())
            return
        os.replace(temporary, best)
    except OSError as err:
        raise cannot_write(best, err) from err


def keep_unscored_best(run: Path, scored_steps: Collection[int]) -> None:
    """Renames RUN/best.safetensors unless it is whole and its score known: the next best would replace it."""
    best = run / BEST
    try:
        step = load_checkpoint(best).step if best.exists() else None
    except CheckpointError as err:  # damaged, or somebody's
        best.rename(best.with_suffix(".damaged"))
        warnings.warn(f"{err}; kept as {best.stem}.damaged", stacklevel=2)
        return
    if step is not None and step not in scored_steps:
        aside = best.with_name(f"best-of-step-{step:08d}{SUFFIX}")
        best.rename(aside)
        warnings.warn(f"{best}: the run's log.jsonl has lost its score; kept as {aside.name}", stacklevel=2)


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, use_ema: bool = False) -> None:
    """Copies a checkpoint's weights into a model built from its recipe.

    use_ema: takes the moving average instead of the weights that a training run continues from. A model on the device
    "meta" is compared, and not loaded.

    Raises CheckpointError unless all names, shapes and types agree and every value is finite.
    """
    own, saved = model.state_dict(), checkpoint.ema if use_ema else checkpoint.model
    wrong = sorted(own.keys() ^ saved.keys())
    wrong += [name for name in own.keys() & saved.keys() if not _fits(saved[name], own[name])]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path}: {len(wrong)} tensors do not fit the model, '{wrong[0]}' first; "
            "the recipe describes another network than the one that was saved"
        )
    if any(tensor.is_meta for tensor in own.values()):
        return
    require_finite(saved, str(checkpoint.path))
    model.load_state_dict(saved)


def _fits(saved: Tensor, own: Tensor) -> bool:
    is_float = saved.is_floating_point() and own.is_floating_point()
    return saved.shape == own.shape and (is_float or saved.dtype == own.dtype)


def optimiser_tensors(optimiser: optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Returns the optimiser's state tensors as `PARAMETER.KEY`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    out = {}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                out[f"{names[parameter]}.{key}"] = value
    return out


def restore_optimiser(optimiser: optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads what `optimiser_tensors` returned, in each parameter's device and layout.

    Raises CheckpointError unless names, shapes, types and numbers may be those of this optimiser after a step. A
    parameter that never had a gradient has no state; somebody's optimiser may have further tensors after more steps.
    """
    own = _state_after_a_step(optimiser, model)
    paths = {name.rpartition(".")[0] for name in tensors}
    wrong = [name for name in own if name not in tensors and (not tensors or name.rpartition(".")[0] in paths)]
    parameters = dict(model.named_parameters())
    wrong += [name for name in tensors if name.rpartition(".")[0] not in parameters]
    wrong += [n for n, x in tensors.items() if n in own and (x.shape, x.dtype) != (own[n].shape, own[n].dtype)]
    wrong += [name for name, x in tensors.items() if not _is_possible(name.rpartition(".")[2], x)]
    if wrong:
        detail = f"{len(wrong)} tensors do not fit, '{wrong[0]}' first"
        raise CheckpointError(f"optimiser state of the checkpoint: {detail}; start over with --fresh")
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        state.setdefault(parameters[path], {})[key] = _like(tensor, parameters[path])
    for parameter, values in state.items():
        optimiser.state[parameter] = values


def _is_possible(key: str, tensor: Tensor) -> bool:
    """Tells whether numbers are finite, and those of Adam's counter and second moments not negative."""
    least = {"step": 1, "exp_avg_sq": 0, "max_exp_avg_sq": 0}.get(key, -torch.inf)
    values = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()
    return bool((values.isfinite() & (values >= least)).all())


def _state_after_a_step(optimiser: optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    optimiser, model = copy.deepcopy((optimiser, model))
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        optimiser.step()
    except Exception:  # somebody's optimiser may need more than gradients
        return {}
    return optimiser_tensors(optimiser, model)


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:  # AdamW's step counter
        return tensor.clone()
    return torch.empty_like(parameter).copy_(tensor)


def class_table_to_dict(table: ClassTable) -> JSONDict:
    """Returns {"names", "palette", "file_ids", "void_id"}: what predictions need, not the rules for reading labels."""
    void = np.full((1, 1), IGNORE, np.uint8)
    return {
        "names": list(table.names),
        "palette": table.palette.tolist(),
        "file_ids": list(table.file_ids),
        "void_id": int(table.to_mask(void)[0, 0]),
    }


def class_table_from_dict(mapping: JSONDict) -> ClassTable:
    """Returns the table that `class_table_to_dict` was given, as far as predictions need it."""
    return ClassTable(
        mapping["names"],
        mapping["palette"],
        file_ids=mapping["file_ids"],
        ignore_ids=() if IGNORE in mapping["file_ids"] else (IGNORE,),
        void_id=mapping["void_id"],
        title="the checkpoint",
    )
