"""Two runs that were trained for a moment, on streets of 64x128 pixels."""

from pathlib import Path

import pytest

RECIPE = """\
model:
  backbone: {{name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.0625, output_stride: 8}}
  head: {{name: {head}, channels: 8}}
  aux: null
data: {{name: streets, root: {root}, crop_hw: [64, 96], workers: 0}}
train: {{max_steps: 2, batch_size: 2}}
optim: {{name: adamw, lr: 1e-2}}
schedule: {{name: poly}}
loss: {{name: cross_entropy}}
"""


@pytest.fixture(scope="session")
def street_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of an fcn and an rcca run with three validation images. Not to be changed; copy them."""
    from segnl.datasets.streets_files import generate
    from segnl.engine.fit import fit
    from segnl.engine.recipe import load_recipe

    folder = tmp_path_factory.mktemp("street_runs")
    generate(folder / "streets", num_train=4, num_val=3, hw=(64, 128))
    for head in ("fcn", "rcca"):
        config = folder / f"{head}.yaml"
        config.write_text(RECIPE.format(head=head, root=folder / "streets"))
        assert fit(load_recipe(config), folder / head) == 0
    return folder / "fcn", folder / "rcca"
