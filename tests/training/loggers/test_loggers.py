"""What holds for every logger: found by name, unable to stop or to change a training, continued on resume."""

import sys
from pathlib import Path

import pytest
import torch

from segnl.core.errors import ConfigError, MachineError
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit
from segnl.training.loggers.find import LOGGERS

EXTRAS = ["tensorboard", "wandb", "mlflow"]
BROKEN = """
from segnl.training.loggers.base import Logger, LoggerConfig


class BrokenConfig(LoggerConfig):
    moment: str


class Broken(Logger):
    Config = BrokenConfig

    def __getattribute__(self, name):
        if name.startswith("on_") and name == self.cfg.moment:
            raise OSError(28, "No space left on device\\nat all")
        return super().__getattribute__(name)


LOGGER = Broken
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "broken_logger_module").mkdir()
    (tmp_path / "broken_logger_module" / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_logger_module.broken", raising=False)
    return "broken_logger_module.broken"


def saved(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(checkpoints_of(run)[0])
    return checkpoint.model | checkpoint.optim


@pytest.mark.parametrize("moment", ["on_start", "on_step", "on_validation", "on_save", "on_end"])
def test_a_logger_that_fails_is_switched_off_and_changes_nothing(tiny_config, tmp_path, caplog, broken, moment):
    fit(load_recipe(tiny_config, ["train.eval_every=3"]), tmp_path / "alone")
    entry = f"{{name: {broken}, moment: {moment}}}"
    fit(load_recipe(tiny_config, ["train.eval_every=3", f"train.loggers=[{entry}]"]), tmp_path / "run")
    (line,) = [record.message for record in caplog.records if "switched off" in record.message]
    assert line.startswith(f"train.loggers: {broken} failed and is switched off; the training continues (OSError: ")
    assert "\n" not in line
    own, other = saved(tmp_path / "run"), saved(tmp_path / "alone")
    assert all(torch.equal(own[name], other[name]) for name in other)
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["event"] == "end"


def test_no_logger_hides_the_error_that_ends_a_training(tiny_config, tmp_path, broken):
    recipe = load_recipe(tiny_config, [f"train.loggers=[{{name: {broken}, moment: on_error}}]", "optim.lr=1e30"])
    with pytest.raises(Exception, match=r"nothing was updated|nothing was saved"):
        fit(recipe, tmp_path / "run")


def test_the_names_are_the_files_of_the_folder():
    assert LOGGERS.names() == sorted(EXTRAS)


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[wandbb]", r"train\.loggers\.0\.name: holds 'wandbb'; did you mean 'wandb'\?"),
        ("[{name: wandb, projekt: x}]", r"train\.loggers\.0\.projekt: unknown key; did you mean 'project'\?"),
        ("[{project: x}]", r"train\.loggers\.0\.name: missing"),
        ("[wandb, {name: wandb}]", r"train\.loggers\.1: wandb stands twice"),
        ("[no_such_package.logger]", r"cannot import no_such_package\.logger .*PYTHONPATH"),
        ("[segnl.training.hooks]", "has no LOGGER; its last line must be LOGGER = THE_CLASS"),
    ],
)
def test_a_wrong_entry_is_one_line_before_anything_is_built(tiny_config, tmp_path, monkeypatch, loggers, message):
    monkeypatch.setattr("segnl.training.fit.build_data", lambda *_: pytest.fail("built"))
    with pytest.raises(ConfigError, match=message) as err:
        fit(load_recipe(tiny_config, [f"train.loggers={loggers}"]), tmp_path / "run")
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_is_one_line_naming_the_extra_before_anything_is_built(
    tiny_config, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    monkeypatch.setattr("segnl.training.fit.build_data", lambda *_: pytest.fail("built"))
    with pytest.raises(MachineError, match=rf"{name} is not installed; pip install 'segnl\[{name}\]'.* extra {name}"):
        fit(load_recipe(tiny_config, [f"train.loggers=[{name}]"]), tmp_path / "run")


def test_the_former_key_tensorboard_stands_for_the_logger(tiny_config):
    assert load_recipe(tiny_config, ["train.tensorboard=true"]).train.loggers == ("tensorboard",)
    assert load_recipe(tiny_config, ["train.tensorboard=false"]).train.loggers == ()
    assert load_recipe(tiny_config, ["train.tensorboard=true", "train.loggers=null"]).train.loggers == ("tensorboard",)
    with pytest.raises(ConfigError, match=r"train\.loggers: holds 5"):
        load_recipe(tiny_config, ["train.tensorboard=true", "train.loggers=5"])


def test_another_logger_does_not_make_it_another_training(tiny_config, tmp_path, broken):
    fit(load_recipe(tiny_config), tmp_path / "run")
    fit(load_recipe(tiny_config, [f"train.loggers=[{{name: {broken}, moment: none}}]"]), tmp_path / "run")
