import pickle

import pytest

from segnl.core.config import parse_yaml
from segnl.core.errors import ConfigError
from segnl.runs.recipe import compose, differing_keys, load_recipe


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.name=sdg", "optim.name: holds 'sdg'; did you mean 'sgd'?"),
        ("loss={name: 3}", "loss.name: holds 3, expected a word"),
        ("data.name=citiscapes", "data.name: holds 'citiscapes'; did you mean 'cityscapes'?"),
        ("model.head=rcca", "model.head: holds 'rcca', expected keys and values such as 'name:'"),
        ("model.backbone={name: resnett}", "model.backbone.name: holds 'resnett'; did you mean 'resnet'?"),
        ("model.head.chanels=8", "model.head.chanels: unknown key; did you mean 'channels'?"),
        ("train.max_steps=0", "train.max_steps: holds 0"),
        ("train.max_step=3", "train.max_step: unknown key; did you mean 'max_steps'?"),
        ("eval.mode=slide", ": eval: mode slide needs window_hw and stride_hw"),
        ("data.scale=[2.0, 0.5]", "data.scale: holds [2.0, 0.5]; expected [smallest, largest]"),
        ("modle={}", "modle: unknown key; did you mean 'model'?"),
    ],
)
def test_a_fault_is_one_line_with_file_and_key(tiny_config, override, says):
    with pytest.raises(ConfigError) as err:
        load_recipe(tiny_config, [override])
    assert says in str(err.value)
    assert str(err.value).startswith(str(tiny_config))
    assert "\n" not in str(err.value)


def test_a_missing_section_is_named(tiny_config):
    mapping = parse_yaml(tiny_config.read_text(), "x")
    mapping["optin"] = mapping.pop("optim")
    with pytest.raises(ConfigError, match=r"optin: unknown key; did you mean 'optim'\?"):
        compose(mapping, file="x.yaml")
    mapping.pop("optin")
    with pytest.raises(ConfigError, match="optim: missing; add it"):
        compose(mapping, file="x.yaml")


def test_a_head_of_another_name_inherits_nothing(tiny_config):
    recipe = load_recipe(tiny_config, ["model.head={name: aspp}"])
    assert recipe.model.head.channels == 512


def test_a_resolved_recipe_reads_back_the_same(tiny_config):
    recipe = load_recipe(tiny_config)
    assert compose(recipe.to_dict(), file="again").to_dict() == recipe.to_dict()


def test_groups_that_matter_to_one_of_two_recipes_differ_only_if_they_do(tiny_config):
    def recipe(*options):
        return load_recipe(tiny_config, ["model.head={name: non_local, channels: 8}", *options]).to_dict()

    assert differing_keys(recipe(), recipe("data.frames=3")) == ["data.frames"]
    assert differing_keys(recipe(), recipe("data.frames=3", "data.group=folder")) == ["data.frames", "data.group"]
    assert differing_keys(recipe(), recipe("data.group=folder")) == []


def test_what_does_not_change_the_numbers_may_differ(tiny_config):
    one = load_recipe(tiny_config).to_dict()
    moved = load_recipe(tiny_config, ["data.workers=3", "data.root=/elsewhere", "train.save_every=1"]).to_dict()
    other = load_recipe(tiny_config, ["model.head={name: aspp, channels: 16}", "train.seed=1"]).to_dict()
    assert differing_keys(one, moved) == []
    assert {"model.head.name", "train.seed"} <= set(differing_keys(one, other))
    assert not any(key.startswith("data") for key in differing_keys(one, other))


def test_a_key_that_is_younger_than_a_recipe_has_its_default_there(tiny_config):
    now = load_recipe(tiny_config).to_dict()
    before = {**now, "model": {key: value for key, value in now["model"].items() if key != "norm"}}
    assert differing_keys(now, before) == []
    assert differing_keys(load_recipe(tiny_config, ["model.norm=frozen"]).to_dict(), before) == ["model.norm"]


def test_compile_and_activation_checkpointing_are_refused_together(tiny_config):
    with pytest.raises(ConfigError, match="drop activation_checkpointing"):
        load_recipe(tiny_config, ["train.compile=true", "train.activation_checkpointing=true"])


def test_micro_batches_that_do_not_divide_the_batch_are_refused(tiny_config):
    with pytest.raises(ConfigError, match="batch_size 2 cannot be split into 3 equal micro-batches"):
        load_recipe(tiny_config, ["train.accumulate=3"])


def test_a_recipe_survives_pickling(tiny_config):
    recipe = load_recipe(tiny_config, ["loss={name: ohem, fraction: 0.5}", "optim={name: adamw, lr: 0.1}"])
    again = pickle.loads(pickle.dumps(recipe))
    assert again.to_dict() == recipe.to_dict()
    assert (again.loss.fraction, again.optim.betas, again.model.head.channels) == (0.5, (0.9, 0.999), 16)


@pytest.mark.parametrize(
    "root", ["2024", "007", "1e3", "/data/#1", "/data/a #1", "true", "null", "null-set", "/x/a: b", "@x", "~/x"]
)
def test_a_path_given_on_the_command_line_is_text(tiny_config, root):
    recipe = load_recipe(tiny_config, ["train.seed=3", f"data.root={root}"])
    assert (str(recipe.data.root), recipe.train.seed) == (root, 3)


def test_a_wrong_value_for_a_text_is_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"data\.root: holds \[1\]"):
        load_recipe(tiny_config, ["data.root=[1]"])
