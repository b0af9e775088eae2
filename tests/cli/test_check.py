import json
import shutil

from segnl.cli.main import main


def check(config, *words):
    return main(["check", "--config", str(config), *map(str, words)])


def test_a_clean_split_is_counted_class_by_class(tiny_config, tmp_path, capsys):
    assert check(tiny_config, "--split", "train", "--json", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["faults"], report["num_pairs"]) == ([], 5)
    assert sum(report["pixels_per_class"].values()) == 5 * 34 * 53
    assert abs(report["void_fraction"] - 3 / 37) < 1e-12
    assert report["splits"]["train"]["num_pairs"] == 5
    assert "train: 5 pairs, 8.11 % of their pixels ignored; 0 errors" in capsys.readouterr().out


def test_every_error_is_named_and_the_exit_code_is_that_of_data(tiny_config, tiny_data, capsys):
    (tiny_data / "images" / "train" / "frame0.png").unlink()
    broken = tiny_data / "labels" / "train" / "frame3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    assert check(tiny_config, "--split", "train") == 3
    out = capsys.readouterr().out
    assert "frame0.png" in out
    assert "frame3.png" in out
    assert "2 errors" in out


def test_without_a_split_train_and_val_are_checked(tiny_config, tiny_data, tmp_path, capsys):
    for split, name in (("train", "frame3.png"), ("val", "frame1.png")):
        broken = tiny_data / "labels" / split / name
        broken.write_bytes(broken.read_bytes()[:50])
    assert check(tiny_config, "--json", tmp_path / "report.json") == 3
    report = json.loads((tmp_path / "report.json").read_text())
    assert [fault["file"].split("labels/")[1] for fault in report["faults"]] == ["train/frame3.png", "val/frame1.png"]
    assert report["num_pairs"] == 5 + 3
    assert {name: mapping["num_pairs"] for name, mapping in report["splits"].items()} == {"train": 5, "val": 3}
    assert sum(report["pixels_per_class"].values()) == (4 + 2) * 34 * 53
    assert abs(report["void_fraction"] - 3 / 37) < 1e-12
    assert "val: 3 pairs" in capsys.readouterr().out


def test_a_missing_val_split_is_a_note_and_no_error(tiny_config, tiny_data, capsys):
    shutil.rmtree(tiny_data / "images" / "val")
    assert check(tiny_config) == 0
    assert "note: val is not checked: " in capsys.readouterr().out


def test_images_of_train_and_val_are_noted(tiny_config, tiny_data, capsys):
    for split, names in (("train", ["frame0", "frame1"]), ("val", ["frame1", "frame2"])):
        (tiny_data / f"{split}.txt").write_text("\n".join(names))
    folders = ("data.image_folder=images/train", "data.label_folder=labels/train", "data.samples='{split}.txt'")
    assert check(tiny_config, *(word for folder in folders for word in ("--set", folder))) == 0
    frame = tiny_data / "images" / "train" / "frame1.png"
    assert f"note: 1 images are in train and in val, such as {frame}" in capsys.readouterr().out
