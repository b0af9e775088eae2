"""A pipe that nobody writes to, in place of any file that is read: an error at once, never a wait for ever."""

import os
import signal
from pathlib import Path

import pytest

from segnl.cli.main import main

CHECKPOINT = ["--checkpoint", "checkpoints/a"]
EVAL = ["eval", *CHECKPOINT]
SCORE = ["score", "tiny/labels/val", "--labels", "tiny/labels/val", "--classes", "tiny/classes.tsv", "--ignore", "9"]
CHECK, NEW = ["check", "--config", "tiny_rcca.yaml"], ["new", "tiny", "--out", "n"]
LABEL, IMAGE = "tiny/labels/val/frame0.png", "tiny/images/val/frame0.png"
INPUTS = [
    *(
        (LABEL, words)
        for words in (EVAL, SCORE, ["check", "--config", "tiny_rcca.yaml"], ["new", "tiny", "--out", "n"])
    ),
    *((IMAGE, words) for words in (EVAL, ["check", "--config", "tiny_rcca.yaml"], ["new", "tiny", "--out", "n"])),
    ("tiny/labels/train/frame0.png", ["train", "--config", "tiny_rcca.yaml", "--run", "b"]),
    *(("tiny/classes.tsv", words) for words in (EVAL, SCORE, NEW)),
    ("clip.mp4", ["predict", *CHECKPOINT, "clip.mp4", "--out", "o"]),
    ("tiny_rcca.yaml", CHECK),
    *((name, ["score", name, *SCORE[2:]]) for name in ("m.npz", "m.json")),
    *((name, ["compare", name, "b.json"]) for name in ("m.json", "m.counts.npz")),
    ("checkpoints/a/.lock", ["train", "--config", "tiny_rcca.yaml", "--run", "a"]),
    ("checkpoints/a/log.jsonl", ["curves", "checkpoints/a", "--out", "o.png"]),
    ("checkpoints/a/step-00000006.safetensors", ["export", *CHECKPOINT[:1], "checkpoints/a/step-00000006.safetensors"]),
    ("s/streets.json", ["data", "streets", "--out", "s", "--train", "1", "--val", "1"]),
    ("m/masks.json", [*EVAL, "--masks", "m"]),
    ("x.safetensors", ["import", "--from", "mmaction", "x.safetensors", "--out", "o.safetensors"]),
    ("p.py", ["import", "--from", "mmaction", IMAGE, "--peer-config", "p.py", "--out", "o.safetensors"]),
]


def test_a_pipe_in_place_of_a_file_is_one_line(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(tiny_config), "--run", "a"]) == 0
    for name, words in INPUTS:
        file, moved = tmp_path / name, tmp_path / "moved"
        file.parent.mkdir(exist_ok=True)
        if file.exists():
            file.rename(moved)
        os.mkfifo(file)
        words = [*words, "--out", "o.safetensors"] if words[0] == "export" else words
        capsys.readouterr()
        signal.alarm(60)  # kills the test
        code = main(words)
        signal.alarm(0)
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segnl: error")]
        assert code in (2, 3, 4, 6), words
        assert words[0] == "check" or len(err) == 1, words  # check lists all errors
        file.unlink()
        if moved.exists():
            moved.rename(file)


def test_results_of_a_run_that_are_pipes_are_computed_again(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(tiny_config), "--run", "a"]) == 0
    assert main(EVAL) == 0
    for name, code in (("per_image.npz", 0), ("metrics.json", 2)):  # the second says whose the folder is
        (tmp_path / "checkpoints/a/eval/val-whole" / name).unlink()
        os.mkfifo(tmp_path / "checkpoints/a/eval/val-whole" / name)
        signal.alarm(60)
        assert main(EVAL) == code
        signal.alarm(0)
