import json
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segnl
from segnl.cli.main import main
from segnl.evaluation.presets import PRESETS
from segnl.models.find import HEADS
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(tiny_config)]) == 0
    return tmp_path / "checkpoints" / "tiny-tiny_rcca-s0"


def refused(capsys, code, *words):
    """The one line that a command which must fail leaves on standard error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segnl: error")]
    assert len(lines) == 1
    return lines[0]


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom segnl.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name in ('torch', 'cv2', 'numpy', 'pydantic')))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert {"train", "eval", "predict", "compare", "inspect", "check", "data", "import", "env"} <= set(
        re.findall(r"^    (\w+) ", out, flags=re.MULTILINE)
    )


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_scripts_are_the_commands(script):
    out = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith(f"usage: segnl {script.removesuffix('.py')}")


def test_print_shows_every_default_and_trains_nothing(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(tiny_config), "--print", "--set", "optim.lr=1e-3"]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.001" in shown
    assert "momentum: 0.9" in shown
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "sets",
    [
        ["--set", "optim.lr=1e-3", "--set", "train.seed=7"],
        ["--set", "optim.lr=1e-3", "train.seed=7"],
        ["--set=optim.lr=1e-3", "train.seed=7"],
    ],
)
def test_several_keys_may_follow_one_set(sets, tiny_config, capsys):
    assert main(["train", "--print", *sets, "--config", str(tiny_config)]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.001" in shown
    assert "seed: 7" in shown


def test_set_takes_no_file_that_follows_it(tiny_config, capsys, tmp_path):
    words = ["import", "--from", "mmseg", "--config", tiny_config, "--out", tmp_path / "out.safetensors"]
    line = refused(capsys, 4, *words, "--set", "optim.lr=1e-3", "train.seed=7", tmp_path / "other.pth")
    assert "other.pth" in line


def test_an_override_without_a_value_is_refused(tiny_config, capsys):
    assert "--set lr: expected KEY.KEY=VALUE" in refused(capsys, 2, "train", "--config", tiny_config, "--set", "lr")


@pytest.mark.parametrize("has_stderr", [True, False])
def test_a_working_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys, has_stderr):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with monkeypatch.context() as patch:
        if not has_stderr:
            patch.setattr(sys, "stderr", None)  # as after 2>&-
        assert main(["env"]) == 6
    assert not has_stderr or capsys.readouterr().err == (
        "segnl: error: the working folder cannot be read (No such file or directory); change to one that exists\n"
    )
    monkeypatch.chdir(tmp_path)


def test_a_backend_that_matplotlib_does_not_know_draws_all_the_same(run, tmp_path):
    words = [sys.executable, "-m", "segnl", "curves", str(run), "--out", str(tmp_path / "c.png")]
    environment = os.environ | {"MPLBACKEND": "nope", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(words, env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("content", [b"text.usetex: True", b"savefig.dpi: 1000000", b"\xff\xfe: \xff", None])
def test_a_matplotlibrc_does_not_rule_the_pictures(run, tmp_path, content):
    place = tmp_path / "matplotlibrc"
    os.mkfifo(place) if content is None else place.write_bytes(content)
    words = [sys.executable, "-m", "segnl", "curves", str(run.absolute()), "--out", "c.png"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MATPLOTLIBRC": str(place)}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    is_readable = content is not None and content.isascii()
    assert done.returncode == (0 if is_readable else 6), done.stderr
    if is_readable:
        assert (tmp_path / "c.png").exists()
    else:
        assert "matplotlibrc: matplotlib cannot read it" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_help_of_eval_names_every_preset(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = re.sub(r"\s+", "", capsys.readouterr().out)  # lines may break after a hyphen
    assert [name for name in PRESETS if name not in shown] == []


def test_eval_writes_the_metrics_and_the_masks(run, tmp_path, capsys):
    words = ["eval", "--checkpoint", str(run), "--masks", str(tmp_path / "masks"), "--json", str(tmp_path / "m.json")]
    assert main(words) == 0
    metrics = json.loads((run / "eval" / "val-whole" / "metrics.json").read_text())
    assert {**metrics, "written_by": "segnl eval"} == json.loads((tmp_path / "m.json").read_text())
    assert metrics["complete"] is True
    assert metrics["num_images"] == 3
    assert set(metrics["per_class"]) == {"road", "sky", "tree"}
    assert f"{100 * metrics['miou']:.2f}" in capsys.readouterr().out
    for kind in ("ids", "colour", "overlay", "error"):
        assert len(list((tmp_path / "masks" / kind).glob("*.png"))) == 3


def test_the_masks_are_what_was_scored(run, tmp_path, tiny_data):
    main(["eval", "--checkpoint", str(run), "--masks", str(tmp_path / "masks")])
    metrics = json.loads((run / "eval" / "val-whole" / "metrics.json").read_text())
    right = total = 0
    for path in (tmp_path / "masks" / "ids").iterdir():
        predicted, label = np.array(Image.open(path)), np.array(Image.open(tiny_data / "labels" / "val" / path.name))
        valid = label != 9
        right += int((predicted == label)[valid].sum())
        total += int(valid.sum())
    assert metrics["pixel_acc"] == pytest.approx(right / total, abs=1e-15)


def test_predict_takes_files_and_folders_of_any_size(run, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, hw in (("odd", (31, 45)), ("one", (1, 1)), ("large", (80, 120))):
        Image.fromarray(np.full((*hw, 3), 90, np.uint8)).save(folder / f"{name}.png")
    assert main(["predict", "--checkpoint", str(run), str(folder), "--out", str(tmp_path / "out")]) == 0
    sizes = {path.stem: Image.open(path).size for path in (tmp_path / "out" / "ids").iterdir()}
    assert sizes == {"odd": (45, 31), "one": (1, 1), "large": (120, 80)}


def test_load_predicts_train_ids_and_knows_the_classes(run):
    model = segnl.load(run)
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    predicted = model.predict(image)
    assert (predicted.dtype, predicted.shape) == (np.uint8, (37, 53))
    assert predicted.max() < len(model.class_table.names) == 3
    assert np.array_equal(predicted, segnl.load(checkpoints_of(run)[0]).predict(image))


def test_a_typo_in_a_config_says_where_and_what(tiny_config, capsys):
    tiny_config.write_text(tiny_config.read_text().replace("channels: 16", "channelz: 16"))
    line = refused(capsys, 2, "train", "--config", tiny_config)
    assert "tiny_rcca.yaml: model.head.channelz: unknown key; did you mean 'channels'?" in line


def test_an_unknown_head_lists_the_known_ones(tiny_config, capsys):
    line = refused(capsys, 2, "train", "--config", tiny_config, "--set", "model.head.name=rcaa")
    assert "did you mean 'rcca'?" in line
    line = refused(capsys, 2, "train", "--config", tiny_config, "--set", "model.head.name=zzz")
    assert "known: ann, aspp, da, deeplabv3plus, dnl, dpt, ema, fcn, gc, isa, linear, non_local, ocr, psp, rcca" in line


def test_a_missing_data_folder_is_a_data_error(tiny_config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, 3, "train", "--config", tiny_config, "--set", "data.root=nowhere")
    assert "nowhere: no such folder; set data.root" in line


def test_a_label_out_of_range_names_file_pixel_and_value(tiny_config, tiny_data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tiny_data / "labels" / "train" / "frame2.png"
    label = np.array(Image.open(path))
    label[12, 40] = 19
    Image.fromarray(label).save(path)
    line = refused(capsys, 3, "train", "--config", tiny_config)
    assert "frame2.png: pixel (row 12, column 40) holds 19, but tiny has ids 0..2 (and 9, 255, ignored)" in line
    assert main(["check", "--config", str(tiny_config), "--json", str(tmp_path / "report.json")]) == 3
    report = json.loads((tmp_path / "report.json").read_text())
    assert [Path(fault["file"]).name for fault in report["faults"]] == ["frame2.png"]


def test_a_checkpoint_of_another_head_is_refused(run, capsys):
    line = refused(capsys, 4, "eval", "--checkpoint", run, "--set", "model.head={name: fcn, channels: 16}")
    assert "was trained with another" in line
    assert "model.head.name" in line


def test_a_checkpoint_of_other_classes_is_refused(run, tiny_data, capsys):
    rows = (tiny_data / "classes.tsv").read_text()
    (tiny_data / "classes.tsv").write_text(rows.replace("tree", "bush"))
    assert "predicts 3 classes (road, sky, tree" in refused(capsys, 4, "eval", "--checkpoint", run)


def test_a_missing_checkpoint_and_a_bad_split_are_one_line_each(run, capsys, tmp_path):
    assert "cannot be read" in refused(capsys, 4, "eval", "--checkpoint", tmp_path / "none")
    assert "no split 'test'; it has train, val" in refused(capsys, 3, "eval", "--checkpoint", run, "--split", "test")


def test_a_training_that_leaves_the_finite_numbers_keeps_its_checkpoint_and_names_the_images(
    tiny_config, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--config", tiny_config, "--run", "r", "--set", "train.save_every=1", "--set", "optim.lr=1e25"]
    line = refused(capsys, 5, *words)
    assert re.search(r"step \d: the (loss|gradient) is (nan|inf), nothing was updated; images frame\d, frame\d;", line)
    run = tmp_path / "checkpoints" / "r"
    last = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()][-1]
    assert (last["event"], last["step"]) == ("non_finite", load_checkpoint(checkpoints_of(run)[0]).step)
    assert last["detail"] in line


def test_a_disk_that_fills_up_in_training_is_one_line_and_the_old_checkpoint_stays(
    tiny_config, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def save_on_a_full_disk(checkpoint):
        if checkpoint.step > 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        save_checkpoint(checkpoint)

    monkeypatch.setattr("segnl.training.saver.save_checkpoint", save_on_a_full_disk)
    try:
        line = refused(capsys, 6, "train", "--config", tiny_config, "--run", "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    run = tmp_path / "checkpoints" / "r"
    assert "step-00000004.safetensors: cannot be written" in line
    assert [load_checkpoint(path).step for path in checkpoints_of(run)] == [2]


def test_a_run_name_that_leads_out_is_refused(tiny_config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "leads out" in refused(capsys, 2, "train", "--config", tiny_config, "--run", "../x")


def test_streets_are_made_and_checked_and_scored_officially(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["data", "streets", "--out", "streets", "--train", "2", "--val", "1", "--hw", "64x128"]
    assert main(words) == 0
    assert "3 of them made now" in capsys.readouterr().out
    config = str(ROOT / "configs" / "streets" / "fcn.yaml")
    small = ["--set", "data.root=streets", "--set", "train.max_steps=1", "--set", "data.crop_hw=[64, 128]"]
    assert main(["train", "--config", config, "--run", "s", *small]) == 0
    assert main(["eval", "--checkpoint", "checkpoints/s", "--masks", "masks", "--official"]) == 0
    metrics = json.loads((tmp_path / "checkpoints" / "s" / "eval" / "val-whole" / "metrics.json").read_text())
    assert metrics["official"]["class_iou"] == pytest.approx(metrics["miou"], abs=1e-12)


@pytest.mark.parametrize("option", ["--heads", "--tasks"])
def test_an_empty_list_of_the_probe_is_refused(option, capsys, tmp_path):
    assert "names nothing" in refused(capsys, 2, "probe", option, "", "--out", tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_a_malformed_size_is_refused(capsys, tmp_path):
    for size in ("256", "0x64", "64x0"):
        assert "expected rows x columns" in refused(capsys, 2, "data", "streets", "--out", tmp_path / "s", "--hw", size)


def test_several_ranks_are_refused_where_they_would_do_the_same_work_twice(tiny_config, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    capsys.readouterr()
    assert main(["check", "--config", str(tiny_config)]) == 2
    assert "error: torchrun: only train and eval run in several processes" in capsys.readouterr().err


def test_a_world_size_that_is_no_number_is_one_line(tiny_config, capsys, monkeypatch):
    for text in ("two", "9" * 5000):
        monkeypatch.setenv("WORLD_SIZE", text)
        assert main(["train", "--config", str(tiny_config)]) == 2
        assert f"error: WORLD_SIZE={text[:40]}: expected a number" in capsys.readouterr().err


def test_a_rank_that_the_world_does_not_have_is_one_line(tiny_config, capsys, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "5")):
        monkeypatch.setenv(name, value)
    assert main(["train", "--config", str(tiny_config)]) == 2
    assert "error: RANK=5, WORLD_SIZE=2: expected a rank below WORLD_SIZE" in capsys.readouterr().err


def test_a_debugged_error_shows_its_traceback(tiny_config, capsys):
    main(["train", "--config", str(tiny_config), "--set", "train.max_step=3", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


HEAD = """
from segnl.models.heads.fcn import HEAD as FCN

class Swirl(FCN):
    pass

HEAD = Swirl
"""


def test_a_head_beside_the_user_is_found_and_the_process_is_left_as_it_was(tiny_config, tmp_path, capsys, monkeypatch):
    (tmp_path / "mylab_cli").mkdir()
    (tmp_path / "mylab_cli" / "swirl.py").write_text(HEAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    before = (list(sys.path), warnings.showwarning, list(warnings.filters))
    head = "model.head={name: mylab_cli.swirl, channels: 8}"
    assert main(["train", "--config", str(tiny_config), "--run", "r", "--set", head, "train.max_steps=1"]) == 0
    assert "trained 1 steps" in capsys.readouterr().out
    assert (list(sys.path), warnings.showwarning, list(warnings.filters)) == before


def test_the_working_folder_is_not_searched_for_what_no_recipe_names(tmp_path, capsys, monkeypatch):
    """Pillow would take its optional olefile from there, and run it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr("segnl.cli.env.run", lambda _: print(str(tmp_path) in sys.path))
    assert main(["env"]) == 0
    assert capsys.readouterr().out == "False\n"


def test_the_working_folder_is_not_searched_for_what_an_installed_module_imports(tmp_path, capsys, monkeypatch):
    (tmp_path / "site" / "mylab_site").mkdir(parents=True)
    (tmp_path / "site" / "mylab_site" / "swirl.py").write_text(HEAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*(entry for entry in sys.path if entry), str(tmp_path / "site")])
    monkeypatch.setattr("segnl.cli.env.run", lambda _: print(HEADS.find("mylab_site.swirl"), str(tmp_path) in sys.path))
    assert main(["env"]) == 0
    assert capsys.readouterr().out.endswith(" False\n")


@pytest.mark.parametrize("place", ["eval", "cache"])
def test_results_are_not_written_through_a_link_in_the_run(run, tmp_path, capsys, place):
    (tmp_path / "elsewhere").mkdir()
    (run / place).symlink_to(tmp_path / "elsewhere")
    assert f"{run / place}: is a symbolic link" in refused(capsys, 2, "eval", "--checkpoint", run)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_masks_are_not_written_through_a_link_in_the_folder(run, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "ids").symlink_to(tmp_path / "elsewhere")
    says = refused(capsys, 2, "eval", "--checkpoint", run, "--masks", tmp_path / "masks")
    assert "ids: is a symbolic link" in says
    (tmp_path / "masks" / "masks.json").unlink()
    image = tmp_path / "tiny" / "images" / "val" / "frame0.png"
    says = refused(capsys, 2, "predict", "--checkpoint", run, image, "--out", tmp_path / "masks")
    assert "ids: is a symbolic link" in says
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_long_error_is_shown_by_its_beginning_and_its_end(tmp_path, capsys):
    (tmp_path / "k.yaml").write_text(f'"{"x" * 10**6}": 3\n')
    assert main(["train", "--config", str(tmp_path / "k.yaml"), "--print"]) == 2
    assert len(capsys.readouterr().err) < 5000


def test_a_line_break_in_a_name_does_not_make_a_second_line_of_an_error(tmp_path, capsys):
    (tmp_path / "k.yaml").write_text('"a\\nsegnl: all is well": 3\n')
    assert main(["train", "--config", str(tmp_path / "k.yaml"), "--print"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["train --config loop", "check --config loop", "new loop", "denoise loop --out out --strength 0.1"]
)
def test_a_link_to_itself_is_one_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code = main(command.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert code in (2, 3, 6)
    assert "loop" in line
    assert "link" in line


def test_workers_of_results_that_exist_already_are_refused(capsys):
    assert main(["compare", "a.json", "b.json", "--jobs", "0"]) == 2
    assert "--jobs, --engine, --set: belong to a study" in capsys.readouterr().err
