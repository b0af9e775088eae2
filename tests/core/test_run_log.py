import json

from segnl.core.run_log import RunLog, read_log


def test_lines_come_back_in_order(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(step=1, loss=0.5)
    log.write(event="eval", step=1)
    log.close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.5}, {"event": "eval", "step": 1}]


def test_a_resumed_log_drops_what_will_be_done_again_and_a_line_cut_by_a_kill(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 6)) + '{"step": 6, "lo')
    log = RunLog(path, resume_step=3)
    log.write(step=4)
    log.close()
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4]


def test_no_log_yet_is_empty(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_what_a_power_cut_left_in_a_log_is_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\xff\xfe\n{"step": 2}\n')
    assert [line["step"] for line in read_log(path)] == [1, 2]
