import csv
import io
import json
import statistics
from dataclasses import replace

import pytest

from segnl.metrics.statistics.comparison import ClassDifference, Comparison
from segnl.studies.results import HeadResult
from segnl.studies.table import (
    _cells,
    aligned,
    csv_text,
    heads_dict,
    markdown_table,
    pairs_dict,
    table_columns,
    table_rows,
)
from segnl.studies.verdicts import head_verdicts


def terminal(heads, pairs, width=None):
    return aligned(_cells(heads, pairs), width=width)


def result(name, *miou, ambiguous=None, gflops=2.0, speed=10.0):
    mean = statistics.fmean(miou) if miou else None
    sd = statistics.stdev(miou) if len(miou) > 1 else None
    return HeadResult(name, mean, sd, len(miou), None, 1_000_000, gflops, speed, ambiguous_acc=ambiguous)


FCN = result("fcn", 0.40, ambiguous=0.5)
RCCA = result("rcca", 0.43, ambiguous=0.6, gflops=3.0, speed=None)
ONE = [Comparison("rcca", "fcn", 1, 1, 0.03, images_low=-0.01, images_high=0.07, reason="one seed")]
THREE = [Comparison("rcca", "fcn", 3, 3, 0.03, 0.01, 0.05, 0.02, 0.04, p=0.01, p_holm=0.01)]
REFUSED = [Comparison("refused", "rcca", 0, 1, None, reason="no run of refused counts")]


def test_the_verdict_of_one_seed_makes_no_claim_about_the_heads():
    sentences = head_verdicts([FCN, RCCA], ONE)
    assert sentences[0].endswith("say nothing about the heads in general.")
    assert "rcca has the highest mIoU, 43.0 %, 3.0 points above the control, fcn" in sentences[1]
    (pair,) = pairs_dict(ONE)
    assert (pair["a"], pair["b"], pair["difference"]) == ("rcca", "fcn", pytest.approx(0.03))
    assert pair["low"] is pair["high"] is pair["p_holm"] is None
    assert (pair["images_low"], pair["images_high"]) == (-0.01, 0.07)
    assert pair["verdict"].startswith("rcca - fcn: +3.00, one seed:")


def test_the_interval_of_one_seed_is_marked_as_images_only():
    assert "+3.00 [-1.00, +7.00] images only" in terminal([FCN, RCCA], ONE)
    assert "leaves out the spread over seeds" in table_columns([FCN, RCCA], ONE)["against"].meaning
    assert "images only" not in terminal([FCN, RCCA], THREE)


def test_several_seeds_give_spread_interval_and_verdict():
    heads = [result("fcn", 0.40, 0.41, 0.42), result("rcca", 0.43, 0.43, 0.46)]
    assert head_verdicts(heads, THREE)[0] == "3 seeds per head: rcca is better than fcn (+3.00)."
    assert "41.00 ± 1.00 over 3 seeds" in terminal(heads, THREE)
    assert "+3.00 [+1.00, +5.00]" in terminal(heads, THREE)
    assert [column.title for column in table_columns(heads, THREE).values()][:2] == ["mIoU %", "vs fcn"]


def test_pairs_hold_every_class_by_name():
    classes = [{"road": ClassDifference(0, 0.1, 0.05, 0.15, is_about_heads=True)}]
    (pair,) = pairs_dict(THREE, classes)
    assert pair["per_class"]["road"] == {"difference": 0.1, "low": 0.05, "high": 0.15, "is_about_heads": True}
    assert pair["separable"] is True


def test_the_csv_has_a_line_a_head_and_plain_numbers():
    rows = list(csv.DictReader(io.StringIO(csv_text([FCN, RCCA], ONE))))
    assert [row["head"] for row in rows] == ["fcn", "rcca"]
    assert (rows[1]["miou_mean"], rows[1]["difference_to_control"], rows[1]["low_to_control"]) == ("0.43", "0.03", "")
    assert rows[1]["images_high_to_control"] == "0.07"
    assert rows[0]["difference_to_control"] == rows[0]["verdict"] == ""


def test_unmeasured_values_are_null_and_json_has_no_nan():
    mapping = heads_dict([RCCA, result("refused")])
    assert mapping["rcca"]["train_images_per_s"] is mapping["rcca"]["latency_ms"] is mapping["rcca"]["miou_sd"] is None
    assert mapping["refused"]["miou_mean"] is None
    json.dumps([mapping, pairs_dict(REFUSED)], allow_nan=False)
    assert "–" in terminal([RCCA, result("refused")], REFUSED)


def test_the_best_of_each_column_is_marked_and_the_cheapest_is_the_best_of_a_cost():
    rows = table_rows([FCN, RCCA], ONE)
    marked = {head: [cell.is_best for cell in cells] for head, cells in rows.items()}
    assert marked["fcn"] == [False, False, False, False, True, False]  # one head was timed: it is not the best of one
    assert marked["rcca"] == [False] * 6  # its mIoU is higher, but one seed does not tell the heads apart


def test_the_highest_miou_is_marked_only_where_it_is_separable_from_all_others():
    def marked(pairs):
        return [
            head for head, cells in table_rows([FCN, RCCA, result("aspp", 0.41)], pairs).items() if cells[0].is_best
        ]

    clear = [*THREE, replace(THREE[0], a="aspp", b="rcca", difference=-0.02)]
    assert marked(clear) == ["rcca"]
    assert marked([*THREE, replace(clear[1], p_holm=0.2)]) == []
    assert marked(THREE[:2]) == []  # against the control alone
    assert marked([*THREE, replace(clear[1], difference=None, p_holm=None)]) == ["rcca"]  # aspp has no run that counts
    assert marked([]) == []


def test_values_of_equal_text_are_marked_alike():
    heads = [result(name, 0.4, gflops=value) for name, value in (("a", 2.001), ("b", 2.004), ("c", 3.0))]
    assert [cells[3].is_best for cells in table_rows(heads, []).values()] == [True, True, False]
    assert [cells[3].is_best for cells in table_rows(heads[:2], []).values()] == [False, False]


def test_ambiguous_pairs_have_a_column_only_where_there_are_some():
    assert "Ambiguous" in terminal([FCN, RCCA], ONE)
    assert "Ambiguous" not in terminal([result("fcn", 0.4)], [])


def test_terminal_columns_are_aligned_and_markdown_is_a_table():
    lines = terminal([FCN, RCCA], ONE).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert not any("\n\n" in text for text in (terminal([FCN, RCCA], ONE), terminal([FCN, RCCA], ONE, width=200)))
    table = markdown_table(_cells([FCN, RCCA], ONE))
    assert [line.count("|") for line in table] == [8, 8, 8, 8]
    assert table[2].startswith("| fcn | 40.00 | control | 50.0 | 1.00 M | 2.00 | 10.0 |")


def test_a_study_without_a_run_that_counts_has_no_other_verdict():
    none = [Comparison("rcca", "fcn", 0, 0, None, reason="no run of rcca counts")]
    assert head_verdicts([result("fcn"), result("rcca")], none) == [
        "No run of this study counts; the reasons are below."
    ]


def test_a_single_head_is_compared_with_nothing():
    assert head_verdicts([result("fcn", 0.4, 0.5)], []) == ["2 seeds of one head: no other head to compare."]


def test_a_table_too_wide_for_the_terminal_is_split_and_names_the_heads_again():
    whole, narrow = terminal([FCN, RCCA], ONE), terminal([FCN, RCCA], ONE, width=50)
    assert max(map(len, narrow.splitlines())) <= 50 < max(map(len, whole.splitlines()))
    words = [{word for word in text.split() if set(word) != {"-"}} for text in (narrow, whole)]
    assert words[0] == words[1]
    parts = narrow.split("\n\n")
    assert len(parts) > 1
    assert all([line.split()[0] for line in part.splitlines()][::2] == ["head", "fcn"] for part in parts)


def test_boundaries_time_and_memory_have_columns_where_they_were_measured():
    heads = [
        replace(FCN, boundary_iou=0.2, latency_ms=4.0, peak_mib=30.0),
        replace(RCCA, boundary_iou=0.3, latency_ms=5.5, peak_mib=None),
    ]
    columns = [column.title for column in table_columns(heads, ONE).values()]
    assert columns[2] == "Boundary IoU %"
    assert columns[-2:] == ["Latency ms", "Peak MiB"]
    cells = table_rows(heads, ONE)
    assert [cell.text for cell in cells["rcca"]][2] == "30.00"
    assert [cell.text for cell in cells["rcca"]][-2:] == ["5.5", "–"]
    assert [cell.is_best for cell in cells["fcn"]][-2:] == [True, False]
    mapping = heads_dict(heads)["rcca"]
    assert (mapping["boundary_iou"], mapping["latency_ms"], mapping["peak_mib"]) == (pytest.approx(0.3), 5.5, None)
    assert {"Boundary IoU %", "Latency ms", "Peak MiB"}.isdisjoint(
        column.title for column in table_columns([FCN, RCCA], ONE).values()
    )


def test_matched_widths_and_their_deviations_are_shown():
    heads = [
        replace(FCN, matched_channels=64, matched_deviation=0.0, is_match_target=True),
        replace(RCCA, matched_channels=56, matched_deviation=-0.0123),
    ]
    column = [column.title for column in table_columns(heads, ONE).values()].index("Head channels")
    cells = [cells[column] for cells in table_rows(heads, ONE).values()]
    assert [(cell.text, cell.note) for cell in cells] == [("64", "(target)"), ("56", "(-1.2 %)")]
    mapping = heads_dict(heads)["rcca"]
    assert (mapping["matched_channels"], mapping["matched_deviation"]) == (56, -0.0123)
