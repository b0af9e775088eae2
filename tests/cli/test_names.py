"""File names that are not UTF-8, as old disks and archives hold them, work in every command."""

import json
import logging
import os
import sys

import pytest

from segnl.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")


def latin1(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def test_new_takes_a_link_to_a_folder_whose_name_is_not_utf8(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tiny_data.rename(tmp_path / latin1("caf\xe9")))
    assert main(["new", latin1("caf\xe9"), "--out", "a.yaml"]) == 2
    assert "or give a symbolic link to it" in capsys.readouterr().err
    assert main(["new", "data"]) == 0
    assert main(["check", "--config", "data.yaml", "--split", "train"]) == 0


def test_names_that_are_not_utf8_work_everywhere(tiny_config, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("segnl"), "propagate", False)  # pytest-xdist cannot send such names
    root = tiny_data.rename(tmp_path / latin1("caf\xe9"))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            folder = root / kind / split
            (folder / "frame0.png").rename(folder / latin1("fr\xe4me0.png"))
            (folder / latin1("s\xfcd")).mkdir()
            (folder / "frame1.png").rename(folder / latin1("s\xfcd") / "frame1.png")
    data = "{name: folder, root: caf, crop_hw: [33, 41], ignore_ids: [9], workers: 0}"
    (tmp_path / "caf").symlink_to(root)
    config = tmp_path / latin1("r\xe9.yaml")
    config.write_text(tiny_config.read_text())
    source = ["--config", str(config), "--set", f"data={data}"]
    run, out, result = latin1("r\xfcn"), latin1("\xf6ut"), latin1("sc\xf6re.json")
    checkpoint = ["--checkpoint", f"checkpoints/{run}"]
    assert main(["check", *source, "--json", latin1("ch\xe9ck.json")]) == 0
    assert main(["train", *source, "--run", run, "--set", "train.max_steps=1", "--set", "train.pictures=true"]) == 0
    assert main(["eval", *checkpoint, "--masks", out, "--json", latin1("\xe9val.json")]) == 0
    assert main(["predict", *checkpoint, str(root / "images" / "val"), "--out", latin1("m\xe4sks")]) == 0
    assert main(["inspect", *checkpoint, "--out", latin1("p\xe4ge"), "--images", "2"]) == 0
    assert main(["curves", f"checkpoints/{run}", "--out", latin1("c\xfcrves.png")]) == 0
    masks = [f"{out}/ids", "--labels", str(root / "labels" / "val"), "--classes", str(root / "classes.tsv")]
    assert main(["score", *masks, "--ignore", "9", "--json", result]) == 0
    assert main(["compare", result, result.replace("json", "counts.npz")]) in (0, 2)  # the same file twice
    scores = [json.loads((tmp_path / name).read_text())["miou"] for name in (result, latin1("\xe9val.json"))]
    assert scores[0] == scores[1]
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) == 3
    for page in pages:
        page.read_text(encoding="utf-8")
    assert "Traceback" not in capsys.readouterr().err
