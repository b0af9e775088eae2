import json
from pathlib import Path

import pytest

from segnl.cli.main import main
from segnl.core.errors import ConfigError, DataError
from segnl.profiling.cost import cost, count_module, num_classes_of
from segnl.runs.recipe import load_recipe

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("head", "expected"), [("aspp", 774.67), ("non_local", 544.68), ("rcca", 460.69), ("fcn", 444.16)]
)
def test_heads_of_the_shipped_recipes_have_mmsegmentations_flops(head, expected):
    recipe = load_recipe(CONFIGS / "cityscapes" / f"{head}_r50.yaml")
    counts = count_module(recipe, 19, (769, 769), "head")
    assert round(counts.gflops, 2) == round(counts.gflops_algorithm, 2) == expected
    assert counts.input_shapes[3] == (1, 2048, 97, 97)


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
def test_attention_blocks_have_the_published_flops(head, executed, algorithm):
    recipe = load_recipe(CONFIGS / "cityscapes/rcca_r50.yaml", [f"model.head={head}"])
    counts = count_module(recipe, 19, (769, 769), "attention")
    assert counts.input_shapes == ((1, 512, 97, 97),)
    assert (round(counts.gflops, 2), round(counts.gflops_algorithm, 2)) == (executed, algorithm)
    assert round(counts.comparison["non_local"], 2) == 108.15


def test_the_number_of_classes_needs_no_images(tiny_config, tmp_path):
    assert num_classes_of(load_recipe(CONFIGS / "cityscapes/fcn_r50.yaml")) == 19
    assert num_classes_of(load_recipe(CONFIGS / "ade20k/fcn_r50.yaml")) == 150
    assert num_classes_of(load_recipe(tiny_config)) == 3
    nowhere = load_recipe(tiny_config, [f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(DataError, match=r"classes.tsv: cannot be read .* --classes N"):
        num_classes_of(nowhere)


def test_the_command_writes_the_documented_keys(tiny_config, tmp_path, capsys):
    out = tmp_path / "cost.json"
    arguments = ["--input", "65x97", "--set", f"data.root={tmp_path / 'nowhere'}", "--classes", "7", "--json", str(out)]
    assert main(["cost", "--config", str(tiny_config), *arguments]) == 0
    mapping = json.loads(out.read_text())
    assert mapping.pop("written_by") == "segnl cost"
    names = ["params", "gflops", "gflops_algorithm", "saved_mib", "peak_mib", "latency_ms"]
    assert list(mapping)[:6] == names
    assert all(mapping[name] > 0 for name in names)
    assert (mapping["num_classes"], mapping["input_hw"], mapping["complete"]) == (7, [65, 97], True)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "approximate" in shown


def test_a_head_that_reads_values_is_counted_on_real_tensors(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "reading.py").write_text(
        "from segnl.models.heads.fcn import FCNConfig, FCNHead\n"
        "class ReadingHead(FCNHead):\n"
        "    Config = FCNConfig\n"
        "    def forward(self, stages):\n"
        "        out = super().forward(stages)\n"
        "        return out if float(out.context.sum()) > 0 else out\n"
        "HEAD = ReadingHead\n"
    )
    (tmp_path / "mylab").mkdir()
    (tmp_path / "reading.py").rename(tmp_path / "mylab" / "reading.py")
    monkeypatch.syspath_prepend(tmp_path)
    fcn = load_recipe(tiny_config, ["model.head={name: fcn, channels: 8}"])
    reading = load_recipe(tiny_config, ["model.head={name: mylab.reading, channels: 8}"])
    assert count_module(reading, 3, (33, 41), "model").gflops == count_module(fcn, 3, (33, 41), "model").gflops
    assert cost(reading, hw=(33, 41), num_classes=3).profile.peak_mib > 0  # the measuring process imports it too


def test_sizes_below_one_are_refused(tiny_config):
    with pytest.raises(ConfigError, match="at least 1"):
        cost(load_recipe(tiny_config), hw=(0, 5))
