"""Validation by default, the validation loss, the best checkpoint and the early end."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segnl.core.errors import ConfigError, DataError
from segnl.core.run_log import read_log
from segnl.evaluation.inference import infer
from segnl.evaluation.predictor import load
from segnl.runs.build import build_data
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, step_of
from segnl.runs.recipe import EvalConfig, TrainConfig, load_recipe
from segnl.training.fit import fit
from segnl.training.validator import cross_entropy_sum, is_validation_due

WORSE = ["optim.lr=0.2"]  # so large that the validations soon get worse


def evals(run):
    return [line for line in read_log(run / "log.jsonl") if line.get("event") == "eval"]


def weights(run):
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    return checkpoint.step, checkpoint.model | checkpoint.optim


def same(first, second):
    return first[0] == second[0] and all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize(
    ("num_steps", "due"), [(3, [1, 2, 3]), (7, [2, 3, 5, 6, 7]), (1000, [200, 400, 600, 800, 1000])]
)
def test_validations_are_spread_over_the_run_and_the_last_is_at_its_end(num_steps, due):
    train = TrainConfig(max_steps=num_steps, batch_size=2)
    assert [step for step in range(1, num_steps + 1) if is_validation_due(step, train)] == due


def test_a_run_validates_by_default_and_its_weights_do_not_depend_on_it(tiny_config, tmp_path):
    fit(load_recipe(tiny_config, ["train.eval_every=auto"]), tmp_path / "auto")
    fit(load_recipe(tiny_config, ["train.eval_every=null"]), tmp_path / "none")
    assert [line["step"] for line in evals(tmp_path / "auto")] == [2, 3, 4, 5, 6]
    assert same(weights(tmp_path / "auto"), weights(tmp_path / "none"))


@pytest.mark.parametrize(
    "settings",
    [[], ["eval.scales=[1.0, 0.75]", "eval.flip=true"]],
    ids=["whole", "several views"],
)
def test_the_loss_is_the_mean_cross_entropy_over_labelled_pixels(tiny_config, tmp_path, settings):
    fit(load_recipe(tiny_config, ["train.eval_every=6", *settings]), tmp_path / "run")
    predictor = load(tmp_path / "run")
    data = build_data(predictor.recipe, "val")
    total, count = 0.0, 0
    for index in range(len(data)):
        sample = data.read(index)
        scores = predictor.scores(sample.image).rows(0, sample.label.shape[0]).double()
        log_p = scores.log() if settings else scores.log_softmax(1)
        label = torch.from_numpy(sample.label)[None].long()
        total += F.nll_loss(log_p, label, ignore_index=255, reduction="sum").item()
        count += int((label != 255).sum())
    assert evals(tmp_path / "run")[0]["loss"] == pytest.approx(total / count, rel=1e-5)  # float32 sums


def test_the_loss_of_windows_is_that_of_their_mean_logits():
    torch.manual_seed(0)
    image, label = torch.randn(1, 3, 21, 33), torch.randint(0, 3, (1, 21, 33), dtype=torch.uint8)
    label[0, :2] = 255
    cfg = EvalConfig(mode="slide", window_hw=(16, 20), stride_hw=(9, 11))
    scores = infer(lambda x: F.avg_pool2d(x, 4), image, (21, 33), cfg)
    expected = F.cross_entropy(scores.rows(0, 21), label.long(), ignore_index=255, reduction="sum")
    assert cross_entropy_sum(scores, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_best_by_loss_keeps_the_checkpoint_of_the_lowest_loss(tiny_config, tmp_path):
    options = ["train.max_steps=8", "train.eval_every=1", "train.best_by=loss"]
    fit(load_recipe(tiny_config, options), tmp_path / "run")
    losses = {line["step"]: line["loss"] for line in evals(tmp_path / "run")}
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").step == min(losses, key=losses.get)


def test_patience_ends_the_training_and_a_second_start_does_nothing(tiny_config, tmp_path, caplog):
    caplog.set_level("INFO", "segnl")
    options = ["train.max_steps=40", "train.eval_every=2", "train.patience=2", "train.best_by=loss", *WORSE]
    recipe = load_recipe(tiny_config, options)
    fit(recipe, tmp_path / "run")
    losses = [line["loss"] for line in evals(tmp_path / "run")]
    best = int(np.argmin(losses))
    last = step_of(checkpoints_of(tmp_path / "run")[0])
    assert len(losses) == best + 3
    assert last == 2 * len(losses) < 40
    assert "2 validations were not better than the best" in caplog.text
    assert read_log(tmp_path / "run" / "log.jsonl")[-1] == {"event": "end", "step": last}
    fit(recipe, tmp_path / "run")
    assert f"already trained, {last} of 40 steps, ended by train.patience" in caplog.text
    assert len(evals(tmp_path / "run")) == len(losses)


def test_weights_of_somebody_under_the_name_of_the_best_are_not_replaced(tiny_config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(b"precious")
    with pytest.warns(UserWarning, match=r"best\.safetensors: .*; kept as best\.damaged"):
        fit(load_recipe(tiny_config, ["train.eval_every=3"]), run)
    assert (run / "best.damaged").read_bytes() == b"precious"
    assert load_checkpoint(run / "best.safetensors").step in (3, 6)


def test_a_best_checkpoint_whose_score_was_lost_is_not_replaced(tiny_config, tmp_path):
    run = tmp_path / "run"
    recipe = load_recipe(tiny_config, ["train.eval_every=1", "train.best_by=loss", "train.max_steps=6", *WORSE])
    fit(recipe, run)
    best = load_checkpoint(run / "best.safetensors")
    assert best.step < 6
    (run / "log.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"has lost its score; kept as best-of-step-0000000\d\.safetensors"):
        fit(recipe, run)
    assert load_checkpoint(run / f"best-of-step-{best.step:08d}.safetensors").checksum == best.checksum
    assert load_checkpoint(run / "best.safetensors").step == 6


@pytest.mark.parametrize("num_kept", [1, 3, 99], ids=str)
def test_killed_and_resumed_equals_uninterrupted_decisions_included(tiny_config, tmp_path, num_kept):
    """The state that a kill leaves after any validation, before and after its line in the log."""
    settings = ["train.epochs=10", "train.patience=2", "train.best_by=loss", "train.eval_every=2", "train.ema=0.9"]
    recipe = load_recipe(tiny_config, [*settings, "train.keep_every=2", "train.max_steps=null", *WORSE])
    whole, run = tmp_path / "whole", tmp_path / "run"
    fit(recipe, whole)
    fit(recipe, run)
    last = evals(whole)[-1]["step"]
    cut = min(2 * num_kept, last)
    for path in checkpoints_of(run):
        if step_of(path) > cut:
            path.unlink()
    (run / "best.safetensors").unlink()
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    of_a_kill = [line for line in lines if f'"val", "step": {cut},' not in line and '"event": "end"' not in line]
    (run / "log.jsonl").write_text("".join(of_a_kill))
    fit(recipe, run)
    assert evals(run) == evals(whole)
    assert same(weights(run), weights(whole))


def test_epochs_are_passes_over_the_training_images(tiny_config, tiny_data, tmp_path):
    num_images = len(list((tiny_data / "images" / "train").iterdir()))
    recipe = load_recipe(tiny_config, ["train.max_steps=null", "train.epochs=3"])
    fit(recipe, tmp_path / "run")
    checkpoint = load_checkpoint(checkpoints_of(tmp_path / "run")[0])
    assert checkpoint.step == checkpoint.recipe["train"]["max_steps"] == -(-3 * num_images // 2)
    assert checkpoint.recipe["train"]["epochs"] is None
    with pytest.raises(ConfigError, match=r"train\.epochs: the number of steps depends on the data set"):
        _ = recipe.train.num_steps
    for kind in ("images", "labels"):
        next((tiny_data / kind / "train").iterdir()).unlink()
    steps = checkpoint.step
    with pytest.raises(
        ConfigError, match=rf"added or removed, give --set train\.epochs=null train\.max_steps={steps}, "
    ):
        fit(recipe, tmp_path / "run")
    fit(load_recipe(tiny_config, [f"train.max_steps={steps}"]), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.epochs=2"], "train: give either max_steps or epochs, and leave the other out or null"),
        (["train.max_steps=null"], "train: give either max_steps or epochs, and leave the other out or null"),
        (["train.patience=2", "train.eval_every=null"], "patience counts validations"),
        (["train.eval_every=often"], r"train\.eval_every"),
    ],
)
def test_keys_at_odds_are_refused(tiny_config, options, message):
    with pytest.raises(ConfigError, match=message) as err:
        load_recipe(tiny_config, options)
    assert "\n" not in str(err.value)


def test_epochs_of_more_steps_than_a_recipe_may_have_are_refused(tiny_config):
    recipe = load_recipe(tiny_config, ["train.max_steps=null", "train.epochs=300000000", "train.batch_size=1"])
    with pytest.raises(ConfigError, match=r"train\.epochs: 300000000 are 1,200,000,000 steps; expected at most"):
        recipe.with_steps(4)


def test_without_a_split_val_there_is_no_validation_unless_it_was_asked_for(tiny_config, tiny_data, tmp_path, caplog):
    (tiny_data / "images" / "val").rename(tiny_data / "away")
    fit(load_recipe(tiny_config, ["train.eval_every=auto"]), tmp_path / "run")
    assert "no validation: " in caplog.text
    with pytest.raises(DataError):
        fit(load_recipe(tiny_config, ["train.eval_every=3"]), tmp_path / "other")
