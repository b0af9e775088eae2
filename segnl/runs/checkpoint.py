"""Checkpoints: one safetensors file each, written atomically, sealed by a checksum, no pickle anywhere.

Tensors are called `model.PATH`, `optim.PATH.KEY` and `ema.PATH`; everything else is JSON in the file's metadata. The
seal is the SHA-256 of the whole file with the seal's own 64 characters read as zeros, so no byte is outside it.
"""

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn, optim

from segnl.core.config import JSONDict
from segnl.core.distributed import ProcessGroup
from segnl.core.errors import CheckpointError, MachineError
from segnl.core.files import write_atomic

FORMAT = "segnl-1"
NO_SEAL = "0" * 64
SUFFIX = ".safetensors"
KEEP = 2
BEST = f"best{SUFFIX}"
"""The checkpoint with the highest validation mIoU so far, where a run validates."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. recipe: plain tree; classes: {"names", "palette", "file_ids"}; origin: git state, versions."""

    path: Path
    step: int
    recipe: JSONDict
    classes: JSONDict
    origin: JSONDict
    model: dict[str, Tensor]
    optim: dict[str, Tensor]
    ema: dict[str, Tensor]
    """The averaged weights; empty where the recipe averages none."""
    loss_scale: JSONDict = field(default_factory=dict)
    """The state of a float16 training's loss scale; empty for others."""


def save_checkpoint(
    path: Path,
    *,
    model: Mapping[str, Tensor],
    optimiser: Mapping[str, Tensor],
    step: int,
    recipe: JSONDict,
    classes: JSONDict,
    origin: JSONDict,
    ema: Mapping[str, Tensor] | None = None,
    loss_scale: JSONDict | None = None,
) -> None:
    """Writes a sealed checkpoint; the old file at `path`, if any, stays whole until the new one is."""
    tensors = {f"model.{name}": tensor for name, tensor in model.items()}
    tensors |= {f"optim.{name}": tensor for name, tensor in optimiser.items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in (ema or {}).items()}
    metadata = {
        "format": FORMAT,
        "seal": NO_SEAL,
        "step": str(step),
        "recipe": json.dumps(recipe),
        "classes": json.dumps(classes),
        "origin": json.dumps(origin),
        "loss_scale": json.dumps(loss_scale or {}),
    }
    data = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    seal = hashlib.sha256(data).hexdigest()
    write_atomic(path, data.replace(_sealed(NO_SEAL), _sealed(seal), 1))


def _sealed(seal: str) -> bytes:
    return f'"seal":"{seal}"'.encode()


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint. Raises CheckpointError; nothing in the file is ever executed."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror}); give a run's folder or its file") from err
    metadata = _metadata(path, data)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a segnl checkpoint (format {metadata.get('format')!r}, expected {FORMAT!r}); "
            "weights from elsewhere go through `segnl import`"
        )
    seal = metadata.get("seal", "")
    if hashlib.sha256(data.replace(_sealed(seal), _sealed(NO_SEAL), 1)).hexdigest() != seal:
        raise CheckpointError(f"{path}: damaged (its checksum does not match); use an earlier checkpoint")
    tensors = safetensors.torch.load(data)
    return Checkpoint(
        path=path,
        step=int(metadata["step"]),
        recipe=json.loads(metadata["recipe"]),
        classes=json.loads(metadata["classes"]),
        origin=json.loads(metadata["origin"]),
        model=_under("model.", tensors),
        optim=_under("optim.", tensors),
        ema=_under("ema.", tensors),
        loss_scale=json.loads(metadata.get("loss_scale", "{}")),
    )


def _metadata(path: Path, data: bytes) -> dict[str, str]:
    """The safetensors header's metadata, once the header is known to fit the file."""
    try:
        safetensors.deserialize(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, struct.error, ValueError) as err:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({len(data)} bytes, truncated or of another kind); use an earlier one"
        ) from err
    return {str(key): str(value) for key, value in metadata.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step; names sort as steps do."""
    return run / f"step-{step:08d}{SUFFIX}"


def checkpoints_of(run: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    return sorted(run.glob(f"step-*{SUFFIX}"), reverse=True)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest one that is whole, a warning for each damaged one passed over; None where the run has none at all.

    Raises CheckpointError when there are some and every one is damaged.
    """
    paths = checkpoints_of(run)
    for path in paths:
        try:
            return load_checkpoint(path)
        except CheckpointError as err:
            warnings.warn(f"{err} - falling back to the one before", stacklevel=2)
    if paths:
        best = f" ({run / BEST} may be whole: eval and predict take it)" if (run / BEST).exists() else ""
        raise CheckpointError(f"{run}: every step-*{SUFFIX} is damaged{best}; start over with --fresh")
    return None


def open_checkpoint(run_or_file: Path) -> Checkpoint:
    """A file as it stands, or a run's last checkpoint. Raises CheckpointError where there is none."""
    if run_or_file.is_dir():
        found = newest_checkpoint(run_or_file)
        if found is None:
            raise CheckpointError(
                f"{run_or_file}: holds no step-*{SUFFIX}; is it a run's folder, and has it been saved?"
            )
        return found
    return load_checkpoint(run_or_file)


def broadcast_checkpoint(group: ProcessGroup, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What `find` returns on rank 0, on every rank: the others need not see its files."""
    found: list[Checkpoint] = []

    def without_tensors() -> Checkpoint | None:
        checkpoint = find()
        if checkpoint is None:
            return None
        found.append(checkpoint)
        return replace(checkpoint, model={}, optim={}, ema={})

    bare = group.run_on_rank0(without_tensors)
    if bare is None:
        return None
    own = found[0] if found else bare
    model, optim_state, ema = (group.broadcast(tensors) for tensors in (own.model, own.optim, own.ema))
    return replace(bare, model=model, optim=optim_state, ema=ema)


def set_damaged_aside(run: Path, newest_whole: Checkpoint) -> None:
    """Renames the damaged checkpoints after `newest_whole`, so that they do not count among the two that are kept."""
    for path in checkpoints_of(run):
        if path.name > newest_whole.path.name:
            path.rename(path.with_suffix(".damaged"))


def drop_old_checkpoints(run: Path, keep_every: int | None = None) -> None:
    """Keeps the newest two, of which one is whole even if the disk spoils the other, and every keep_every-th step's."""
    for path in checkpoints_of(run)[KEEP:]:
        if keep_every is None or step_of(path) % keep_every:
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-").removesuffix(SUFFIX))


def keep_as_best(path: Path) -> None:
    """Lets RUN/best.safetensors be the checkpoint `path`, at once and without a copy where the disk has hard links."""
    best = path.with_name(BEST)
    temporary = path.with_name(f".{BEST}.linking1")  # a name that remove_leftovers knows
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            write_atomic(best, path.read_bytes())
            return
        os.replace(temporary, best)
    except OSError as err:
        raise MachineError(f"{best}: cannot be written ({err.strerror}); free some space") from err


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, averaged: bool = False) -> None:
    """Puts a checkpoint's weights into a model built from its recipe; names and shapes must agree entirely.

    averaged: the running average's in place of those that training goes on from.
    """
    own, saved = model.state_dict(), checkpoint.ema if averaged else checkpoint.model
    wrong = sorted(own.keys() ^ saved.keys())
    wrong += [name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path}: {len(wrong)} tensors do not fit the model, '{wrong[0]}' first; "
            "the recipe describes another network than the one that was saved"
        )
    model.load_state_dict(saved)


def optimiser_tensors(optimiser: optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state under its parameters' names."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    out = {}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                out[f"{names[parameter]}.{key}"] = value
    return out


def restore_optimiser(optimiser: optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`, onto each parameter's device and layout."""
    parameters = dict(model.named_parameters())
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        if path not in parameters:
            raise CheckpointError(
                f"optimiser state of '{path}', which the model does not have; start over with --fresh"
            )
        state.setdefault(parameters[path], {})[key] = _like(tensor, parameters[path])
    for parameter, values in state.items():
        optimiser.state[parameter] = values


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:  # AdamW's step counter
        return tensor.clone()
    return torch.empty_like(parameter).copy_(tensor)
