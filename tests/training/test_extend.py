"""`segnl train --extend`: more steps for a finished run, and what a run remembers between its starts."""

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.errors import ConfigError
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, step_of
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit


def learned(run):
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    return checkpoint.step, checkpoint.model | checkpoint.optim


def same(first, second):
    return first[0] == second[0] and all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def rates(run):
    return [line["lr"] for line in read_log(run / "log.jsonl") if "event" not in line]


@pytest.fixture
def finished(tiny_config, tmp_path):
    """A finished run of 4 steps, and the recipe of 9 steps with its warm-up."""
    options = ["schedule.warmup_steps=1", "optim.clip_norm=0.5"]
    fit(load_recipe(tiny_config, [*options, "train.max_steps=4"]), tmp_path / "run")
    return tmp_path / "run", load_recipe(tiny_config, [*options, "train.max_steps=9"])


@pytest.mark.parametrize("schedule", ["continued", "restarted"])
def test_an_extended_run_equals_a_new_one_of_its_recipe_also_when_killed(finished, tmp_path, schedule):
    run, longer = finished
    before = rates(run)
    fit(longer, run, extend=schedule)
    assert [step_of(path) for path in checkpoints_of(run)] == [9, 8, 4]
    assert load_recipe(run / "recipe-4.yaml").train.max_steps == 4
    after = [longer.schedule.learning_rate(step, max_steps=9, lr=longer.optim.lr) for step in range(4, 9)]
    if schedule == "restarted":
        after = [longer.schedule.learning_rate(step, max_steps=5, lr=longer.optim.lr) for step in range(5)]
    assert rates(run) == pytest.approx([*before, *after], rel=1e-5)  # the log has six digits
    whole = learned(run)

    fit(load_recipe(run / "recipe.yaml"), tmp_path / "anew")
    assert same(learned(tmp_path / "anew"), whole)

    checkpoints_of(run)[0].unlink()  # as after a kill between steps 8 and 9
    fit(longer, run, extend=schedule)
    assert same(learned(run), whole)
    checkpoints_of(run)[0].unlink()
    fit(longer, run)  # what was extended needs no --extend to resume
    assert same(learned(run), whole)


def test_a_run_can_be_extended_twice(finished, tiny_config, tmp_path):
    run, longer = finished
    fit(longer, run, extend="restarted")
    longest = longer.model_copy(update={"train": longer.train.model_copy(update={"max_steps": 12})})
    fit(longest, run, extend="continued")
    expected = longer.schedule.learning_rate(9 - 4, max_steps=8, lr=longer.optim.lr)
    assert rates(run)[9] == pytest.approx(expected, rel=1e-5)
    fit(load_recipe(run / "recipe.yaml"), tmp_path / "anew")
    assert same(learned(tmp_path / "anew"), learned(run))


def test_patience_counts_anew_in_an_extension(tiny_config, tmp_path):
    options = ["train.eval_every=2", "train.best_by=loss", "optim.lr=0.2", "train.patience=2"]
    run = tmp_path / "run"
    fit(load_recipe(tiny_config, [*options, "train.max_steps=30"]), run)
    ended = step_of(checkpoints_of(run)[0])
    assert ended < 30
    log = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(log[: log.index('{"event": "end"')])  # a kill before the line
    longer = load_recipe(tiny_config, [*options, "train.max_steps=40", "train.patience=3"])
    fit(longer, run, extend="restarted")
    assert step_of(checkpoints_of(run)[0]) >= ended + 6
    assert load_recipe(run / "recipe.yaml").train.extended[0].model_dump() == {
        "at": ended,
        "max_steps": 30,
        "schedule": "restarted",
    }


def test_what_cannot_be_extended_is_refused_in_one_line(finished, tiny_config, tmp_path):
    run, longer = finished
    same_length = longer.model_copy(update={"train": longer.train.model_copy(update={"max_steps": 4})})
    other_rate = longer.model_copy(update={"optim": longer.optim.model_copy(update={"lr": 1.0})})
    for recipe, folder, arguments, message in (
        (
            longer,
            run,
            {},
            r"differs in train\.max_steps; add --extend continued to train a finished run for more steps",
        ),
        (same_length, run, {"extend": "continued"}, "has 4 steps; give more"),
        (longer, tmp_path / "new", {"extend": "continued"}, "no checkpoint to continue from"),
        (other_rate, run, {"extend": "continued"}, r"differs in optim\.lr"),
        (longer, run, {"extend": "continued", "fresh": True}, "give one of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(recipe, folder, **arguments)
    fit(longer, run, extend="continued")
    with pytest.raises(ConfigError, match="is extended to 9 steps with its schedule continued"):
        fit(longer, run, extend="restarted")
    checkpoints_of(run)[0].unlink()
    longest = longer.model_copy(update={"train": longer.train.model_copy(update={"max_steps": 12})})
    with pytest.raises(ConfigError, match="stopped at step 8 of 9; finish it first"):
        fit(longest, run, extend="continued")


def test_a_finished_runs_recipe_is_not_written_again(finished):
    run, _ = finished
    recipe = load_recipe(run / "recipe.yaml")
    before = (run / "recipe.yaml").stat()
    fit(recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"flip": True})}), run)
    after = (run / "recipe.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_an_extension_that_ended_before_its_first_save_leaves_the_run_as_it_was(finished):
    run, longer = finished
    recipe = load_recipe(run / "recipe.yaml")
    fit(longer, run, extend="continued")
    for path in checkpoints_of(run)[:2]:
        path.unlink()
    assert load_recipe(run / "recipe.yaml") != recipe
    fit(recipe, run)
    assert load_recipe(run / "recipe.yaml") == recipe
    fit(longer, run, extend="continued")
    assert step_of(checkpoints_of(run)[0]) == 9


def test_another_eval_between_two_validations_is_refused(tiny_config, tmp_path):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config, ["train.eval_every=2"]), run)
    checkpoints_of(run)[0].unlink()
    with pytest.raises(ConfigError, match=r"run: eval\.flip: its validations so far had another value"):
        fit(load_recipe(tiny_config, ["train.eval_every=2", "eval.flip=true"]), run)
    fit(load_recipe(tiny_config, ["train.eval_every=2", "eval.batch_size=1"]), run)
    fit(load_recipe(tiny_config, ["train.eval_every=2", "eval.flip=true"]), run)  # it has finished


def test_added_images_are_noticed_and_the_same_ones_elsewhere_are_not(tiny_config, tiny_data, tmp_path, caplog):
    run = tmp_path / "run"
    fit(load_recipe(tiny_config), run)
    checkpoints_of(run)[0].unlink()
    tiny_data.rename(tmp_path / "moved")
    fit(load_recipe(tiny_config, [f"data.root={tmp_path / 'moved'}"]), run)
    assert "have changed" not in caplog.text
    for kind in ("images", "labels"):
        folder = tmp_path / "moved" / kind / "train"
        (folder / "frame9.png").write_bytes((folder / "frame0.png").read_bytes())
    checkpoints_of(run)[0].unlink()
    fit(load_recipe(tiny_config, [f"data.root={tmp_path / 'moved'}"]), run)
    assert "the training data have changed since its last checkpoint (5 images then, 6 now" in caplog.text


def test_a_label_changed_at_equal_size_is_noticed_also_after_the_end(tiny_config, tiny_data, tmp_path, caplog):
    run, label = tmp_path / "run", tiny_data / "labels" / "train" / "frame4.bmp"
    for path in (tiny_data / "labels").glob("*/*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    recipe = load_recipe(tiny_config, ["data.label_suffix=.bmp"])
    fit(recipe, run)
    fit(recipe, run)
    assert "have changed" not in caplog.text
    size, ids = label.stat().st_size, np.array(Image.open(label))
    ids[10, 10] = 1 - min(1, ids[10, 10])
    Image.fromarray(ids).save(label)
    assert label.stat().st_size == size
    fit(recipe, run)
    assert "the content of images, labels or classes is another); the run is finished and stays as it is" in caplog.text
