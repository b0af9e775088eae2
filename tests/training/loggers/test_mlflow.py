import pytest

from segnl.runs.checkpoint import checkpoints_of
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit

mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")


def test_a_run_is_recorded_in_a_file_and_continued_under_the_same_id(tiny_config, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/runs.db"
    entry = f"{{name: mlflow, experiment: ours, tracking_uri: '{uri}'}}"
    options = [f"train.loggers=[{entry}]", "train.eval_every=2", "train.keep_every=2"]
    recipe, run = load_recipe(tiny_config, options), tmp_path / "run"
    fit(recipe, run)
    assert "switched off" not in caplog.text
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("ours")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "run"
    assert stored.data.params["optim.lr"] == "0.05"
    losses = client.get_metric_history(stored.info.run_id, "train/loss")
    assert [metric.step for metric in losses] == [1, 2, 3, 4, 5, 6]
    assert {"val/miou", "val/loss", "val_iou/road"} <= stored.data.metrics.keys()

    for path in checkpoints_of(run)[:2]:
        path.unlink()  # as after a kill between steps 2 and 4
    fit(recipe, run)
    assert "switched off" not in caplog.text
    (again,) = client.search_runs([experiment.experiment_id])
    assert (again.info.run_id, again.info.status) == (stored.info.run_id, "FINISHED")
    values = {(metric.step, metric.value) for metric in client.get_metric_history(again.info.run_id, "train/loss")}
    assert values == {(metric.step, metric.value) for metric in losses}


def test_a_server_that_is_gone_switches_it_off_within_seconds(tiny_config, tmp_path, caplog):
    entry = "{name: mlflow, tracking_uri: 'http://127.0.0.1:9'}"
    fit(load_recipe(tiny_config, [f"train.loggers=[{entry}]"]), tmp_path / "run")
    assert "mlflow failed and is switched off" in caplog.text
    assert checkpoints_of(tmp_path / "run")[0].stem == "step-00000006"
