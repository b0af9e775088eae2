"""A trained run: its checkpoint and, opened from it, its recipe, class table, data and network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segnl.core.config import JSONDict, merge
from segnl.core.errors import CheckpointError
from segnl.core.result_cache import ResultCache
from segnl.data.base import SegmentationData
from segnl.labels.table import ClassTable
from segnl.models.segmenter import Segmenter
from segnl.models.weights.strict import build_and_load
from segnl.runs.build import build_data
from segnl.runs.checkpoint import (
    Checkpoint,
    checkpoints_of,
    class_table_from_dict,
    load_weights,
    newest_checkpoint,
    open_checkpoint,
)
from segnl.runs.recipe import Recipe, compose_overridden, differing_keys
from segnl.runs.trust import require_trusted_modules


@dataclass(frozen=True)
class Run:
    """A trained network and all that it was trained with. recipe: the checkpoint's own, or one that differs from it in
    the data set's place and in how the network is evaluated.
    """

    checkpoint: Checkpoint
    recipe: Recipe

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.checkpoint.path

    @property
    def folder(self) -> Path:
        """The folder of the checkpoint's file."""
        return self.path.parent

    @property
    def is_last_checkpoint(self) -> bool:
        """Whether the checkpoint is the last of a run, and not its best, an earlier one, or a file of its own."""
        return checkpoints_of(self.folder)[:1] == [self.checkpoint.path]

    @property
    def class_table(self) -> ClassTable:
        """The classes that the network predicts."""
        return class_table_from_dict(self.checkpoint.classes)

    @property
    def cache(self) -> ResultCache:
        """RUN/cache: results that are computed once."""
        return ResultCache.of(self.folder)

    def open_data(self, split: str, *, needs_labels: bool = True) -> SegmentationData:
        """The recipe's data set. needs_labels: False accepts a split without labels.

        Raises CheckpointError when its classes are not those of the network, DataError as `build_data` does.
        """
        data = build_data(self.recipe, split, needs_labels=needs_labels)
        names = self.checkpoint.classes["names"]
        if names != list(data.table.names):
            raise CheckpointError(
                f"{self.checkpoint.path}: predicts {len(names)} classes ({', '.join(names[:3])} ...), but {data.root} "
                f"has {data.table.num_classes} ({', '.join(data.table.names[:3])} ...); use the data set that it was "
                "trained on"
            )
        return data

    def build_model(self) -> Segmenter:
        """The network with its trained weights, the EMA of them where the run has one, on the CPU."""
        num_classes = len(self.checkpoint.classes["names"])
        return build_and_load(
            lambda: Segmenter(self.recipe.model, num_classes, num_frames=self.recipe.data.frames),
            lambda model: load_weights(model, self.checkpoint, use_ema=bool(self.checkpoint.ema)),
            where=str(self.path),
        )


def open_run(
    run_or_file: Path,
    overrides: Sequence[str] = (),
    *,
    settings: JSONDict | None = None,
    trust_modules: Sequence[str] = (),
) -> Run:
    """Opens a run's last checkpoint or a checkpoint's file.

    settings: sections of the recipe that replace the checkpoint's own key by key; overrides: `a.b=c`, after them.
    trust_modules: modules, or packages of them, that the checkpoint's recipe may import.

    Raises CheckpointError when there is no checkpoint, it is damaged, its recipe names a module that is not trusted,
    or the settings would mean another network.
    """
    checkpoint = open_checkpoint(run_or_file)
    require_trusted_modules(checkpoint.recipe, trust_modules, file=str(checkpoint.path))
    mapping = merge(checkpoint.recipe, settings or {})
    recipe = compose_overridden(mapping, overrides, file=str(checkpoint.path))
    changed = [key for key in differing_keys(recipe.to_dict(), checkpoint.recipe) if key.startswith("model.")]
    if changed:
        raise CheckpointError(f"{checkpoint.path}: was trained with another {', '.join(changed)}; drop that --set")
    return Run(checkpoint, recipe)


def finished_run(folder: Path, recipe: Recipe) -> Run:
    """The run of this recipe in a folder. Raises CheckpointError where it was not trained to its end."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None or checkpoint.step < recipe.train.num_steps:
        raise CheckpointError(f"{folder}: not trained to its end; train it again")
    return Run(checkpoint, recipe)
