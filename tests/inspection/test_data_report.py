import json

from segnl.engine.recipe import load_recipe
from segnl.inspection.data_report import report_data


def test_a_clean_split_is_counted_class_by_class(tiny_config, tmp_path, capsys):
    assert report_data(load_recipe(tiny_config), "train", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["faults"], report["num_pairs"]) == ([], 5)
    assert sum(report["pixels_per_class"].values()) == 5 * 34 * 53
    assert abs(report["void_fraction"] - 3 / 37) < 1e-12
    assert "5 pairs, 8.11 % of their pixels void; 0 faults" in capsys.readouterr().out


def test_every_fault_is_named_and_the_exit_code_is_that_of_data(tiny_config, tiny_data, capsys):
    (tiny_data / "images" / "train" / "frame0.png").unlink()
    broken = tiny_data / "labels" / "train" / "frame3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    assert report_data(load_recipe(tiny_config), "train", None) == 3
    out = capsys.readouterr().out
    assert "frame0.png" in out
    assert "frame3.png" in out
    assert "2 faults" in out
