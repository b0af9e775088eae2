import json

import pytest

from segnl.compare.table import HeadResult, heads_tree, markdown, pairs_tree, table_rows, terminal, verdicts


def result(name, *miou, ambiguous=(), params=1_000_000, gflops=2.0, speed=10.0):
    return HeadResult(name, miou, tuple(ambiguous), params, gflops, speed)


FCN = result("fcn", 0.40, ambiguous=[0.5])
RCCA = result("rcca", 0.43, ambiguous=[0.6], gflops=3.0, speed=None)


def test_one_seed_is_said_to_say_nothing_about_the_heads():
    said = verdicts([FCN, RCCA])
    assert said[0] == "One seed: this says something about these networks, nothing about the heads."
    assert "rcca has the highest mIoU here, 43.0 %, 3.0 points above the control, fcn" in said[1]
    (pair,) = pairs_tree([FCN, RCCA])
    assert (pair["a"], pair["b"], pair["difference"]) == ("rcca", "fcn", pytest.approx(0.03))
    assert pair["low"] is pair["high"] is pair["p_holm"] is None
    assert pair["verdict"].startswith("rcca - fcn: +3.00 points, one seed:")


def test_several_seeds_give_mean_and_spread_and_no_verdict_that_is_not_computed():
    heads = [result("fcn", 0.40, 0.42), result("rcca", 0.43, 0.47)]
    tree = heads_tree(heads)
    assert tree["rcca"]["miou_mean"] == pytest.approx(0.45)
    assert tree["rcca"]["miou_sd"] == pytest.approx(0.0282843, rel=1e-4)  # of two values: difference / root 2
    assert tree["rcca"]["runs"] == 2
    assert "no verdict" in verdicts(heads)[0]
    assert "no verdict" in pairs_tree(heads)[0]["verdict"]
    assert "± 2.83 over 2 seeds" in terminal(heads)


def test_what_was_not_measured_is_null_and_json_has_no_nan():
    tree = heads_tree([RCCA, result("refused")])
    assert tree["rcca"]["train_images_per_s"] is tree["rcca"]["latency_ms"] is tree["rcca"]["miou_sd"] is None
    assert tree["refused"]["miou_mean"] is None
    json.dumps([tree, pairs_tree([RCCA, result("refused")])], allow_nan=False)


def test_the_best_of_each_column_is_marked_and_the_cheapest_is_the_best_of_a_cost():
    rows = table_rows([FCN, RCCA])
    marked = {row.name: [cell.is_best for cell in row.cells] for row in rows}
    assert marked["fcn"] == [False, False, False, True, False]  # one head was timed: it is not the best of one
    assert marked["rcca"] == [True, True, False, False, False]


def test_ambiguous_pairs_have_a_column_only_where_there_are_some():
    assert "Ambiguous" in terminal([FCN, RCCA])
    assert "Ambiguous" not in terminal([result("fcn", 0.4)])


def test_terminal_columns_are_aligned_and_markdown_is_a_table():
    lines = terminal([FCN, RCCA]).splitlines()
    assert len({len(line) for line in lines}) == 1
    table = markdown([FCN, RCCA]).splitlines()
    assert [line.count("|") for line in table[:4]] == [7, 7, 7, 7]
    assert table[2].startswith("| fcn | 40.00 | 50.0 | 1.00 M | 2.00 | 10.0 |")


def test_a_study_of_which_no_run_counts_says_so():
    assert verdicts([result("fcn"), result("rcca")]) == ["No run of this study counts; the reasons stand below."]
