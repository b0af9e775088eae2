from pathlib import Path

import pytest

from segnl.core.errors import ConfigError
from segnl.runs.folder import lock_run_folder, run_folder
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


@pytest.mark.parametrize("name", ["recipe.yaml", "log.jsonl"])
def test_a_file_that_no_training_wrote_stays_in_a_new_run_s_folder(tiny_config, tmp_path, name):
    file, recipe = tmp_path / "run" / name, load_recipe(tiny_config)
    file.parent.mkdir()
    file.write_text("# precious\ntrain: {max_steps: 3}\n")
    with pytest.raises(ConfigError, match=f"{name}: exists"), lock_run_folder(file.parent, recipe, None, fresh=False):
        pass
    assert file.read_text().startswith("# precious")
    file.unlink()
    for _ in range(2):  # the second finds what the first wrote, as after a kill before the first checkpoint
        with lock_run_folder(file.parent, recipe, None, fresh=False):
            (file.parent / "log.jsonl").touch()
