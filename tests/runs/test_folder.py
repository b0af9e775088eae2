from pathlib import Path

import pytest

from segnl.core.errors import ConfigError
from segnl.runs.folder import run_folder
from segnl.runs.recipe import load_recipe


def test_a_run_is_named_after_data_config_and_seed(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(tiny_config, ["train.seed=3"])
    assert run_folder(recipe, tiny_config, None) == Path("checkpoints/tiny-tiny_rcca-s3")
    assert run_folder(recipe, tiny_config, "mine") == Path("checkpoints/mine")
    with pytest.raises(ConfigError, match="leads out"):
        run_folder(recipe, tiny_config, "../mine")
    for name in ("a/eval", "a/cache/k"):
        (tmp_path / "checkpoints" / "a").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / "a" / "recipe.yaml").touch()
        with pytest.raises(ConfigError, match="lies in the folder of the run checkpoints/a"):
            run_folder(recipe, tiny_config, name)
    (tmp_path / "checkpoints" / "s").mkdir()
    (tmp_path / "checkpoints" / "s" / "study.json").touch()
    with pytest.raises(ConfigError, match="is the folder of a study"):
        run_folder(recipe, tiny_config, "s")
    assert run_folder(recipe, tiny_config, "s/fcn-s3") == Path("checkpoints/s/fcn-s3")
