"""A study small enough to train in a test: two heads on streets of 64x128 pixels."""

from pathlib import Path

import pytest

from segnl.streets.files import generate

BASE = """\
model:
  backbone: {{name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.0625, output_stride: 8}}
  head: {{name: fcn, channels: 8}}
  aux: {{channels: 8}}
data: {{name: streets, root: {root}, crop_hw: [64, 96], workers: 0}}
train: {{max_steps: 3, batch_size: 2, save_every: 2}}
optim: {{name: adamw, lr: 1e-3}}
schedule: {{name: poly}}
loss: {{name: cross_entropy}}
"""
STUDY = """\
base: base.yaml
heads:
  fcn: {model: {head: {name: fcn, channels: 8}}}
  rcca: {model: {head: {name: rcca, channels: 8}}}
seeds: [0]
note: A note for the page.
"""


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five streets to train on, three to validate on."""
    root = tmp_path_factory.mktemp("data") / "streets"
    generate(root, num_train=5, num_val=3, hw=(64, 128))
    return root


def write_study(folder: Path, root: Path, text: str = STUDY) -> Path:
    (folder / "base.yaml").write_text(BASE.format(root=root))
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def study_file(tmp_path: Path, streets: Path) -> Path:
    """A study's file, not yet run."""
    return write_study(tmp_path, streets)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, streets: Path) -> Path:
    """A folder in which the study was run: tiny.yaml, out.json and checkpoints/tiny. Not to be changed."""
    from segnl.studies.run import compare

    folder = tmp_path_factory.mktemp("finished")
    path = write_study(folder, streets)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare(path, folder / "out.json")
    return folder
