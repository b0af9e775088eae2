import json

from segnl.core.run_log import read_log
from segnl.training.jsonl_log import JSONLLogger


def test_lines_come_back_in_order(tmp_path):
    logger = JSONLLogger()
    logger.open(tmp_path / "log.jsonl")
    logger.write(step=1, loss=0.5)
    logger.write(event="eval", step=1)
    logger.close()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.5}, {"event": "eval", "step": 1}]


def test_a_resumed_log_drops_what_will_be_done_again_and_a_line_cut_by_a_kill(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 6)) + '{"step": 6, "lo')
    logger = JSONLLogger()
    logger.open(path, first_step=3)
    logger.write(step=4)
    logger.close()
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4]
