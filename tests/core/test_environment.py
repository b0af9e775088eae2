import os
import subprocess

from segnl.core.environment import git_state, machine, versions


def test_git_state_outside_a_checkout_is_null(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": False}


def test_git_state_tells_a_changed_file(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-qm", "one")
    clean = git_state(tmp_path)
    (tmp_path / "f").write_text("2")
    index = (tmp_path / ".git" / "index").stat().st_ino
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], git_state(tmp_path)["dirty"]) == (False, True)
    (tmp_path / "f").write_text("1")
    os.utime(tmp_path / "f", (0, 0))  # git would refresh its index now, under a lock that a kill leaves behind
    git_state(tmp_path)
    assert (tmp_path / ".git" / "index").stat().st_ino == index


def test_the_repository_around_an_environment_is_not_that_of_the_package(tmp_path):
    site = tmp_path / ".venv" / "lib"
    site.mkdir(parents=True)
    (site / "module.py").touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    for words in (("init", "-q"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "one")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert git_state(tmp_path)["commit"] is not None
    assert git_state(site) == {"commit": None, "dirty": False}


def test_git_may_print_bytes_that_are_not_utf_8(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nprintf '\\377'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert git_state(tmp_path) == {"commit": "\ufffd", "dirty": True}


def test_versions_and_machine_name_what_is_there():
    assert versions()["torch"] != "not installed"
    assert machine()["cores"] >= 1
