import struct
import time

import pytest

from segnl.runs.checkpoint import checkpoints_of
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit

pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")


def records(data):
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768  # padding: no record's head fits there
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or its last part
            yield whole
            whole = b""


def complete_history_and_ids(offline):
    """The same as `history_and_ids`, once wandb's own process has written the last step, soon after the training."""
    deadline = time.monotonic() + 120
    while 6 not in (result := history_and_ids(offline))[0] and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def history_and_ids(offline):
    """The numbers of the offline run by step, and its id."""
    history, ids = {}, set()
    (file,) = offline.glob("run-*.wandb")
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            ids.add(record.run.run_id)
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            history.setdefault(record.history.step.num, {}).update(row)
    return history, ids


def test_a_run_without_network_is_recorded_and_continued_under_the_same_id(tiny_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ["train.loggers=[{name: wandb, project: ours}]", "train.eval_every=2", "train.keep_every=2"]
    recipe, run = load_recipe(tiny_config, options), tmp_path / "run"
    fit(recipe, run)
    assert "switched off" not in caplog.text
    (first,) = (run / "wandb").glob("offline-run-*")
    history, ids = complete_history_and_ids(first)
    assert sorted(history) == [1, 2, 3, 4, 5, 6]
    assert {"train/loss", "train/lr", "train/loss_auxiliary"} <= history[1].keys()
    assert {"val/miou", "val/loss", "val_iou/road", "val/images/count"} <= history[2].keys()

    for path in checkpoints_of(run)[:2]:
        path.unlink()  # as after a kill between steps 2 and 4
    fit(recipe, run)
    assert "switched off" not in caplog.text
    (second,) = set((run / "wandb").glob("offline-run-*")) - {first}
    resumed, resumed_ids = complete_history_and_ids(second)
    assert resumed_ids == ids
    assert sorted(resumed) == [3, 4, 5, 6]
    assert all(resumed[step]["train/loss"] == history[step]["train/loss"] for step in resumed)
