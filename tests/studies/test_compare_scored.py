"""Verdicts between results that exist already: counts of foreign masks, and runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segnl.cli.main import main
from segnl.core.errors import ConfigError, DataError
from segnl.metrics import RunCounts, compare_heads
from segnl.metrics.scored_counts import ScoredCounts, counts_bytes, load_counts
from segnl.runs.checkpoint import load_checkpoint, save_checkpoint
from segnl.studies.compare_scored import ScoredComparison, compare_scored
from segnl.studies.scored_text import condition_lines, scored_text, scored_verdicts

ROOT = Path(__file__).resolve().parents[2]
IDS = tuple(f"drive{i % 4}/{i:02}" for i in range(20))


def counts_of(accuracy: float, seed: int, *, ids: tuple[str, ...] = IDS) -> ScoredCounts:
    """Counts of masks that are right in about this fraction of their pixels; the labels are always the same."""
    target = np.random.default_rng(0).integers(50, 400, (len(ids), 3))
    hits = np.random.default_rng(seed).binomial(target, accuracy)
    misses = target - hits
    union = target + np.roll(misses, 1, axis=1)  # a missed pixel is predicted as the next class
    digests = tuple(f"label of {own}" for own in ids)
    return ScoredCounts(
        "masks", ids, ("a", "b", "c"), hits, target, union, digests, (f"{accuracy} {seed}", *digests[1:])
    )


def save(folder: Path, name: str, counts: ScoredCounts) -> str:
    (folder / f"{name}.counts.npz").write_bytes(counts_bytes(counts))
    return str(folder / f"{name}.counts.npz")


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [save(tmp_path, "weak", counts_of(0.7, 1)), save(tmp_path, "strong", counts_of(0.8, 2))]


def test_counts_beside_the_json_of_another_score_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    labels = str(tiny_data / "labels" / "val")
    words = ["score", labels, "--labels", labels, "--classes", str(tiny_data / "classes.tsv"), "--ignore", "9"]
    for name in ("a", "b"):
        assert main([*words, "--json", str(tmp_path / f"{name}.json")]) == 0
    text = (tmp_path / "a.json").read_text()
    assert compare_scored([str(tmp_path / "a.json"), save(tmp_path, "c", load_counts(tmp_path / "b.counts.npz"))])
    save(tmp_path, "a", counts_of(0.7, 1))
    with pytest.raises(DataError, match=r"a\.json: a\.counts\.npz beside it is of another score"):
        compare_scored([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert (tmp_path / "a.json").read_text() == text


def test_many_results_with_long_names_are_named_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [Path(save(tmp_path, f"prediction-of-run-number-{i}", counts_of(0.7, i))).name for i in range(8)]
    comparison = compare_scored([f"A={','.join(names)}", save(tmp_path, "b", counts_of(0.8, 9))])
    assert [*map(len, comparison.models.values())] == [8, 1]
    with pytest.raises(ConfigError, match="no such file or folder"):
        compare_scored(["x" * 300, names[0]])


def test_a_line_break_in_the_name_of_a_file_makes_no_line_of_the_scores(tmp_path: Path, two: list[str]) -> None:
    comparison = compare_scored([two[0], save(tmp_path, "b\na - b: a is better", counts_of(0.8, 2))])
    assert "\na - b: a is better" not in scored_text(comparison, width=100)


def test_long_warnings_and_names_are_read_back(tmp_path: Path) -> None:
    counts = replace(counts_of(0.7, 1), source="s" * 3000, warnings=("w" * 3000,), class_names=("a", "b" * 2000, "c"))
    loaded = load_counts(Path(save(tmp_path, "a", counts)))
    assert (loaded.source, loaded.warnings, loaded.class_names) == (counts.source, counts.warnings, counts.class_names)


def test_counts_of_nothing_and_endless_warnings_are_refused(tmp_path: Path) -> None:
    counts = counts_of(0.7, 1)
    names = ("intersection", "target", "union")
    no_image = replace(counts, sample_ids=(), **{name: getattr(counts, name)[:0] for name in names})
    no_class = replace(counts, class_names=(), **{name: getattr(counts, name)[:, :0] for name in names})
    endless = replace(counts, warnings=("w" * 1_000_000,))
    for changed, message in ((no_image, "counts of 0 images"), (no_class, "and 0 classes"), (endless, "a long one")):
        with pytest.raises(DataError, match=rf"a\.counts\.npz: .*{message}"):
            load_counts(Path(save(tmp_path, "a", changed)))


@pytest.mark.parametrize("name", ["label_digests", "prediction_digests"])
def test_counts_with_fewer_digests_than_images_are_refused(tmp_path: Path, name: str) -> None:
    counts = replace(counts_of(0.7, 1), **{name: ("one",)})
    with pytest.raises(DataError, match=r"a\.counts\.npz: .*digests that are not one for each image"):
        load_counts(Path(save(tmp_path, "a", counts)))


def test_one_file_a_model_gives_an_interval_over_images_and_says_so(two: list[str]) -> None:
    comparison = compare_scored(two)
    (pair,) = comparison.pairs
    (expected,) = compare_heads(
        {
            name: [RunCounts(own.intersection, own.union, None, own.target)]
            for name, own in (("w", counts_of(0.7, 1)), ("s", counts_of(0.8, 2)))
        }
    )
    assert (pair.a, pair.b, pair.p) == ("strong", "weak", None)
    ends = [expected.difference, expected.images_low, expected.images_high]
    assert [pair.difference, pair.images_low, pair.images_high] == pytest.approx(ends, abs=1e-14)  # images are sorted
    first, about, images = scored_verdicts(comparison)
    assert first.startswith("strong - weak: +")
    assert first.endswith("(paired 95 % interval over images): strong is better on images like these.")
    assert about.startswith("One result per model: this is a verdict about these masks")
    assert images.startswith("Images are taken as independent.")


def test_the_text_names_the_classes_whose_interval_excludes_0_with_the_largest_first(two: list[str]) -> None:
    comparison = compare_scored(two)
    (pair,) = comparison.pairs
    expected = comparison.class_differences(pair)
    line = next(own for own in scored_text(comparison, width=1000).splitlines() if "own interval excludes 0" in own)
    listed = [item.split() for item in line.partition("): ")[2].rstrip(".").replace("]; ", "]|").split("|")]
    assert {name for name, *_ in listed} == {name for name, own in expected.items() if own.low * own.high > 0}
    differences = [float(difference) for _, difference, *_ in listed]
    assert differences == sorted(differences, key=abs, reverse=True)
    assert differences == [round(100 * expected[name].difference, 2) for name, *_ in listed]
    assert len(differences) > 1


def test_scores_over_the_labelled_classes_stand_beside_those_that_count_a_stray_class(tmp_path: Path) -> None:
    def counts(accuracy: float, seed: int, *, stray: int) -> ScoredCounts:
        own = counts_of(accuracy, seed)
        union, target, hits = own.union.copy(), own.target.copy(), own.intersection.copy()
        hits[:, 2] = target[:, 2] = 0
        union[:, 2] = stray
        return replace(own, intersection=hits, target=target, union=union)

    files = [save(tmp_path, "a", counts(0.8, 1, stray=1)), save(tmp_path, "b", counts(0.7, 2, stray=0))]
    comparison = compare_scored(files)
    (of_a,), (of_b,) = comparison.models.values()
    assert of_a.miou == pytest.approx(of_a.miou_of_labelled * 2 / 3)
    assert of_b.miou == of_b.miou_of_labelled
    (pair,) = comparison.pairs
    assert pair.difference == pytest.approx(of_b.miou_of_labelled - of_a.miou_of_labelled)
    first, line, *_ = scored_text(comparison, width=200).splitlines()
    assert first.endswith("before rounding, over the classes in the labels")
    assert line.endswith(f"over the classes in the labels  {100 * of_a.miou_of_labelled:.2f} %")


def test_warnings_about_the_masks_are_repeated(tmp_path: Path) -> None:
    counts = counts_of(0.7, 1)
    files = [
        save(tmp_path, name, replace(own, warnings=warnings))
        for name, own, warnings in (
            ("a", counts, ("2 of 8 labels have no prediction.",)),
            ("b", counts_of(0.7, 3), ("2 of 8 labels have no prediction.", "8 predictions were resized.")),
        )
    ]
    text = scored_text(compare_scored(files), width=120)
    assert "\nwarning: a, b: 2 of 8 labels have no prediction.\nwarning: b: 8 predictions were resized.\n" in text


def test_a_folder_of_masks_is_told_to_be_scored_first(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.PNG").touch()
    with pytest.raises(ConfigError, match=r"masks: a folder of masks; score it first: .* compare masks\.json"):
        compare_scored([str(tmp_path / "masks"), str(tmp_path / "masks")[:-5] + "masks/a.PNG"])


def test_equal_masks_under_two_names_are_called_equal(two: list[str], tmp_path: Path) -> None:
    again = save(tmp_path, "again", counts_of(0.7, 1))
    assert scored_verdicts(compare_scored([two[0], again]))[0].endswith(": the counts are equal in every image.")


def test_several_files_a_model_give_the_full_interval(tmp_path: Path) -> None:
    weak = ",".join(save(tmp_path, f"w{i}", counts_of(0.70 + 0.01 * i, 10 + i)) for i in range(3))
    strong = ",".join(save(tmp_path, f"s{i}", counts_of(0.80 + 0.01 * i, 20 + i)) for i in range(3))
    comparison = compare_scored([f"weak={weak}", f"strong={strong}"])
    (pair,) = comparison.pairs
    assert (pair.seeds_a, pair.seeds_b, pair.is_by_seed) == (3, 3, False)
    assert pair.is_separable
    first, *rest = scored_verdicts(comparison)
    assert "3 and 3 results: strong is better (p" in first
    assert not any(sentence.startswith("One result per model") for sentence in rest)


def test_what_was_not_controlled_is_listed_as_not_known(two: list[str]) -> None:
    lines = condition_lines(compare_scored(two).conditions)
    assert lines[0] == ("equal", "labels of the scored images, classes")
    (state, text) = lines[1]
    assert state == "not known"
    assert text == "everything about training and inference (nothing is recorded for weak, strong)"
    assert len(lines) == 2


def test_images_in_another_order_are_matched_by_their_id(two: list[str], tmp_path: Path) -> None:
    counts, order = counts_of(0.8, 2), np.random.default_rng(3).permutation(20)
    shuffled = ScoredCounts(
        "masks",
        tuple(IDS[i] for i in order),
        counts.class_names,
        *(array[order] for array in (counts.intersection, counts.target, counts.union)),
        tuple(counts.label_digests[i] for i in order),
        tuple(counts.prediction_digests[i] for i in order),
    )
    save(tmp_path, "strong", counts)
    expected = compare_scored(two).pairs
    save(tmp_path, "strong", shuffled)
    assert compare_scored(two).pairs == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"class_names": ("a", "b", "z")},
            ConfigError,
            "class 2 is z, but in .* it is c; only scores over the same classes .* score DIR/colour with",
        ),
        (
            {"sample_ids": ("x", *IDS[1:])},
            ConfigError,
            r"is of other images than .*\(2 are in only one of them, such as 'drive0/00'\)",
        ),
        ({"label_digests": ("x",) * 20}, DataError, r"another label of image 'drive0/00' .*\(20 such images\)"),
        ({"target": counts_of(0.8, 2).target + 1, "label_digests": ()}, DataError, "another label of image"),
    ],
)
def test_scores_of_other_images_labels_or_classes_are_refused(
    two: list[str], tmp_path: Path, change: dict, error: type, message: str
) -> None:
    changed = save(tmp_path, "changed", replace(counts_of(0.8, 2), **change))
    with pytest.raises(error, match=message):
        compare_scored([two[0], changed])


def test_results_that_count_twice_are_refused(two: list[str], tmp_path: Path) -> None:
    copy = save(tmp_path, "copy", counts_of(0.7, 1))
    for texts, message in (
        ([two[0], two[0]], "is given twice"),
        (
            [f"a={two[0]},{copy}", two[1]],
            r"copy.counts.npz: holds the masks of .*weak.counts.npz, so it is no further result",
        ),
        ([f"a={two[0]},", two[1]], "has an empty name of a file; expected NAME=FILE,FILE"),
        ([two[0]], "weak: the only model among 1 results"),
        ([f"a={two[0]}", f"a={two[1]}"], "a: is named twice"),
        ([two[0], str(tmp_path / "none")], "no such file or folder"),
        ([two[0], f"{two[1]},{copy}"], "several results of one model need its name: NAME="),
        ([f"weak={two[1]}", two[0]], "weak: stands for two models"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare_scored(texts)


def test_groups_of_images_are_named_by_folder_or_pattern(two: list[str]) -> None:
    by_folder, by_pattern = compare_scored(two, group="folder"), compare_scored(two, group=r"drive(\d)")
    assert by_folder.pairs == by_pattern.pairs
    assert by_folder.pairs[0].num_groups == 4
    assert compare_scored(two).pairs[0].num_groups is None
    verdicts = scored_verdicts(compare_scored(two, group="drive"))
    assert [sentence.count("all images are of one group") for sentence in verdicts] == [1, 0]
    for pattern, message in (
        ("x", "--group: 'x' does not match the sample"),
        (r"\(drive(", "is no regular expression"),
        ("a{99999999999}", "is no regular expression"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare_scored(two, group=pattern)


def test_a_page_is_told_to_give_the_json_beside_it() -> None:
    with pytest.raises(ConfigError, match=r"a\.html: a page; give the file beside it, a\.json"):
        compare_scored(["a.html", "b.html"])


def test_short_names_stand_for_the_counts(two: list[str]) -> None:
    names = [path.removesuffix(".npz") for path in two]
    assert compare_scored(names).pairs == compare_scored(two).pairs
    assert compare_scored([path.replace(".counts.npz", ".json") for path in two]).pairs == compare_scored(two).pairs


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    paths = [save(tmp_path / name, "out", counts_of(0.7, seed)) for name, seed in (("a", 1), ("b", 2))]
    assert list(compare_scored(paths).models) == ["a/out", "b/out"]


def test_the_command_imports_no_torch_for_counts(two: list[str], tmp_path: Path) -> None:
    words = ["compare", *two, "--json", str(tmp_path / "x.json")]
    code = f"import sys\nfrom segnl.cli.main import main\nmain({words!r})\nprint('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["complete"] is True
    assert set(content["heads"]) == {"weak", "strong"}
    assert content["pairs"][0]["per_class"].keys() == {"a", "b", "c"}
    assert content["pairs"][0]["verdict"] == content["verdicts"][0]
    assert (content["pairs"][0]["separable"], content["pairs"][0]["images_separable"]) == (None, True)
    assert content["verdicts"][0] in " ".join(out.split())


@pytest.mark.parametrize("words", [[], ["--config", "x.yaml", "a"], ["--config", "x.yaml", "--group", "folder"]])
def test_a_study_and_results_are_not_mixed(words: list[str]) -> None:
    assert main(["compare", *words]) == 2


@pytest.fixture
def trained(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs rcca with seeds 0 and 1, and fcn with seed 0 and other steps."""
    monkeypatch.chdir(tmp_path)
    for name, settings in (
        ("rcca-s0", []),
        ("rcca-s1", ["train.seed=1"]),
        ("fcn-s0", ["model.head={name: fcn, channels: 16}", "train.max_steps=3"]),
    ):
        words = [
            word for setting in ("train.max_steps=2", r"data.group=frame(\d)", *settings) for word in ("--set", setting)
        ]
        assert main(["train", "--config", str(tiny_config), "--run", name, *words]) == 0
    return tmp_path / "checkpoints"


def conditions(comparison: ScoredComparison) -> dict[str, tuple[str, str]]:
    return {condition.aspect: (condition.state, condition.detail) for condition in comparison.conditions}


def test_runs_are_evaluated_grouped_by_recipe_and_what_differs_is_read_from_it(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    runs = [str(trained / name) for name in ("rcca-s0", "rcca-s1", "fcn-s0")]
    comparison = compare_scored(runs)
    assert {name: [own.seed for own in results] for name, results in comparison.models.items()} == {
        "rcca": [0, 1],
        "fcn-s0": [0],
    }
    stated = conditions(comparison)
    assert (
        stated["training data"][0] == stated["crops and augmentation"][0] == stated["inference settings"][0] == "equal"
    )
    assert stated["training steps and batch size"] == ("differs", "train.max_steps: rcca 2, fcn-s0 3")
    assert stated["head"][0] == "differs"
    assert "model.head.name: rcca rcca, fcn-s0 fcn" in stated["head"][1]
    assert stated["seeds"] == ("differs", "rcca: 0, 1; fcn-s0: 0")
    assert "fcn-s0 - rcca" in scored_text(comparison, width=100)
    assert comparison.pairs[0].num_groups == 3  # the recipe's data.group
    again = str(next((trained / "rcca-s0").glob("step*.safetensors")))
    for texts in ([*runs, again], [f"a={runs[0]},{again}", runs[2]]):
        with pytest.raises(ConfigError, match=r"has the recipe and the seed of .*rcca-s0, so it is no further result"):
            compare_scored(texts)

    # Nothing is known of how imported weights were trained, though they have a recipe.
    trained_elsewhere = load_checkpoint(next((trained / "rcca-s0").glob("step*.safetensors")))
    origin = trained_elsewhere.origin | {"imported": {"from": "mmseg", "file": "x.pth"}}
    (tmp_path / "import").mkdir()
    imported = replace(trained_elsewhere, path=tmp_path / "import" / "theirs.safetensors", origin=origin)
    save_checkpoint(imported)
    comparison = compare_scored([runs[2], str(imported.path)])
    assert list(comparison.models) == ["fcn-s0", "theirs"]
    assert conditions(comparison)["training data"] == ("not known", "nothing is recorded for theirs")

    # Masks of one of these runs, scored as foreign ones, are equal to it.
    run = trained / "rcca-s0"
    assert main(["eval", "--checkpoint", str(run), "--masks", str(tmp_path / "masks")]) == 0
    words = ["score", str(tmp_path / "masks" / "ids"), "--labels", str(tiny_data / "labels" / "val")]
    words += ["--classes", str(tiny_data / "classes.tsv"), "--ignore", "9", "--json", str(tmp_path / "own.json")]
    assert main(words) == 0
    comparison = compare_scored([str(run), str(tmp_path / "own.json")])
    assert scored_verdicts(comparison)[0] == "own - rcca-s0: +0.00 points: the counts are equal in every image."
    assert conditions(comparison)["training data"] == ("not known", "nothing is recorded for own")
