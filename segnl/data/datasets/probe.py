"""The context probe: images made as they are read, in which a target's class is shown by a cue elsewhere.

segnl/probe/scene.py draws them, docs/probe.md explains them.
"""

import functools
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from segnl.core.arrays import Ids, Pixels
from segnl.core.config import Seed, SidePx
from segnl.core.errors import DataError
from segnl.data.base import DataConfig, Files, Scale, SegmentationData
from segnl.data.sample import Sample
from segnl.labels.table import ClassTable
from segnl.probe.scene import COLOURS, COUNTS, VERSION, Layout, Scene, Task, render_scene

SPLITS = ("train", "val")


class ProbeConfig(DataConfig):
    """Settings of the probe. `crop_hw` is the images' size; a training crop is the whole image, unchanged."""

    name: str = "probe"
    root: Path = Path()
    """Not used: there are no files."""
    task: Task = "reach"
    """What the class of a target depends on (segnl/probe/scene.py)."""
    crop_hw: tuple[SidePx, SidePx] = (48, 48)
    cell_px: Annotated[int, Field(ge=2, le=256)] = 4
    """Side of a patch, and of a cell of the grid on which cues and targets lie."""
    num_targets: Annotated[int, Field(ge=1, le=64)] = 8
    """Targets in an image."""
    on_cross: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the training targets that share a row or column with their cue. In split val, all offsets between
    cue and target occur equally often."""
    num_train: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    num_val: Annotated[int, Field(ge=2, le=1_000_000)] = 400
    data_seed: Seed = 0
    """Seed of the images, the same for all training seeds."""
    scale: Scale = (1.0, 1.0)
    flip: bool = False
    distort: bool = False
    augment: tuple[()] = ()
    workers: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.crop_hw[0] // self.cell_px, self.crop_hw[1] // self.cell_px

    @model_validator(mode="after")
    def _grid_fits(self) -> Self:
        if any(side % self.cell_px for side in self.crop_hw):
            raise ValueError(f"crop_hw {list(self.crop_hw)}: not a multiple of cell_px {self.cell_px}")
        rows, columns = self.grid_hw
        needed = self.num_targets + sum(COUNTS[0])
        if min(rows, columns) < 3 or rows * columns < 2 * needed:
            raise ValueError(f"a grid of {rows}x{columns} cells is too small for {self.num_targets} targets")
        return self


class Probe(SegmentationData):
    """Splits train and val of generated images."""

    Config = ProbeConfig
    cfg: ProbeConfig

    @classmethod
    def class_table(cls, cfg: ProbeConfig) -> ClassTable:
        return ClassTable(list(COLOURS), list(COLOURS.values()), title="probe")

    def find_images(self) -> Files:
        if self.split not in SPLITS:
            raise DataError(f"probe: no split '{self.split}'; it has {', '.join(SPLITS)}")
        count = self.cfg.num_train if self.split == "train" else self.cfg.num_val
        return {f"probe_{index:08d}": Path(f"probe_{index:08d}") for index in range(count)}

    def find_labels(self) -> Files:
        return self.find_images()

    def label_folder(self) -> Path:
        return self.root / "probe"

    def files_of(self, i: int) -> list[Path]:
        return []

    @property
    def generated_from(self) -> str:
        return f"probe {VERSION} {self.cfg.data_seed} {self.split} {self._layout}"

    def scene(self, i: int) -> Scene:
        """Returns image `i` with the places of its targets and cues."""
        return render_scene(self._layout, seed=self.cfg.data_seed, split=self.split, index=i)

    @functools.cached_property
    def _layout(self) -> Layout:
        cfg = self.cfg
        on_cross = cfg.on_cross if self.split == "train" else None
        return Layout(cfg.task, cfg.grid_hw, cfg.cell_px, cfg.num_targets, on_cross)

    def read_image(self, i: int) -> Pixels:
        return self.scene(i).image

    def read_ids(self, i: int) -> Ids:
        return self.scene(i).label

    def read(self, i: int) -> Sample:
        scene = self.scene(i)
        return Sample(scene.image, scene.label, self.sample_ids[i])


DATASET = Probe
