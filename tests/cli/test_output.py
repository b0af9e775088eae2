"""Whatever becomes of the terminal, the results are on disk and the exit code is that of the work."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from segnl.cli.main import main
from segnl.core.log import console_log, log, printable
from segnl.data.find import DATASETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tiny_config, tmp_path):
    """Runs `segnl check` in a shell with `redirection`; its class names hold what no ascii terminal has."""
    table = tmp_path / "tiny" / "classes.tsv"
    table.write_text(table.read_text().replace("road", "Straße"), encoding="utf-8")

    def run(redirection, **environment):
        line = f'"{sys.executable}" -m segnl check --config "{tiny_config}" --json "{tmp_path}/out.json" {redirection}'
        process = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "NO_ALBUMENTATIONS_UPDATE": "1"} | environment,
            capture_output=True,
            encoding=environment.get("PYTHONIOENCODING", "utf-8"),
            check=False,
        )
        return process, json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin1"])
def test_a_terminal_without_the_characters_shows_them_escaped(check, encoding):
    process, report = check("| cat", PYTHONIOENCODING=encoding)
    assert process.returncode == 0
    assert report["num_pairs"] == 8
    assert ("Straße" if encoding == "latin1" else "Stra\\xdfe") in process.stdout
    assert "Traceback" not in process.stderr


def test_a_reader_that_leaves_costs_nothing(check):
    process, report = check("| head -c 1")
    assert (process.returncode, report["num_pairs"], process.stderr.count("Error")) == (0, 8, 0)


def test_a_closed_output_costs_nothing(check):
    process, report = check(">&-")
    assert (process.returncode, report["num_pairs"], process.stdout) == (0, 8, "")
    process, report = check(">&- 2>&- <&-")
    assert (process.returncode, report["num_pairs"]) == (0, 8)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_output_is_one_line_after_the_results_are_written(check):
    process, report = check("> /dev/full")
    assert (process.returncode, report["num_pairs"]) == (6, 8)
    lines = [line for line in process.stderr.splitlines() if line.startswith("segnl: error")]
    assert lines == [
        "segnl: error: standard output cannot be written ([Errno 28] No space left on device); all files are complete"
    ]


def test_results_are_written_before_they_are_printed(tiny_config, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise InterruptedError

    labels = str(tmp_path / "tiny" / "labels" / "val")
    monkeypatch.setattr("segnl.cli.check._splits", lambda recipe, _: [DATASETS.find("folder")(recipe.data, "val")])
    monkeypatch.setattr("builtins.print", stop)
    for command, *words in (
        ["check", "--config", str(tiny_config)],
        ["score", labels, "--labels", labels, "--classes", str(tmp_path / "tiny" / "classes.tsv"), "--ignore=9"],
    ):
        assert main([command, *words, "--json", str(tmp_path / f"{command}.json")]) == 6
        assert json.loads((tmp_path / f"{command}.json").read_text())


def test_control_characters_are_escaped():
    assert printable("a\x1b[31mb\rc\x07\x9b\u202ed\u200f\te\n") == "a\\x1b[31mb\\rc\\x07\\x9b\\u202ed\\u200f\te\n"


def test_the_middle_of_a_long_line_is_left_out():
    assert printable("a" * 3000 + "\n" + "b" * 9000) == "a" * 3000 + "\n" + "b" * 2000 + " ... " + "b" * 2000


def test_a_line_break_in_the_name_of_a_file_does_not_make_a_second_line(
    tiny_config, tiny_data, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels"):
        file = tiny_data / kind / "val" / "frame0.png"
        file.rename(file.with_name("a\nsegnl: all is well.png"))
    (tiny_data / "labels" / "val" / "a\nsegnl: all is well.png").write_bytes(b"")
    assert main(["check", "--config", str(tiny_config)]) == 3
    with console_log(), warnings.catch_warnings():
        log.warning("a\nsegnl: all is well")
    shown = capsys.readouterr()
    assert "segnl: all is well" in shown.out
    assert "\nsegnl: all is well" not in shown.out + shown.err


def test_a_class_name_cannot_send_escape_sequences(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "tiny" / "classes.tsv"
    table.write_text(table.read_text().replace("road", "ro\x1b[2Jad"), encoding="utf-8")
    assert main(["check", "--config", str(tiny_config)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_error_cannot_send_escape_sequences(tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "x\x1b[2J.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_an_unknown_option_cannot_send_escape_sequences(capsys):
    """A shell's `*` gives the names of a stranger's files."""
    with pytest.raises(SystemExit):
        main(["predict", "--checkpoint", "x", "--out", "o", "x.png", "--\x1b]0;owned\x07b.png"])
    assert "unrecognized arguments: --\\x1b]0;owned\\x07b.png" in capsys.readouterr().err
