"""The set-up of run.sh, with stand-ins for Python and uv: fresh, killed, doubled, failing, beside a foreign .venv."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The stand-ins append their steps to $LOG, sleep in the step named by $STOP_AT, and fail in the steps named by $FAIL.
STEP = """#!/bin/sh
step() {
    echo "$1" >>"$LOG"
    case " ${FAIL:-} " in *" $1 "*) exit 9 ;; esac
    if [ "${STOP_AT:-}" = "$1" ]; then : >"$LOG.reached"; sleep 1; fi
    echo "$1 ended" >>"$LOG"
}
"""
PYTHON = (
    STEP
    + """case "$*" in
*"import fcntl"*) exec "$REAL_PYTHON" "$@" ;;
*sys.version.split*) echo 3.12.1 ;;
*version_info*) [ -z "${FAKE_OLD:-}" ] ;;
*"import torch"*) step verify ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; step venv ;;
"-m pip --version") [ -z "${FAKE_NO_PIP:-}" ] ;;
"-m pip install --quiet uv") step get-uv; cp "$FAKE_UV" "${0%/*}/uv" ;;
"-m pip install "*) step pip ;;
"-m "*) shift; echo "ran $* threads ${OMP_NUM_THREADS:-}" ;;
esac
"""
)
UV = STEP + "step uv\n"
BY_UV = ["venv", "uv", "verify"]
BY_PIP = ["venv", "pip", "verify"]


@dataclass
class Checkout:
    """A copy of run.sh and the files it reads, with the stand-ins first on PATH."""

    root: Path
    env: dict[str, str]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / ".segnl-stamp"

    def start(self, *arguments: str, shell: str = "sh", **env: str) -> "subprocess.Popen[str]":
        command = [shell, str(self.root / "run.sh"), *(arguments or ("setup",))]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=self.env | env,
            start_new_session=True,
        )

    def run(self, *arguments: str, shell: str = "sh", **env: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, shell=shell, **env)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def kill_in(self, step: str, *, leaves_orphans: bool) -> None:
        """Starts a set-up and kills it in a step: run.sh alone, or every process of it."""
        process = self.start(STOP_AT=step)
        reached = Path(self.env["LOG"] + ".reached")
        for _ in range(1500):
            if reached.exists():
                break
            time.sleep(0.02)
        reached.unlink()
        if leaves_orphans:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def steps(self) -> list[str]:
        """Returns the steps since the last call, in order."""
        log = Path(self.env["LOG"])
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if not line.endswith(" ended")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, stand_ins, tools = (tmp_path / name for name in ("a check out", "bin", "tools"))
    for folder in (root, stand_ins, tools):
        folder.mkdir()
    shutil.copy(ROOT / "run.sh", root)
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        (root / name).write_text(f"# {name}\n")
    for name, text in (("python3", PYTHON), ("uv", UV)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    # The plain tools alone, so that neither the machine's Python nor its uv is found.
    for name in (
        "sh",
        "bash",
        "dash",
        *["cat", "cksum", "cp", "date", "dirname", "grep", "mkdir", "mv", "rm", "sed", "sleep", "uname"],
    ):
        if tool := shutil.which(name):
            (tools / name).symlink_to(tool)
    env = {"PATH": f"{stand_ins}:{tools}", "HOME": str(tmp_path), "LOG": str(tmp_path / "log")}
    return Checkout(root, env | {"REAL_PYTHON": sys.executable, "FAKE_UV": str(tmp_path / "uv")})


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_it_makes_verifies_and_stamps_the_environment_once(checkout: Checkout, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    done = checkout.run(shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert checkout.steps() == BY_UV
    assert checkout.stamp.read_text().startswith("python 3.12.1, requirements ")
    assert sorted(os.listdir(checkout.venv)) == [".segnl-stamp", "bin"]
    assert checkout.run(shell=shell).returncode == 0
    assert checkout.steps() == []


@pytest.mark.parametrize("step", BY_UV)
def test_killed_half_way_it_heals_when_run_again(checkout: Checkout, step: str) -> None:
    checkout.kill_in(step, leaves_orphans=False)
    assert not checkout.stamp.exists()
    (checkout.venv / "half").touch()
    checkout.steps()
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert checkout.steps() == BY_UV
    assert not (checkout.venv / "half").exists()
    assert os.listdir(checkout.root / ".segnl-setup") == ["setup.lock"]


def test_an_installer_that_outlives_a_killed_set_up_is_waited_for(checkout: Checkout) -> None:
    checkout.kill_in("uv", leaves_orphans=True)
    done = checkout.run()
    assert done.returncode == 0
    assert "waiting for it to end" in done.stderr
    assert checkout.stamp.exists()
    assert checkout.steps() == BY_UV  # the orphan finished the work


def test_of_several_at_once_one_works_and_the_others_wait(checkout: Checkout) -> None:
    several = [checkout.start(STOP_AT="uv") for _ in range(4)]
    errors = [process.communicate(timeout=300)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0, 0], errors
    assert checkout.steps() == BY_UV
    assert sum("waiting for it to end" in error for error in errors) == 3


def test_pip_installs_where_uv_fails_or_is_not_asked_for(checkout: Checkout) -> None:
    assert checkout.run(FAIL="uv").returncode == 0
    assert checkout.steps() == ["venv", "uv", *BY_PIP]
    shutil.rmtree(checkout.venv)
    assert checkout.run(SEGNL_INSTALLER="pip").returncode == 0
    assert checkout.steps() == BY_PIP


def test_without_uv_on_path_one_is_installed(checkout: Checkout) -> None:
    (checkout.root.parent / "bin" / "uv").rename(checkout.env["FAKE_UV"])
    assert checkout.run().returncode == 0
    assert checkout.steps() == ["venv", "get-uv", "uv", "verify"]


def test_an_environment_that_does_not_import_is_not_stamped(checkout: Checkout) -> None:
    done = checkout.run(FAIL="verify")
    assert done.returncode == 6
    assert "could not install" in done.stderr.splitlines()[-1]
    assert not checkout.stamp.exists()


def test_changed_requirements_update_the_environment(checkout: Checkout) -> None:
    checkout.run()
    checkout.steps()
    (checkout.venv / "kept").touch()
    (checkout.root / "requirements.txt").write_text("# changed\n")
    failed = checkout.run(FAIL="uv pip")
    assert failed.returncode == 6
    assert checkout.steps() == ["uv", "pip", "verify"]
    assert checkout.run().returncode == 0
    assert checkout.steps() == ["uv", "verify"]
    assert (checkout.venv / "kept").exists()
    assert checkout.run("extra", "watch").returncode == 0
    assert checkout.steps() == ["uv", "verify"]


def test_an_environment_that_no_installer_can_change_is_made_anew(checkout: Checkout) -> None:
    uv = checkout.root.parent / "bin" / "uv"
    checkout.run()
    checkout.steps()
    (checkout.venv / "old").touch()
    uv.rename(checkout.env["FAKE_UV"])  # the uv that made .venv without pip has gone
    (checkout.root / "requirements.txt").write_text("# changed\n")
    done = checkout.run(FAKE_NO_PIP="yes")
    assert done.returncode == 0, done.stderr
    assert checkout.steps() == ["venv", "get-uv", "uv", "verify"]
    assert not (checkout.venv / "old").exists()


def test_a_checkout_that_moved_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.run()
    checkout.steps()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.run().returncode == 0
    assert checkout.steps() == BY_UV


def test_a_foreign_environment_is_moved_aside_and_never_deleted(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "mine").touch()
    done = checkout.run()
    assert done.returncode == 0
    (aside,) = checkout.root.glob(".venv.aside.*")
    assert (aside / "mine").exists()
    assert aside.name in done.stderr
    assert checkout.steps() == BY_UV


def test_without_a_supported_python_one_line_says_what_to_do(checkout: Checkout) -> None:
    expected = "setup: no Python 3.11 or newer on PATH; install one (apt install python3 python3-venv, "
    for done in (checkout.run(FAKE_OLD="yes"), checkout.run(PATH=checkout.env["PATH"].partition(":")[2])):
        assert done.returncode == 6
        assert done.stderr == expected + "or brew install python) and run this again\n"
    chosen = checkout.run(SEGNL_PYTHON="/no/python")
    assert chosen.returncode == 6
    assert "SEGNL_PYTHON=/no/python does not run" in chosen.stderr


def test_commands_set_up_first_and_pass_their_arguments_on(checkout: Checkout) -> None:
    tests = checkout.run("test", "-k", "two words")
    assert tests.returncode == 0, tests.stderr
    assert tests.stdout == "ran pytest -n 2 -k two words threads 1\n"
    assert checkout.run("segnl", "train", "--print").stdout == "ran segnl train --print threads \n"
    assert checkout.run("demo").stdout == "ran segnl demo threads \n"


@pytest.mark.parametrize(
    ("arguments", "message"), [(["extra", "onnx"], "'onnx'"), (["tset"], "unknown command 'tset'")]
)
def test_an_unknown_name_is_refused_in_one_line_and_sets_nothing_up(
    checkout: Checkout, arguments: list[str], message: str
) -> None:
    done = checkout.run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert checkout.steps() == []


def test_both_opencv_packages_are_pinned_to_one_version() -> None:
    pins = re.findall(r"^opencv-python(?:-headless)?==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert len(pins) == 2
    assert len(set(pins)) == 1


@pytest.mark.parametrize(
    "name", ["run.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml", ".ci/run", "Makefile"]
)
def test_no_registry_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text


def test_git_ignores_data_and_checkpoints_but_nothing_of_the_package(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    ignored = ["data/camvid/x.png", "checkpoints/run/log.jsonl", ".venv/bin/python", ".segnl-setup/setup.lock"]
    tracked = ["data/README.md", "checkpoints/README.md", "segnl/data/x.py", "docs/data/x.md"]
    command = ["git", "-C", str(tmp_path), "check-ignore", "--no-index", *ignored, *tracked]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ignored
