import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.reports.score_text import difference_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Arguments for two small images of three classes."""
    label = np.repeat(np.arange(3, dtype=np.uint8), 9)[None].repeat(13, axis=0)
    for folder, ids in (("labels", label), ("predictions", np.roll(label, 2, axis=1))):
        (tmp_path / folder).mkdir()
        for name in "ab":
            Image.fromarray(ids).save(tmp_path / folder / f"{name}.png")
    rows = "0\troad\t128\t64\t128\n1\tsky\t70\t130\t180\n2\ttree\t0\t128\t0\n"
    (tmp_path / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    labels, classes = str(tmp_path / "labels"), str(tmp_path / "classes.tsv")
    return [str(tmp_path / "predictions"), "--labels", labels, "--classes", classes]


def test_it_prints_the_scores_and_writes_numbers_page_and_counts(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "x.json"
    assert main(["score", *folders, "--json", str(out), "--published", "0.64"]) == 0
    text = capsys.readouterr().out
    assert "mIoU                       63.64   mean over 3 of 3 classes" in text
    assert "Published 0.64 fits mIoU (Cityscapes, mmsegmentation);" in text
    assert text.startswith("2 predictions paired with 2 labels, for example a.png with a.png.\n")
    assert "OUT.json" not in text
    assert json.loads(out.read_text())["miou"] == pytest.approx(7 / 11)
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.counts.npz", "x.html", "x.json"]
    page = out.with_suffix(".html").read_text()
    assert "63.64 % mIoU" in page
    assert page.count("<img ") == 6
    assert page.count('data-title="Precision %"') == 3  # on a narrow screen, where the head of the table is hidden
    assert page.index("Class by class") < page.index("Other definitions of mIoU") < page.index("<details ")


def test_the_screen_ends_with_the_exact_miou_and_shows_no_absent_class_and_no_long_name(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "classes.tsv").open("a") as file:
        file.write(f"3\tbox\t1\t0\t0\n4\t{'long ' * 9}\t2\t0\t0\n5\tpot\t3\t0\t0\n")
    (tmp_path / "classes.tsv").write_text((tmp_path / "classes.tsv").read_text().replace("tree", "tree, " * 9 + "tree"))
    assert main(["score", *folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "The exact mIoU (Cityscapes, mmsegmentation) is 63.64 % over 2 images."
    table = lines[lines.index("class                       IoU     acc    prec      F1   share") :]
    assert [line[:24].strip() for line in table[1:4]] == ["road", "sky", "tree, tree, tree, tree,"]
    assert table[4] == "(not shown, as in neither labels nor predictions: 3 of 6)"
    assert table[5] == "(in %; acc: recall; prec: precision; share: of all labelled pixels; -: undefined)"
    assert table[6] == "-" * len(table[0])
    assert table[7].startswith("mIoU                       63.64   mean over 3 of 6 classes")


def test_the_screen_lists_the_definitions_that_differ_and_counts_the_warnings(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(folders[0]) / "b.png").unlink()
    assert main(["score", *folders, "--published", "64", "--json", str(tmp_path / "x.json")]) == 0
    text = capsys.readouterr().out
    assert "The exact mIoU (Cityscapes, mmsegmentation) is 63.64 % over 1 image (1 warning above)." in text
    assert "\n  77.78  +14.14  mean Dice (mDice)\n" in text
    sentences = " ".join(text.split())
    assert "Equal to the exact mIoU here, to two decimals: mIoU over all classes (ADE20K's benchmark);" in sentences
    assert "So few digits fit every score from 63.5 to 64.5 %;" in sentences
    page = tmp_path.joinpath("x.html").read_text()
    names = json.loads(tmp_path.joinpath("x.json").read_text())["definitions"]
    assert all(f"<small>{name}</small>" in page for name in names)


def test_of_two_classes_the_screen_and_the_page_say_what_binary_metrics_give(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *folders]) == 0
    assert "BinaryJaccardIndex" not in capsys.readouterr().out
    (tmp_path / "classes.tsv").write_text("index\tname\n0\troad\n1\tsky\n")
    assert main(["score", *folders, "--ignore", "2", "--json", str(tmp_path / "x.json")]) == 0
    assert "The foreground's IoU is what torchmetrics' BinaryJaccardIndex" in capsys.readouterr().out
    assert "BinaryJaccardIndex" in (tmp_path / "x.html").read_text()


def test_a_slightly_lower_score_is_shown_with_a_minus() -> None:
    score = SimpleNamespace(definitions={"label_size_union_present": 0.5, "a": 0.49999, "b": 0.5 - 1e-17, "c": 0.50001})
    assert [difference_text(score, name) for name in "abc"] == ["-0.00", "+0.00", "+0.00"]


def test_no_line_ends_within_an_option(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.tsv").write_text("index\tname\n0\troad\n1\tsky\n2\ttree\n")
    for path in Path(folders[0]).glob("*.png"):
        Image.fromarray(np.array([1, 2, 0], np.uint8)[np.array(Image.open(path))]).save(path)
    assert main(["score", *folders, "--json", str(tmp_path / "x.json")]) == 0
    text = capsys.readouterr().out
    assert "--prediction-ids" in text
    assert "OUT.json" not in text
    assert not [line for line in text.splitlines() if line.endswith("-") and not line.startswith("-")]
    assert '<span class="option">--prediction-ids train</span>' in (tmp_path / "x.html").read_text()


def test_the_folder_may_follow_several_ignored_ids(folders: list[str]) -> None:
    assert main(["score", *folders[1:], "--ignore", "7", "8", folders[0]]) == 0


def test_without_json_nothing_is_written(folders: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["score", *folders]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_predictions_are_not_replaced(folders: list[str], tmp_path: Path) -> None:
    predictions = tmp_path / "p.json"
    lengths = {"size": [13, 27], "counts": [0, 351]}
    content = json.dumps([{"image_id": name, "category_id": 0, "segmentation": lengths} for name in "ab"])
    predictions.write_text(content)
    assert main(["score", str(predictions), *folders[1:], "--json", str(predictions)]) == 2
    assert predictions.read_text() == content


def test_a_number_that_no_score_fits_names_the_nearest_definition(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *folders, "--published", "70.9"]) == 0
    assert "Published 70.9 fits no score of these masks. The nearest is pixel accuracy with 77.78 %." in " ".join(
        capsys.readouterr().out.split()
    )


def test_an_error_is_one_line(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(folders[0]) / "c.png").touch()
    assert main(["score", *folders]) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segnl: error")]
    assert errors == [
        f"segnl: error: {folders[0]}/c.png: no label belongs to c; the other 2 predictions have one; labels are "
        "named 'a' to 'b', predictions 'a' to 'c': add the missing labels, or remove these predictions"
    ]


def test_it_imports_no_torch_and_takes_less_than_five_seconds(folders: list[str], tmp_path: Path) -> None:
    shared = Path(os.environ.get("SEGNL_SHARED", ROOT.parent / "shared"))
    if (shared / "score").is_dir():
        camvid = shared / "data" / "camvid"
        folders = [str(shared / "score" / "predictions"), "--labels", str(camvid / "labels" / "val")]
        folders += ["--classes", str(camvid / "classes.tsv"), "--ignore", "11"]
    words = ["score", *folders, "--json", str(tmp_path / "x.json")]
    code = f"import sys\nfrom segnl.cli.main import main\nmain({words!r})\nprint('torch' in sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5  # not by the clock of a busy machine
