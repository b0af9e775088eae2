"""Parts of the benchmarks that follow the program's interfaces, so that a change there does not break them unseen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segnl.evaluation.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]


def test_the_fixed_map_of_bench_eval_is_evaluated_like_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import eval_files

    data = eval_files.streets(tmp_path, 64, 128)
    cells = torch.arange(8 * 16).reshape(1, 8, 16) % eval_files.NUM_CLASSES
    logits = torch.nn.functional.one_hot(cells, eval_files.NUM_CLASSES).permute(0, 3, 1, 2).float()
    predictor = Predictor(eval_files.FixedMap(logits), eval_files._recipe(tmp_path, 0), data.table, torch.device("cpu"))
    labels = predictor.labels(np.zeros((64, 128, 3), np.uint8))
    assert labels.shape == (64, 128)
    assert labels[32, 64] in cells[0, 3:5, 7:9]  # between the four nearest cells
