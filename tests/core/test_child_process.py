import os
import subprocess
import sys

import pytest

from segnl.core.child_process import child_command, child_environment


def test_a_file_in_the_working_directory_does_not_replace_the_standard_library(tmp_path, monkeypatch):
    for name in ("random", "yaml", "json", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    process = subprocess.run(
        child_command("import random, yaml, json, segnl; print('fine')"),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.stdout, process.stderr) == ("fine\n", "")


@pytest.mark.parametrize("name", ["lab", "co:lon", os.fsdecode(b"\xff")])
def test_a_child_finds_what_its_parent_finds(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mylab_child.py").write_text("WORD = 'found'\n")
    monkeypatch.syspath_prepend(str(folder))
    process = subprocess.run(
        child_command("import mylab_child; print(mylab_child.WORD)"),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == "found\n"


def test_the_streams_of_a_child_are_utf_8_whatever_the_terminal_s_are(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-16")
    process = subprocess.run(
        child_command("print(input())"), env=child_environment(), input="ß".encode(), capture_output=True, check=False
    )
    assert process.stdout.decode() == "ß\n"
