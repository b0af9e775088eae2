import json

from segnl.compare.cost import cost_of, train_images_per_s
from segnl.compare.study import load_study


def test_a_cost_is_counted_once_and_again_when_the_network_changes(tmp_path, study_file):
    run = load_study(study_file, runs=tmp_path / "runs").runs[1]
    cost = cost_of(run.recipe, 19, run.folder)
    assert cost.params > 0
    assert cost.gflops > 0
    kept = json.loads((run.folder / "cost.json").read_text())
    (run.folder / "cost.json").write_text(json.dumps(kept | {"params": -1}))
    assert cost_of(run.recipe, 19, run.folder).params == -1
    assert cost_of(run.recipe, 18, run.folder).params == cost.params - 9  # 8 weights and a bias of the classifier


def test_attention_costs_more_than_convolutions_alone(tmp_path, study_file):
    fcn, rcca = load_study(study_file, runs=tmp_path / "runs").runs
    assert cost_of(rcca.recipe, 19, rcca.folder).gflops > cost_of(fcn.recipe, 19, fcn.folder).gflops


def test_speed_is_the_median_without_the_first_steps_of_each_start(tmp_path):
    lines = [{"event": "start"}, *({"images_per_s": 1.0} for _ in range(5)), {"images_per_s": 8.0}]
    lines += [{"event": "start"}, *({"images_per_s": 2.0} for _ in range(5)), {"images_per_s": 10.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train_images_per_s(tmp_path) == 9.0
    assert train_images_per_s(tmp_path / "nowhere") is None
