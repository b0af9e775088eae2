import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segnl.core.errors import ConfigError, MachineError
from segnl.core.files import ensure_writable, inside, remove_leftovers, run_lock, write_atomic

ROOT = Path(__file__).resolve().parents[2]


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.json"]


def test_a_file_has_the_permissions_that_the_umask_gives_at_that_time(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_the_file_system_allows_is_written_and_a_longer_one_named(tmp_path):
    write_atomic(tmp_path / ("x" * 251 + ".png"), b"x")
    assert os.listdir(tmp_path) == ["x" * 251 + ".png"]
    with pytest.raises(MachineError, match=r"File name too long\); give a shorter name"):
        write_atomic(tmp_path / ("x" * 252 + ".png"), b"x")


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")
    code = (
        "import resource, signal, pathlib, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from segnl.core.files import write_atomic; from segnl.core.errors import MachineError\n"
        "try: write_atomic(pathlib.Path(sys.argv[1]), b'x' * 5000)\n"
        "except MachineError as err: print(err)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert f"{path}: cannot be written" in out
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_full_disk_is_named_with_the_lock(tmp_path):
    code = (
        "import resource, signal, pathlib, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "from segnl.core.files import run_lock; from segnl.core.errors import MachineError\n"
        "try:\n with run_lock(pathlib.Path(sys.argv[1])): print('locked')\n"
        "except MachineError as err: sys.exit(str(err))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"{tmp_path / '.lock'}: cannot be written (File too large); raise the limit on a file's size (ulimit -f) "
        "or choose another place\n",
    )


def test_a_full_disk_keeps_all_old_files_that_belong_together(tmp_path):
    files = {name: b"old" for name in ("a.json", "b.html", "c.npz")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    code = (
        "import resource, signal, pathlib, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from segnl.core.files import write_together; from segnl.core.errors import MachineError\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "try: write_together({folder / 'c.npz': b'new', folder / 'b.html': b'x' * 5000, folder / 'a.json': b'new'})\n"
        "except MachineError as err: print(err)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path / 'b.html'}: cannot be written" in out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_kill_never_leaves_an_old_file_beside_a_new_one(tmp_path):
    for step in range(3):
        for name in "abc":
            (tmp_path / name).write_bytes(b"old")
        code = (
            "import os, pathlib, signal, sys; from segnl.core.files import write_together\n"
            "real = os.replace; done = []\n"
            "def replace(*paths):\n"
            "    if len(done) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
            "    done.append(real(*paths))\n"
            "os.replace = replace\n"
            "write_together({pathlib.Path(sys.argv[1], name): b'new' for name in 'abc'})"
        )
        words = [sys.executable, "-c", code, str(tmp_path), str(step)]
        assert subprocess.run(words, cwd=ROOT).returncode == -signal.SIGKILL
        assert len({(tmp_path / name).read_bytes() for name in "abc" if (tmp_path / name).exists()}) == 1


def test_ctrl_c_while_a_file_is_written_leaves_the_old_one_and_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_between_write_and_rename_leaves_the_old_file_and_a_leftover_that_goes(tmp_path):
    path = tmp_path / "step-00000007.safetensors"
    write_atomic(path, b"old")
    code = (
        "import os, pathlib, signal, sys; from segnl.core.files import write_atomic;"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "write_atomic(pathlib.Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [path.name]


def test_leftovers_of_a_killed_write_are_removed_and_nothing_else(tmp_path):
    for name in (".step.safetensors.segnl-ab12cd34", "step.safetensors", ".lock", ".env.template"):
        (tmp_path / name).write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".env.template", ".lock", "step.safetensors"]


def test_old_leftovers_of_any_command_go_and_a_file_that_may_be_written_now_stays(tmp_path):
    # The last one's clock was set back later.
    for name, age in (
        (".a.png.segnl-0123abcd", 3600),
        (".b.png.segnl-0123abcd", 0),
        (".c.png.segnl-0123abcd", -(10**8)),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    ensure_writable(tmp_path)
    assert os.listdir(tmp_path) == [".b.png.segnl-0123abcd"]


def test_a_folder_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="file/run: cannot be written"):
        ensure_writable(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", ".", ""])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="leads out"):
        inside(tmp_path, name)


def test_a_link_on_the_way_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"out/train: is a symbolic link to .*; remove it"):
        inside(tmp_path / "out", "train/a.png")


def test_names_below_are_kept(tmp_path):
    assert inside(tmp_path, "study/rcca-s0") == tmp_path / "study" / "rcca-s0"


def _hold(folder, held):
    with run_lock(folder):
        if os.fork() == 0:  # as a loader's worker, which outlives a killed parent for seconds
            time.sleep(20)
            os._exit(0)
        held.set()
        time.sleep(60)


def test_a_second_process_is_refused_and_a_dead_holder_keeps_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(300)
    with pytest.raises(ConfigError, match=f"in use by process {process.pid}"), run_lock(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with run_lock(tmp_path):
        pass


def test_a_lock_that_another_program_wrote_is_refused_and_stays(tmp_path):
    (tmp_path / ".lock").write_text("precious")
    with pytest.raises(ConfigError, match=r"\.lock: exists and was not written by segnl"), run_lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "precious"


def test_a_lock_that_is_a_link_is_refused_and_its_target_stays(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="is a symbolic link"), run_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_that_is_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "out").symlink_to("/not/mounted")
    with pytest.raises(MachineError, match=r"out: cannot be written \(a link to /not/mounted\); choose another place"):
        ensure_writable(tmp_path / "out")
