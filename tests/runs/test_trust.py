"""A checkpoint from a stranger runs no code of the modules that it names."""

import copy
import sys
from dataclasses import replace

import pytest

from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.find import HEADS
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, save_checkpoint
from segnl.runs.recipe import differing_keys, load_recipe
from segnl.runs.run import open_run
from segnl.runs.trust import untrusted_modules
from segnl.training.fit import fit

MODULE = "stranger_code.swirl"
PLACES = [
    "model.head.name",
    "model.backbone.name",
    "data.name",
    "data.augment",
    "optim.name",
    "schedule.name",
    "loss.name",
    "loss.losses",
    "train.loggers",
]


def with_module(recipe, place):
    """The recipe with MODULE at a place where a component's name stands."""
    recipe = copy.deepcopy(recipe)
    section = recipe
    *path, key = place.split(".")
    for word in path:
        section = section[word]
    lists = {"augment": [{MODULE: {"p": 1.0}}], "losses": [{"name": MODULE}], "loggers": [MODULE]}
    section[key] = lists.get(key, MODULE)
    return recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.conftest import TINY_RECIPE, write_tiny_data

    folder = tmp_path_factory.mktemp("trust")
    write_tiny_data(folder)
    config = folder / "tiny.yaml"
    config.write_text(TINY_RECIPE.format(root=folder / "tiny"))
    fit(load_recipe(config, ["train.max_steps=1"]), folder / "run")
    return folder / "run"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that notes that it was imported."""
    (tmp_path / "stranger_code").mkdir()
    note = tmp_path / "was_run"
    (tmp_path / "stranger_code" / "swirl.py").write_text(f"open({str(note)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield note
    for name in ("stranger_code", MODULE):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("letter", ["\u2118", "h\u00b7d", "\u212e"])
def test_a_module_is_told_by_the_rule_that_imports_it(letter):
    """Python takes letters that `\\w` of `re` does not."""
    assert untrusted_modules({"model": {"head": {"name": f"stranger.{letter}"}}}) == [f"stranger.{letter}"]


@pytest.mark.parametrize("place", PLACES)
def test_no_component_of_a_checkpoint_is_imported_unless_the_user_names_it(folder, stranger, place):
    checkpoint = load_checkpoint(checkpoints_of(folder)[0])
    path = folder.parent / "stranger.safetensors"
    save_checkpoint(replace(checkpoint, path=path, recipe=with_module(checkpoint.recipe, place)))
    with pytest.raises(CheckpointError, match=f"--trust-modules {MODULE}"):
        open_run(path)
    with pytest.raises(CheckpointError, match=f"--trust-modules {MODULE}"):
        open_run(path, trust_modules=["stranger"])
    assert not stranger.exists()


def test_all_modules_are_named_at_once(folder, stranger):
    checkpoint = load_checkpoint(checkpoints_of(folder)[0])
    path = folder.parent / "two.safetensors"
    recipe = with_module(with_module(checkpoint.recipe, "model.head.name"), "loss.name")
    recipe["optim"]["name"] = "other_code.swift"
    save_checkpoint(replace(checkpoint, path=path, recipe=recipe))
    with pytest.raises(CheckpointError, match=f"add --trust-modules other_code.swift --trust-modules {MODULE} "):
        open_run(path)


@pytest.mark.parametrize("trusted", [MODULE, "stranger_code"])
def test_a_named_module_or_its_package_is_imported(folder, stranger, trusted):
    checkpoint = load_checkpoint(checkpoints_of(folder)[0])
    path = folder.parent / "stranger.safetensors"
    save_checkpoint(replace(checkpoint, path=path, recipe=with_module(checkpoint.recipe, "model.head.name")))
    with pytest.raises(ConfigError, match="has no HEAD"):
        open_run(path, trust_modules=[trusted])
    assert stranger.exists()


def test_comparing_a_recipe_with_that_of_a_checkpoint_imports_nothing(folder, stranger):
    recipe = load_recipe(folder / "recipe.yaml").to_dict()
    assert differing_keys(recipe, with_module(recipe, "model.head.name")) == ["model.head.name"]
    assert not stranger.exists()


def test_a_module_that_is_imported_already_needs_no_mention(folder):
    recipe = load_recipe(folder / "recipe.yaml").to_dict()
    assert untrusted_modules(with_module(recipe, "model.head.name")) == [MODULE]
    recipe["model"]["head"]["name"] = "segnl.models.heads.rcca"
    assert untrusted_modules(recipe) == []


def test_names_of_files_are_no_modules():
    recipe = {"init": "a.safetensors", "data": {"root": "my.data", "splits": ["train.txt", "val.txt"]}}
    assert untrusted_modules(recipe) == []


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise OSError('line one\\nline two')", "OSError: line one$"),
    ],
)
def test_whatever_an_import_raises_is_one_line(tmp_path, monkeypatch, code, says):
    (tmp_path / "stranger_code").mkdir()
    (tmp_path / "stranger_code" / "broken.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=says):
        HEADS.find("stranger_code.broken")
    sys.modules.pop("stranger_code", None)
