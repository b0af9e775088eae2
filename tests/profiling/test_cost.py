import json
from pathlib import Path

import pytest

from segnl.cli.main import main
from segnl.core.errors import ConfigError, DataError
from segnl.profiling.cost import cost, counts_of, num_classes_of
from segnl.runs.recipe import load_recipe

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("head", "of_head"), [("aspp", 774.67), ("non_local", 544.68), ("rcca", 460.69), ("fcn", 444.16)]
)
def test_heads_of_the_shipped_recipes_cost_what_mmsegmentations_do(head, of_head):
    recipe = load_recipe(CONFIGS / "cityscapes" / f"{head}_r50.yaml")
    counts = counts_of(recipe, 19, (769, 769), "head")
    assert round(counts.gflops, 2) == round(counts.gflops_algorithm, 2) == of_head
    assert counts.shapes[3] == (1, 2048, 97, 97)


@pytest.mark.parametrize(
    ("head", "executed", "algorithm"),
    [
        ("{name: rcca, recurrence: 1}", 8.27, 8.27),
        ("{name: rcca, recurrence: 2}", 16.54, 16.54),
        ("{name: rcca, recurrence: 3}", 24.81, 24.81),
        ("{name: non_local}", 100.52, 108.15),
        ("{name: non_local, pairwise: dot_product}", 12.33, 108.15),
    ],
)
def test_attention_of_the_shipped_recipes_gives_the_published_table(head, executed, algorithm):
    recipe = load_recipe(CONFIGS / "cityscapes/rcca_r50.yaml", [f"model.head={head}"])
    counts = counts_of(recipe, 19, (769, 769), "attention")
    assert counts.shapes == ((1, 512, 97, 97),)
    assert (round(counts.gflops, 2), round(counts.gflops_algorithm, 2)) == (executed, algorithm)
    assert round(counts.comparison["non_local"], 2) == 108.15


def test_the_number_of_classes_needs_no_images(tiny_config, tmp_path):
    assert num_classes_of(load_recipe(CONFIGS / "cityscapes/fcn_r50.yaml")) == 19
    assert num_classes_of(load_recipe(CONFIGS / "ade20k/fcn_r50.yaml")) == 150
    assert num_classes_of(load_recipe(tiny_config)) == 3
    nowhere = load_recipe(tiny_config, [f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(DataError, match=r"classes.tsv: cannot be read .* --classes N"):
        num_classes_of(nowhere)


def test_the_command_writes_the_public_names(tiny_config, tmp_path, capsys):
    out = tmp_path / "cost.json"
    given = ["--input", "65x97", "--set", f"data.root={tmp_path / 'nowhere'}", "--classes", "7", "--json", str(out)]
    assert main(["cost", "--config", str(tiny_config), *given]) == 0
    mapping = json.loads(out.read_text())
    names = ["params", "gflops", "gflops_algorithm", "saved_mib", "peak_mib", "latency_ms"]
    assert list(mapping)[:6] == names
    assert all(mapping[name] > 0 for name in names)
    assert (mapping["num_classes"], mapping["input_hw"], mapping["complete"]) == (7, [65, 97], True)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "rough" in shown


def test_a_head_that_looks_at_values_is_counted_by_running_it(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "looking.py").write_text(
        "from segnl.models.heads.fcn import FCNConfig, FCNHead\n"
        "class LookingHead(FCNHead):\n"
        "    Config = FCNConfig\n"
        "    def forward(self, stages):\n"
        "        out = super().forward(stages)\n"
        "        return out if float(out.context.sum()) > 0 else out\n"
        "HEAD = LookingHead\n"
    )
    (tmp_path / "mylab").mkdir()
    (tmp_path / "looking.py").rename(tmp_path / "mylab" / "looking.py")
    monkeypatch.syspath_prepend(tmp_path)
    fcn = load_recipe(tiny_config, ["model.head={name: fcn, channels: 8}"])
    looking = load_recipe(tiny_config, ["model.head={name: mylab.looking, channels: 8}"])
    assert counts_of(looking, 3, (33, 41), "model").gflops == counts_of(fcn, 3, (33, 41), "model").gflops
    assert cost(looking, hw=(33, 41), num_classes=3).footprint.peak_mib > 0  # the other process finds it too


def test_sizes_below_one_are_refused(tiny_config):
    with pytest.raises(ConfigError, match="at least 1"):
        cost(load_recipe(tiny_config), hw=(0, 5))
