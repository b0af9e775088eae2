from segnl.core.run_log import read_log


def test_no_log_yet_is_empty(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_what_a_power_cut_left_in_a_log_is_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\xff\xfe\n{"step": 2}\n')
    assert [line["step"] for line in read_log(path)] == [1, 2]


def test_a_line_with_values_of_another_kind_counts_as_damaged(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": [1], "loss": 2}\n{"step": 2, "loss": "x"}\n{"step": 3, "event": 4}\n{"step": 4, "lr": 1}\n'
    )
    assert [line["step"] for line in read_log(path)] == [4]
