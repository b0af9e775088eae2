import os
import subprocess
import sys
from pathlib import Path

import pytest

import segnl
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


STARTS_A_WORKER = """
import multiprocessing, sys
from segnl.cli import main

def start(words):
    process = multiprocessing.get_context(words[0]).Process(target=print, args=("fine",))
    process.start()
    process.join()
    return process.exitcode

if __name__ == "__main__":
    main._run = start
    sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_workers_of_other_start_methods_do_not_import_from_the_working_directory(tmp_path, start_method):
    """Spawn is macOS's, forkserver that of Python 3.14 on Linux."""
    (tmp_path / "cwd").mkdir()
    for name in ("socket", "random", "pickle"):
        (tmp_path / "cwd" / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    (tmp_path / "start.py").write_text(STARTS_A_WORKER)
    process = subprocess.run(
        [sys.executable, "../start.py", start_method],
        cwd=tmp_path / "cwd",
        env=os.environ | {"PYTHONPATH": str(Path(segnl.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.stdout, process.stderr, process.returncode) == ("fine\n", "", 0)
