"""Small data sets on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.data.datasets.folder import Folder, FolderConfig

MakeFolder = Callable[..., Folder]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder(n, hw=..., **settings): a folder data set of n images with three classes, 9 for void."""

    def make(count: int, *, hw: tuple[int, int] = (13, 17), **settings: object) -> Folder:
        rng = np.random.default_rng(0)
        for kind in ("images", "labels"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\ta\t1\t2\t3\n1\tb\t4\t5\t6\n2\tc\t7\t8\t9\n")
        for i in range(count):
            image = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
            label = rng.choice(np.array([0, 1, 2, 9, 255], np.uint8), size=hw)
            Image.fromarray(image).save(tmp_path / f"images/train/street_{i}.png")
            Image.fromarray(label).save(tmp_path / f"labels/train/street_{i}.png")
        cfg = FolderConfig.model_validate(
            {"name": "folder", "root": tmp_path, "crop_hw": (7, 11), "ignore_ids": (9,), **settings}
        )
        return Folder(cfg, "train", allow_unmatched=True)

    return make
