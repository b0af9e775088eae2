"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

# Before torch and albumentations are imported. The tensors of tests are tiny: many threads would slow them down.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real frames and reference files: SEGNL_SHARED, or shared/ beside the checkout."""
    folder = Path(os.environ.get("SEGNL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference files at {folder}; set SEGNL_SHARED to the folder that holds them")
    return folder


TINY_RECIPE = """\
model:
  backbone: {{name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.125, output_stride: 8}}
  head: {{name: rcca, channels: 16}}
  aux: {{channels: 8}}
data: {{name: folder, root: {root}, crop_hw: [33, 41], ignore_ids: [9], workers: 0}}
train: {{max_steps: 6, batch_size: 2, save_every: 2, eval_every: null, pictures: false}}
optim: {{name: sgd, lr: 0.05}}
schedule: {{name: poly}}
loss: {{name: cross_entropy}}
"""


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A folder data set of three classes: five training and three validation pairs of 37x53 pixels, some ignored."""
    return write_tiny_data(tmp_path)


def write_tiny_data(folder: Path) -> Path:
    """Writes the data set of `tiny_data` to folder/tiny."""
    import numpy as np
    from PIL import Image

    root = folder / "tiny"
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            label = np.kron(random.integers(0, 3, (5, 7)), np.ones((8, 8), int))[:37, :53].astype(np.uint8)
            image = (label[..., None] * 60 + random.integers(0, 60, (37, 53, 3))).astype(np.uint8)
            label[:3] = 9
            Image.fromarray(image).save(root / "images" / split / f"frame{index}.png")
            Image.fromarray(label).save(root / "labels" / split / f"frame{index}.png")
    rows = ["index\tname\tr\tg\tb", "0\troad\t128\t64\t128", "1\tsky\t70\t130\t180", "2\ttree\t0\t128\t0"]
    (root / "classes.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def tiny_config(tiny_data: Path, tmp_path: Path) -> Path:
    """A recipe file over `tiny_data` whose training takes a second."""
    path = tmp_path / "tiny_rcca.yaml"
    path.write_text(TINY_RECIPE.format(root=tiny_data))
    return path


STREETS_RECIPE = """\
model:
  backbone: {{name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.0625, output_stride: 8}}
  head: {{name: {head}, channels: 8}}
  aux: null
data: {{name: streets, root: {root}, crop_hw: [64, 96], workers: 0}}
train: {{max_steps: 2, batch_size: 2, eval_every: null}}
optim: {{name: adamw, lr: 1e-2}}
schedule: {{name: poly}}
loss: {{name: cross_entropy}}
"""


@pytest.fixture(scope="session")
def street_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an fcn and an rcca run with three validation images. Do not change them; copy them."""
    from segnl.runs.recipe import load_recipe
    from segnl.streets.files import generate
    from segnl.training.fit import fit

    folder = tmp_path_factory.mktemp("street_runs")
    generate(folder / "streets", num_train=4, num_val=3, hw=(64, 128))
    for head in ("fcn", "rcca"):
        config = folder / f"{head}.yaml"
        config.write_text(STREETS_RECIPE.format(head=head, root=folder / "streets"))
        fit(load_recipe(config), folder / head)
    return folder / "fcn", folder / "rcca"
