import numpy as np
import pytest
import scipy.stats

from segnl.metrics.statistics.comparison import RunCounts
from segnl.metrics.statistics.references import References, fallen_runs, reference_intervals


def runs(rng, levels, n=30, k=3):
    target = rng.integers(50, 200, (n, k))
    counts = []
    for level in levels:
        share = np.clip(level + 0.1 * rng.standard_normal((n, k)), 0, 1)
        counts.append(RunCounts(np.floor(share * target).astype(np.int64), target, target=target))
    return counts


def miou(run, rows=slice(None)):
    return (run.intersection[rows].sum(0) / run.union[rows].sum(0)).mean()


@pytest.fixture
def heads():
    rng = np.random.default_rng(0)
    return {"a": runs(rng, (0.70, 0.71, 0.73)), "b": runs(rng, (0.72, 0.76, 0.75, 0.77))}


def test_welch_is_scipy_s_test_of_the_scores(heads):
    (pair,) = reference_intervals(heads, [("b", "a")])
    expected = scipy.stats.ttest_ind(*([miou(run) for run in heads[name]] for name in ("b", "a")), equal_var=False)
    assert pair.welch_p == pytest.approx(expected.pvalue)
    assert (pair.welch_low, pair.welch_high) == pytest.approx(tuple(expected.confidence_interval()))


def test_the_bootstrap_is_that_of_a_loop_over_seeds_and_shared_groups(heads):
    groups = [i % 7 for i in range(30)]
    (pair,) = reference_intervals(heads, [("b", "a")], groups=groups)
    rng, differences = np.random.default_rng(1), []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(np.equal(groups, group)) for group in rng.integers(0, 7, 7)])
        means = {
            name: np.mean([miou(own[i], rows) for i in rng.integers(0, len(own), len(own))])
            for name, own in heads.items()
        }
        differences.append(means["b"] - means["a"])
    low, high = np.percentile(differences, [2.5, 97.5])
    width = high - low
    assert pair.bootstrap_low == pytest.approx(low, abs=0.15 * width)  # 1000 and 1500 draws
    assert pair.bootstrap_high == pytest.approx(high, abs=0.15 * width)


def test_one_run_has_no_welch_and_one_group_no_bootstrap(heads):
    single = {"a": heads["a"][:1], "b": heads["b"]}
    (pair,) = reference_intervals(single, [("b", "a")])
    assert pair.welch_p is None
    assert pair.bootstrap_low is not None
    (pair,) = reference_intervals(heads, [("b", "a")], groups=["drive"] * 30)
    assert pair.bootstrap_low is None
    assert pair.welch_p is not None
    assert reference_intervals({"a": heads["a"], "b": []}, [("b", "a")]) == [References()]


def test_a_run_far_below_its_siblings_is_pointed_at():
    scores = {"a": [0.70, 0.71, 0.705], "b": [0.72, 0.66, 0.715], "c": [0.70, 0.69, 0.70]}
    ((key, fall),) = fallen_runs(scores).items()
    assert key == ("b", 1)
    assert fall == pytest.approx(0.7175 - 0.66)
    assert not fallen_runs(scores | {"b": [0.72, 0.74, 0.715]})


def test_few_normal_studies_have_a_run_that_is_pointed_at():
    rng = np.random.default_rng(0)
    studies = rng.normal(0.7, 0.01, (300, 4, 3))
    assert np.mean([bool(fallen_runs(dict(enumerate(study)))) for study in studies]) < 0.08  # 5 % and chance
