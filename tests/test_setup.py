"""run.sh with stand-ins for Python, uv and pip: what a set-up does when it is killed, doubled, or denied."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Both stand-ins write what they are asked into $LOG. At the stage named by $STOP_AT they say so and dawdle for $STOP_S;
# at a stage named in $FAIL they fail. The stand-in for Python copies itself into the environments that it makes.
STAGES = """
stage() {
    echo "$1" >>"$LOG"
    case " ${FAIL:-} " in *" $1 "*) exit 9 ;; esac
    if [ "${STOP_AT:-}" = "$1" ]; then : >"$LOG.reached"; sleep "${STOP_S:-30}"; fi
    echo "$1 ended" >>"$LOG"
}
"""
PYTHON = (
    "#!/bin/sh"
    + STAGES
    + """
case "$*" in
*sys.version.split*) echo "${FAKE_VERSION:-3.12.1}" ;;
*version_info*) [ -z "${FAKE_OLD:-}" ] ;;
*"-m pip --version"* | *'found = {version'*) ;;
*"import torch"*) stage verify ;;
"-m venv "*)
    for dir in "$@"; do :; done
    mkdir -p "$dir/bin" && cp "$0" "$dir/bin/python" && : >"$dir/pyvenv.cfg"
    stage venv-by-python ;;
"-m pip install --quiet uv") stage uv-by-pip; cp "$FAKE_UV" "${0%/*}/uv" ;;
"-m pip install "*) stage install-by-pip ;;
"-m "*) shift; echo "ran $*" ;;
esac
"""
)
UV = (
    "#!/bin/sh"
    + STAGES
    + """
case "$1 ${2:-}" in
"venv "*)
    for dir in "$@"; do :; done
    mkdir -p "$dir/bin" && cp "$FAKE_PYTHON" "$dir/bin/python" && : >"$dir/pyvenv.cfg"
    stage venv-by-uv ;;
"pip install") stage install-by-uv ;;
esac
"""
)
BY_UV = ["venv-by-uv", "install-by-uv", "verify"]
BY_PIP = ["venv-by-python", "install-by-pip", "verify"]


@dataclass
class Checkout:
    """A copy of run.sh and of what it reads, with stand-ins first on PATH."""

    root: Path
    bin: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / ".segnl-stamp"

    def start(self, *arguments: str, shell: str = "sh", **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [shell, str(self.root / "run.sh"), *(arguments or ("setup",))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env | env,
        )

    def run(self, *arguments: str, shell: str = "sh", **env: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, shell=shell, **env)
        out, err = process.communicate(timeout=900)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stages(self) -> list[str]:
        """What the stand-ins were asked since the last call, in order."""
        log = Path(self.env["LOG"])
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if not line.endswith(" ended")]

    def wait_until_reached(self) -> None:
        reached = Path(self.env["LOG"] + ".reached")
        for _ in range(500):
            if reached.exists():
                reached.unlink()
                return
            time.sleep(0.02)
        pytest.fail("the stage was not reached")

    def holders(self) -> list[str]:
        return [entry.name for entry in (self.root / ".segnl-setup" / "lock").glob("*")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, folder = tmp_path / "a check out", tmp_path / "bin"
    root.mkdir()
    folder.mkdir()
    shutil.copy(ROOT / "run.sh", root)
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        (root / name).write_text(f"# {name}\n")
    fakes = {"FAKE_PYTHON": folder / "python3", "FAKE_UV": folder / "uv"}
    for path, text in zip(fakes.values(), (PYTHON, UV), strict=True):
        path.write_text(text)
        path.chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(tmp_path / "log"), "HOME": str(tmp_path)}
    return Checkout(root, folder, env | {name: str(path) for name, path in fakes.items()})


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_it_makes_the_environment_verifies_it_and_stamps_it(checkout: Checkout, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = checkout.run(shell=shell)
    assert done.returncode == 0, done.stderr
    assert checkout.stages() == BY_UV
    assert checkout.stamp.read_text().startswith("python 3.12.1, requirements ")
    assert not (checkout.venv / ".segnl-building").exists()
    assert checkout.holders() == []
    assert "5 GB" in done.stderr
    assert done.stdout == ""


def test_done_it_costs_under_a_second_and_installs_nothing(checkout: Checkout) -> None:
    checkout.run()
    checkout.stages()
    began = time.monotonic()
    done = checkout.run()
    assert done.returncode == 0
    assert time.monotonic() - began < 20  # 0.02 s here; a machine whose processor is lent out may take seconds
    assert checkout.stages() == []


@pytest.mark.parametrize("stage", BY_UV)
def test_killed_half_way_it_heals_when_run_again(checkout: Checkout, stage: str) -> None:
    killed = checkout.start(STOP_AT=stage, STOP_S="1")
    checkout.wait_until_reached()
    killed.kill()
    killed.wait()
    assert not checkout.stamp.exists()
    (checkout.venv / "half").touch()
    checkout.stages()
    assert checkout.run().returncode == 0
    assert [name for name in checkout.stages() if name in BY_UV] == BY_UV
    assert checkout.stamp.exists()
    assert not (checkout.venv / "half").exists()
    assert not list(checkout.root.glob(".segnl-setup/trash*"))


def test_an_installer_that_outlives_its_killed_set_up_is_waited_for(checkout: Checkout) -> None:
    killed = checkout.start(STOP_AT="install-by-uv", STOP_S="2")
    checkout.wait_until_reached()
    killed.kill()
    killed.wait()
    again = checkout.run()
    assert again.returncode == 0
    assert "waiting for it" in again.stderr
    lines = Path(checkout.env["LOG"]).read_text().splitlines()
    assert lines.index("install-by-uv ended") < len(lines) - 1 - lines[::-1].index("venv-by-uv")


def test_terminated_it_ends_its_installer_and_leaves_no_lock(checkout: Checkout) -> None:
    process = checkout.start(STOP_AT="install-by-uv")
    checkout.wait_until_reached()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert checkout.holders() == []
    assert "install-by-uv ended" not in Path(checkout.env["LOG"]).read_text()


def test_of_several_at_once_one_works_and_the_others_wait(checkout: Checkout) -> None:
    several = [checkout.start(STOP_AT="install-by-uv", STOP_S="1") for _ in range(4)]
    errors = [process.communicate(timeout=900)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0, 0], errors
    assert checkout.stages() == BY_UV
    assert sum("waiting for it" in error for error in errors) >= 3
    assert checkout.holders() == []


def test_a_dead_holder_keeps_no_lock(checkout: Checkout) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = checkout.root / ".segnl-setup" / "lock"
    lock.mkdir(parents=True)
    (lock / str(dead.pid)).write_text("born long ago\n")
    # A living process under a number that belonged to a dead holder, as after a reboot or in a new container.
    (lock / str(os.getpid())).write_text("born long ago\n")
    done = checkout.run()
    assert done.returncode == 0
    assert "waiting" not in done.stderr
    assert checkout.holders() == []


def test_several_that_find_a_dead_holder_still_work_one_at_a_time(checkout: Checkout) -> None:
    killed = checkout.start(STOP_AT="install-by-uv", STOP_S="0.5")
    checkout.wait_until_reached()
    killed.kill()
    killed.wait()
    several = [checkout.start() for _ in range(4)]
    assert [process.wait(timeout=900) for process in several] == [0, 0, 0, 0]
    for process in several:
        process.communicate()
    assert checkout.stages().count("venv-by-uv") == 2  # the killed one's and one more


@pytest.mark.parametrize("failing", ["venv-by-uv", "install-by-uv"])
def test_when_uv_fails_python_and_pip_do_it(checkout: Checkout, failing: str) -> None:
    done = checkout.run(FAIL=failing)
    assert done.returncode == 0, done.stderr
    assert checkout.stages()[-3:] == BY_PIP
    assert checkout.stamp.exists()


def test_without_uv_one_is_put_beside_the_environment(checkout: Checkout) -> None:
    hidden = checkout.bin.parent / "uv"
    (checkout.bin / "uv").rename(hidden)
    done = checkout.run(FAKE_UV=str(hidden), PATH=tools_only(checkout))
    assert done.returncode == 0, done.stderr
    assert checkout.stages() == ["venv-by-python", "uv-by-pip", *BY_UV]
    assert (checkout.root / ".segnl-setup" / "uv" / "bin" / "uv").exists()


def test_what_does_not_import_is_not_stamped(checkout: Checkout) -> None:
    done = checkout.run(FAIL="verify")
    assert done.returncode == 6
    assert "could not install" in done.stderr.splitlines()[-1]
    assert not checkout.stamp.exists()
    assert checkout.run().returncode == 0


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "pyproject.toml"])
def test_changed_requirements_bring_the_environment_up_to_date(checkout: Checkout, name: str) -> None:
    checkout.run()
    checkout.stages()
    (checkout.venv / "kept").touch()
    (checkout.root / name).write_text("# changed\n")
    assert checkout.run().returncode == 0
    assert checkout.stages() == ["install-by-uv", "verify"]
    assert (checkout.venv / "kept").exists()
    checkout.run()
    assert checkout.stages() == []


def test_an_update_that_fails_spares_the_environment(checkout: Checkout) -> None:
    checkout.run()
    (checkout.root / "requirements.txt").write_text("# changed\n")
    done = checkout.run(FAIL="install-by-uv install-by-pip")
    assert done.returncode == 6
    assert "stays as it was" in done.stderr.splitlines()[-1]
    assert (checkout.venv / "bin" / "python").exists()
    checkout.stages()
    assert checkout.run().returncode == 0
    assert checkout.stages() == ["install-by-uv", "verify"]


def test_another_python_is_noticed(checkout: Checkout) -> None:
    checkout.run()
    checkout.stages()
    assert checkout.run(FAKE_VERSION="3.13.0").returncode == 0
    assert checkout.stages() == ["install-by-uv", "verify"]


def test_a_checkout_that_moved_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.run()
    checkout.stages()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.run().returncode == 0
    assert checkout.stages() == BY_UV


@pytest.mark.parametrize("works", [True, False])
def test_an_environment_made_by_another_hand_is_never_deleted(checkout: Checkout, works: bool) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "pyvenv.cfg").touch()
    (checkout.venv / "mine").touch()
    if works:
        shutil.copy(checkout.bin / "python3", checkout.venv / "bin" / "python")
    assert checkout.run().returncode == 0
    assert checkout.stages() == (BY_UV[1:] if works else BY_UV)
    kept = checkout.venv if works else next(checkout.root.glob(".venv.aside.*"))
    assert (kept / "mine").exists()


def tools_only(checkout: Checkout) -> str:
    """A PATH with the plain tools and the stand-ins, so without the machine's Python and uv."""
    tools = checkout.bin.parent / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "cp", "date", "dirname", "env", "mkdir", "mv", "rm", "rmdir", "sleep", "uname"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    return f"{checkout.bin}:{tools}"


@pytest.mark.parametrize("is_old", [True, False])
def test_without_a_python_that_serves_one_line_says_what_to_do(checkout: Checkout, is_old: bool) -> None:
    if not is_old:
        (checkout.bin / "python3").unlink()
    done = checkout.run(PATH=tools_only(checkout), FAKE_OLD="yes")
    assert done.returncode == 6
    assert done.stderr.splitlines() == [
        "setup: no Python 3.11 or newer on PATH; install one (apt install python3 python3-venv, "
        "or brew install python) and run this again"
    ]
    chosen = checkout.run(SEGNL_PYTHON="/no/python")
    assert chosen.returncode == 6
    assert "SEGNL_PYTHON is /no/python" in chosen.stderr


def test_commands_set_up_first_and_pass_their_arguments_on(checkout: Checkout) -> None:
    tests = checkout.run("test", "-k", "two words")
    assert tests.returncode == 0, tests.stderr
    assert tests.stdout == "ran pytest -n 2 -k two words\n"
    assert checkout.run("segnl", "train", "--print").stdout == "ran segnl train --print\n"
    assert checkout.run("demo").stdout == "ran segnl demo\n"
    assert checkout.run("types").stdout == "ran mypy\n"


def test_an_unknown_extra_is_refused_in_one_line(checkout: Checkout) -> None:
    done = checkout.run("extra", "onnx")
    assert done.returncode == 2
    known = "export (ONNX), watch (TensorBoard), browser (playwright)"
    assert done.stderr.splitlines()[-1] == f"extra: 'onnx' is not there; known: {known}"


def test_an_unknown_command_sets_nothing_up(checkout: Checkout) -> None:
    done = checkout.run("tset")
    assert done.returncode == 2
    assert "unknown command 'tset'" in done.stderr
    assert checkout.stages() == []


SET_UP_FILES = ("run.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml", ".ci/run", "Makefile")


@pytest.mark.parametrize("name", SET_UP_FILES)
def test_no_registry_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text


def test_git_ignores_data_and_checkpoints_but_nothing_of_the_package(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git here")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    ignored = ["data/camvid/x.png", "checkpoints/run/log.jsonl", ".venv/bin/python", ".segnl-setup/lock/1"]
    tracked = ["data/README.md", "checkpoints/README.md", "segnl/data/x.py", "docs/data/x.md"]
    found = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--no-index", *ignored, *tracked], capture_output=True, text=True
    )
    assert found.stdout.split() == ignored
