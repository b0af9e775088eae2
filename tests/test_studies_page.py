"""Sections of the pages on kept studies and on A/A studies."""

import json
from pathlib import Path

import numpy as np
import pytest

from segnl.metrics.statistics.comparison import RunCounts, compare_heads
from segnl.studies.verdicts import points

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import studies_page

    return studies_page


@pytest.fixture
def aa(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import aa

    return aa


def head(miou, sd, **more):
    known = {"boundary_iou": 0.3, "params": 2e6, "gflops": 1.5, "train_images_per_s": 3.0, "latency_ms": None}
    return {"miou_mean": miou, "miou_sd": sd, "peak_mib": None, "matched_channels": None, "ambiguous_acc": None} | (
        known | more
    )


def study(**changes):
    ends = {"images_low": 0.001, "images_high": 0.002}
    tested = {"seeds_a": 2, "seeds_b": 2, "low": -0.0018, "high": 0.0082, "p": 0.2, "p_holm": 0.2, "separable": False}
    pairs = [{"a": "rcca", "b": "fcn", "difference": 0.0031, **tested, **ends}]
    one_seed = {"seeds_a": 1, "seeds_b": 2, "low": None, "high": None, "reason": "one seed"}
    pairs += [{"a": "aspp", "b": "fcn", "difference": 0.01, **one_seed, **ends}]
    lost = {"meaning": "attention switched off", "miou_change": -0.02, "miou_changes": {"a": -0.01, "b": -0.03}}
    return {
        "study": "some",
        "config": "configs/compare/some.yaml",
        "note": "A note.",
        "data": "camvid",
        "split": "val",
        "num_images": 101,
        "steps": 4000,
        "batch_size": 4,
        "crop_hw": [360, 480],
        "seeds": {"fcn": [0, 1], "rcca": [0, 1], "aspp": [0]},
        "heads": {"fcn": head(0.5, 0.01), "rcca": head(0.5031, 0.02, latency_ms=12.5), "aspp": head(0.51, None)},
        "runs": {"fcn": {"0": 0.49, "1": 0.51}, "rcca": {"0": 0.50, "1": None}, "aspp": {"0": 0.51}},
        "pairs": pairs,
        "verdicts": ["words of an earlier version"],
        "ablations": {"rcca": {"gamma0": lost}},
        "refused": {"rcca-s9": "used different batches"},
        "git": [{"commit": "a" * 40, "dirty": False}, {"commit": "b" * 40, "dirty": True}],
        "versions": {"torch": "2.15.0"},
        "machine": {"cpu": "a processor", "cores": 2},
        "jobs": 2,
    } | changes


def test_the_verdicts_come_first_and_are_written_from_the_numbers(page, tmp_path):
    (tmp_path / "some.json").write_text(json.dumps(study()))
    text = "\n".join(page.studies_section(tmp_path))
    assert "Not run yet" not in text
    starts = ("**1 to 2 seeds per head", "- rcca - fcn: +0.31 [-0.18, +0.82], 2 seeds:", "| head |")
    assert sorted(starts, key=text.index) == list(starts)
    assert "earlier version" not in text
    assert "- refused: rcca-s9 used different batches" in text
    assert (
        "4,000 steps of 4 crops of 360x480; 101 images of val; seeds of fcn 0, 1; of rcca 0, 1; of aspp 0. A note."
        in text
    )
    assert "fcn 49.00, 51.00; rcca 50.00, -; aspp 51.00." in text
    assert text.endswith(
        "a processor, 2 cores, 2 training runs at a time; torch 2.15.0; commits aaaaaaaaa, bbbbbbbbb + changes."
    )


def test_the_table_of_a_study_has_intervals_and_no_empty_column(page):
    lines = page.head_table(study())
    assert lines[0] == (
        "| head | mIoU % | vs fcn | boundary IoU % | parameters, M | GFLOPs | training images/s | latency, ms |"
    )
    assert lines[2] == "| fcn | 50.00 ± 1.00 | control | 30.00 | 2.00 | 1.50 | 3.0 | - |"
    assert lines[3].startswith("| rcca | 50.31 ± 2.00 | +0.31 [-0.18, +0.82] | 30.00 |")
    assert lines[4].startswith("| aspp | 51.00 | +1.00 [+0.10, +0.20] images only | 30.00 |")


def test_an_ablation_has_its_mean_and_spread_over_runs(page):
    assert page.ablation_table(study()["ablations"])[-1] == "| rcca | -2.00 ± 1.41 |"


def test_seeds_that_all_heads_share_are_given_once(page):
    assert page.seeds_text({"a": [0], "b": [0]}) == "seed 0"
    assert page.seeds_text({"a": [0, 1], "b": [0, 1]}) == "seeds 0, 1"


def split(p, low, images_low):
    size = {"difference": 0.01, "low": low, "high": low + 0.04, "images_low": images_low, "images_high": 0.03}
    return {"a": ["a-s0", "a-s1"], "p": p} | size


def test_the_splits_of_one_recipe_are_counted_by_p_and_by_images_alone(page, tmp_path):
    splits = [split(0.01, 0.001, 0.001), split(0.9, -0.02, 0.001), split(None, -0.02, -0.01), split(0.05, -0.01, -0.01)]
    runs = {"a": {"0": 0.50, "1": 0.52}, "b": {"2": 0.51, "3": 0.53}}
    result = study(splits=splits, runs=runs, verdicts=["words of an earlier version"])
    (tmp_path / "some.json").write_text(json.dumps(result))
    text = page.aa_section(tmp_path)
    assert "- rcca - fcn: +0.31 [-0.18, +0.82], 2 seeds: " in text
    assert "fcn, rcca and aspp are one recipe under 3 names" in text
    assert "| of the 4 splits into 2 and 2 runs | number | fraction |" in text
    assert "5 % expected) | 1 | 25 % |" in text
    assert "common interval over images alone | 2 | 50 % |" in text
    assert "standard deviation 1.29 points, range 3.00." in text


def runs_of_one_recipe(num, images=12):
    random = np.random.default_rng(3)
    truth = random.integers(50, 100, (images, 3))
    shares = random.uniform(0.3, 0.7, (num, 1, 1))
    return [RunCounts((share * truth).astype(np.int64), truth) for share in shares]


def test_eight_runs_have_35_splits_each_compared_as_a_study(aa):
    counts = runs_of_one_recipe(8)
    found = aa.splits([f"s{i}" for i in range(8)], counts)
    assert len(found) == 35
    assert len({tuple(each["a"]) for each in found}) == 35
    assert all(len(each["a"]) == 4 and each["a"][0] == "s0" for each in found)
    miou = [float((run.intersection.sum(axis=0) / run.union.sum(axis=0)).mean()) for run in counts]
    ours = [int(name[1:]) for name in found[7]["a"]]
    theirs = [i for i in range(8) if i not in ours]
    assert found[7]["difference"] == pytest.approx(
        np.mean([miou[i] for i in ours]) - np.mean([miou[i] for i in theirs])
    )
    assert all(each["low"] < each["difference"] < each["high"] and 0 < each["p"] <= 1 for each in found)
    assert len(aa.splits(["x", "y", "z"], counts[:3])) == 1  # one run against two


def test_a_kept_study_is_judged_again_from_its_counts(monkeypatch, tmp_path):
    """The files of a study of two heads, with the interval of an older version."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import judge

    rng = np.random.default_rng(0)
    union = rng.integers(100, 200, (8, 3))
    runs = {
        (head, seed): np.minimum(union, (union * rng.normal(level, 0.01)).astype(np.int64))
        for head, level in (("fcn", 0.6), ("rcca", 0.8))
        for seed in range(3)
    }
    arrays = {
        "head": [head for head, _ in runs],
        "seed": [seed for _, seed in runs],
        "intersection": list(runs.values()),
        "union": [union] * 6,
        "target": union,
        "group": ["x"] * 4 + ["y"] * 4,
    }
    np.savez_compressed(tmp_path / "tiny.npz", **{name: np.array(values) for name, values in arrays.items()})
    old = {"a": "rcca", "b": "fcn", "difference": 0.2, "verdict": "another"}
    scores = {head: {str(seed): 0.5 for seed in range(3)} for head in ("fcn", "rcca")}
    result = {"study": "tiny", "heads": {"fcn": {}, "rcca": {}}, "runs": scores, "pairs": [old], "verdicts": []}
    (tmp_path / "tiny.json").write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["judge.py", str(tmp_path / "tiny.json")])
    judge.main()
    judged = json.loads((tmp_path / "tiny.json").read_text())
    (pair,) = judged["pairs"]
    heads = {name: [RunCounts(runs[name, seed], union, seed, union) for seed in range(3)] for name in ("fcn", "rcca")}
    (expected,) = compare_heads(heads, groups=arrays["group"])
    assert (pair["low"], pair["high"], pair["num_groups"]) == (expected.low, expected.high, 2)
    assert judged["verdicts"][0] == f"3 seeds per head: rcca is better than fcn ({points(pair['difference'])})."
