"""Every output that a user names: a command replaces only what the same command wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segnl.cli.main import main
from segnl.runs.checkpoint import checkpoints_of

CHECKPOINT = ["--checkpoint", "checkpoints/a"]
SCORE = ["score", "tiny/labels/val", "--labels", "tiny/labels/val", "--classes", "tiny/classes.tsv", "--ignore", "9"]
PREDICT = ["predict", *CHECKPOINT, "tiny/images/val/frame0.png", "--out", "o"]
INSPECT = ["inspect", *CHECKPOINT, "--out", "o", "--attention", "3,4"]
OUTPUTS = [
    ("o.json", ["check", "--config", "tiny_rcca.yaml", "--json", "o.json"]),
    ("o.json", ["cost", "--config", "tiny_rcca.yaml", "--json", "o.json", "--input", "33x41"]),
    ("o.json", ["eval", *CHECKPOINT, "--json", "o.json"]),
    ("o.json", ["compare", "a", "b", "--json", "o.json"]),
    ("checkpoints/a/eval/val-whole/metrics.json", ["eval", *CHECKPOINT, "--json"]),  # of a run: its own stored result
    ("checkpoints/a/step-00000006.safetensors", ["eval", *CHECKPOINT, "--json"]),
    *((name, [*SCORE, "--json", "o.json"]) for name in ("o.json", "o.html", "o.counts.npz")),
    ("o/masks.json", ["eval", *CHECKPOINT, "--masks", "o"]),
    *((f"o/{kind}/frame0.png", PREDICT) for kind in ("ids", "colour", "overlay")),
    ("tiny/images/val/frame0.png", ["denoise", "n/frame0.png", "--strength", "0.1", "--out", "tiny/images/val"]),
    *((f"o/{name}", INSPECT) for name in ("report.html", "sheet.png", "attention.png", "attention.json")),
    *((f"o{kind}", ["curves", "checkpoints/a", "--out", f"o{kind}"]) for kind in (".png", ".svg", ".pdf")),
    ("o.safetensors", ["export", *CHECKPOINT, "--out", "o.safetensors"]),
    ("o.safetensors", ["import", "--from", "mmaction", "x.pth", "--out", "o.safetensors"]),
    *((f"o/{name}", ["probe", "--heads", "fcn", "--out", "o"]) for name in ("probe.json", "report.html")),
    ("o/reach-fcn.png", ["probe", "--heads", "fcn", "--out", "o"]),
    *((f"o/{name}", ["video-demo", "--out", "o"]) for name in ("results.json", "attention.png", "i3d-s2.safetensors")),
]


@pytest.fixture
def run(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(tiny_config), "--run", "a"]) == 0
    return tmp_path / "checkpoints" / "a"


def test_no_command_replaces_a_file_that_it_did_not_write(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *CHECKPOINT]) == 0
    for name, words in OUTPUTS:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        is_made_here = not file.exists()
        if is_made_here:
            file.write_bytes(b"precious")
        before = file.read_bytes()
        capsys.readouterr()
        assert main([*words, name] if words[-1] == "--json" else words) == 2, words
        assert name in capsys.readouterr().err, words
        assert file.read_bytes() == before, words
        if is_made_here:
            file.unlink()


def test_scores_of_an_earlier_evaluation_stay_until_another_begins(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["eval", *CHECKPOINT, "--json", "j.json"]
    assert main(command) == 0
    before = Path("j.json").read_bytes()
    for wrong in (["--checkpoint", "checkpoints/aa"], ["--split", "no"], ["--official"], ["--set", "eval.x=1"]):
        assert main([*command, *wrong]) != 0, wrong
        assert Path("j.json").read_bytes() == before, wrong
    monkeypatch.setattr("segnl.evaluation.evaluate_run.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*command, "--set", "eval.flip=true"])
    assert not Path("j.json").exists()


def test_the_same_command_replaces_its_own_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a.png").write_bytes((tmp_path / "tiny/images/val/frame0.png").read_bytes())
    commands = [
        ["check", "--config", "tiny_rcca.yaml", "--json", "o/check.json"],
        ["eval", *CHECKPOINT, "--json", "o/eval.json"],
        [*SCORE, "--json", "o/score.json"],
        ["denoise", "n/a.png", "--strength", "0.1", "--patch", "3", "--search", "5", "--out", "o"],
        ["export", *CHECKPOINT, "--out", "o/x.safetensors"],
        *(["curves", "checkpoints/a", "--out", f"o/x{kind}"] for kind in (".png", ".svg", ".pdf")),
        [*INSPECT, "--images", "1", "--attention-images", "1"],
        PREDICT,
    ]
    for words in commands:
        assert main(words) == main(words) == 0, words


@pytest.mark.parametrize("name", ["masks.json", "ids/frame0.json", "eval/val-whole/metrics.json", "cache/x.json"])
def test_the_scores_do_not_replace_what_the_same_evaluation_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "o" / name
    options = ["--masks", str(tmp_path / "o"), "--submission", str(tmp_path / "o" / "s.zip")]
    assert main(["eval", "--checkpoint", str(tmp_path / "o" / "none.safetensors"), *options, "--json", str(file)]) == 2
    assert f"--json {file}: is where this command writes another file" in capsys.readouterr().err
    assert not file.exists()


def test_a_photograph_beside_the_masks_stays(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "o" / "ids" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    assert main(PREDICT) == 0
    assert mine.read_bytes() == b"precious"


def test_results_of_a_run_are_no_output_of_eval(run: Path) -> None:
    assert main(["eval", *CHECKPOINT]) == 0
    assert "written_by" not in json.loads((run / "eval" / "val-whole" / "metrics.json").read_text())
    assert b"written by" not in checkpoints_of(run)[0].read_bytes()


@pytest.mark.parametrize("name", ["o.html", "step-00000009.safetensors", ".lock"])
def test_scores_have_no_other_kind_of_file_s_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([*SCORE, "--json", name]) == 2
    assert f"--json {name}: expected a file that ends in .json" in capsys.readouterr().err


def test_two_commands_do_not_write_into_one_folder_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from pathlib import Path; from segnl.core.files import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for words in (["inspect", "--checkpoint", "none"], ["video-demo"], ["probe", "--heads", "fcn"]):
            assert main([*words, "--out", str(tmp_path)]) == 2
            assert f"{tmp_path}: in use by process {other.pid}" in capsys.readouterr().err
        other.communicate("\n")
    assert [path.name for path in tmp_path.iterdir() if not path.is_dir()] == [".lock"]
