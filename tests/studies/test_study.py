from pathlib import Path

import pytest

from segnl.core.errors import ConfigError
from segnl.reports.table_columns import OF_HEAD
from segnl.studies.study import ABLATIONS, StudyConfig, forbidden_differences, load_study


def test_a_study_plans_every_head_with_every_seed_the_first_seeds_first(tmp_path, study_file):
    text = study_file.read_text().replace("seeds: [0]", "seeds: [3, 5]")
    study_file.write_text(text)
    study = load_study(study_file, runs=tmp_path / "runs")
    assert [run.name for run in study.runs] == ["fcn-s3", "rcca-s3", "fcn-s5", "rcca-s5"]
    assert [run.recipe.train.seed for run in study.runs] == [3, 3, 5, 5]
    assert study.runs[1].recipe.model.head.name == "rcca"
    assert study.runs[1].folder == tmp_path / "runs" / "tiny" / "rcca-s3"
    assert [run.name for run in study.runs_of("rcca")] == ["rcca-s3", "rcca-s5"]


def test_heads_may_have_seeds_of_their_own(tmp_path, study_file):
    text = study_file.read_text()
    study_file.write_text(text.replace("seeds: [0]", "seeds: {fcn: [4, 0], rcca: [0, 7, 8]}"))
    study = load_study(study_file, runs=tmp_path / "runs")
    assert [run.name for run in study.runs] == ["fcn-s4", "rcca-s0", "fcn-s0", "rcca-s7", "rcca-s8"]
    assert [run.recipe.train.seed for run in study.runs] == [4, 0, 0, 7, 8]
    assert study.shared_seed == 0
    study_file.write_text(text.replace("seeds: [0]", "seeds: {fcn: [4], rcca: [0]}"))
    assert load_study(study_file, runs=tmp_path / "runs").shared_seed is None


def test_more_runs_than_anybody_trains_are_refused_at_once(tmp_path, study_file):
    study_file.write_text(study_file.read_text().replace("seeds: [0]", f"seeds: {list(range(3000))}"))
    with pytest.raises(ConfigError, match="runs of heads and seeds: 6000; expected 1 to 5000"):
        load_study(study_file, runs=tmp_path / "runs")


def test_heads_without_a_common_seed_must_still_share_the_recipe(tmp_path, study_file):
    text = study_file.read_text().replace("seeds: [0]", "seeds: {fcn: [4], rcca: [0]}")
    study_file.write_text(text.replace("channels: 8}}}\nseeds", "channels: 8}}, optim: {lr: 1.0}}\nseeds"))
    with pytest.raises(ConfigError, match=r"heads\.rcca: differs from fcn in optim\.lr; only model\.head may"):
        load_study(study_file, runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("varies: [model.head, nonsense]", "varies: 'nonsense' is no key of these recipes"),
        ("overrides: {train: {seed: 7}}", "train.seed: the study's `seeds` give it; leave it out"),
    ],
)
def test_what_has_no_effect_is_refused(tmp_path, study_file, more, says):
    study_file.write_text(f"{study_file.read_text()}\n{more}\n")
    with pytest.raises(ConfigError, match=says):
        load_study(study_file, runs=tmp_path / "runs")


def test_heads_of_one_recipe_are_recognised_whatever_their_seeds(tmp_path, study_file):
    assert load_study(study_file, runs=tmp_path / "runs").same_recipes == ()
    again = "  again: {model: {head: {name: fcn, channels: 8}}}\nseeds: {fcn: [0], rcca: [0], again: [1]}"
    study_file.write_text(study_file.read_text().replace("seeds: [0]", again))
    assert load_study(study_file, runs=tmp_path / "runs").same_recipes == (("fcn", "again"),)


def test_a_head_may_be_a_recipe_file_of_its_own_and_overrides_come_last(tmp_path, study_file):
    (tmp_path / "own.yaml").write_text("base: base.yaml\nmodel:\n  head: {name: aspp, channels: 8}\n")
    study_file.write_text("heads: {aspp: own.yaml}\noverrides: {train: {max_steps: 7}}\n")
    (run,) = load_study(study_file, runs=tmp_path / "runs").runs
    assert run.recipe.model.head.name == "aspp"
    assert run.recipe.train.max_steps == 7
    assert run.recipe.train.batch_size == 2


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "channels: 8}}}\nseeds",
            "channels: 8}}, optim: {lr: 1.0}}\nseeds",
            "heads.rcca: differs from fcn in optim.lr",
        ),
        ("channels: 8}}}\nseeds", "channels: 8}}, data: {flip: false}}\nseeds", "differs from fcn in data.flip"),
        (
            "channels: 8}}}\nseeds",
            "channels: 8}}, train: {max_steps: 9}}\nseeds",
            "differs from fcn in train.max_steps",
        ),
        ("seeds: [0]", "seeds: [1, 1]", "a seed is given twice"),
        ("seeds: [0]", "seeds: []", "seeds: holds []; expected whole numbers of at least 0"),
        ("seeds: [0]", "seeds: [-1]", "seeds: holds [-1]; expected whole numbers of at least 0"),
        ("seeds: [0]", "seeds: [true]", "seeds: holds [true]; expected whole numbers of at least 0"),
        ("seeds: [0]", "seeds: 3", "seeds: holds 3; expected whole numbers of at least 0"),
        ("seeds: [0]", "seeds: {fcn: [0, 0], rcca: [1]}", "a seed is given twice"),
        ("seeds: [0]", "seeds: {fcn: [0]}", "a list for each of `heads` and no other; look at rcca"),
        ("seeds: [0]", "seeds: {fcn: [0], rcca: [1], aspp: [2]}", "and no other; look at aspp"),
        ("seeds: [0]", "sedes: [0]", "sedes: unknown key; did you mean 'seeds'?"),
        ("  rcca:", "  ../rcca:", "names a folder"),
        ("name: rcca,", "name: rccca,", "did you mean 'rcca'"),
        (
            "seeds: [0]",
            "ablations: [gama0]",
            "ablation 'gama0': unknown; expected gamma0",
        ),
        ("base: base.yaml\n", "", "heads.fcn: keys without a base"),
    ],
)
def test_an_error_in_a_study_is_one_line_that_names_the_file(tmp_path, study_file, old, new, says):
    text = study_file.read_text()
    assert old in text
    study_file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as err:
        load_study(study_file, runs=tmp_path / "runs")
    assert says in str(err.value)
    assert str(study_file) in str(err.value)
    assert "\n" not in str(err.value)


def test_what_a_study_varies_on_purpose_may_differ(tmp_path, study_file):
    text = study_file.read_text().replace("channels: 8}}}\nseeds", "channels: 8}}, optim: {lr: 1.0}}\nseeds")
    study_file.write_text(text + "varies: [model.head, optim.lr]\n")
    assert len(load_study(study_file, runs=tmp_path / "runs").runs) == 2


def test_a_key_with_a_longer_name_is_not_the_key_that_varies():
    one = {"model": {"head": {"name": "a"}, "headroom": 1}, "data": {"root": "x"}}
    other = {"model": {"head": {"name": "b"}, "headroom": 2}, "data": {"root": "y"}}
    assert forbidden_differences(one, other, ("model.head",)) == ["model.headroom"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", []),
        ("ablations: false\n", []),
        ("ablations: true\n", ["gamma0", "shuffled", "window=0", "window=4"]),
        ("ablations: [window=2, gamma0, window=2]\n", ["window=2", "gamma0"]),
    ],
)
def test_ablations_are_the_usual_ones_or_those_named_each_once(tmp_path, study_file, line, names):
    study_file.write_text(study_file.read_text() + line)
    cfg = load_study(study_file, runs=tmp_path / "runs").cfg
    assert [ablation.name for ablation in cfg.chosen_ablations()] == names


def test_matched_heads_are_planned_with_their_widths_and_the_target_keeps_its_own(tmp_path, study_file):
    text = study_file.read_text().replace("name: fcn, channels: 8", "name: fcn, channels: 40")
    study_file.write_text(text + "match: params\n")
    study = load_study(study_file, runs=tmp_path / "runs")
    channels = [run.recipe.model.head.channels for run in study.runs]
    assert channels == [40, study.widths["rcca"].channels]
    assert channels[1] in (32, 40)
    assert abs(study.widths["rcca"].deviation) < 0.1
    study_file.write_text(text + "match: params\nmatch_to: rcca\n")
    study = load_study(study_file, runs=tmp_path / "runs")
    assert [run.recipe.model.head.channels for run in study.runs] == [8, 8]


@pytest.mark.parametrize("line", ["match_to: rcca\n", "match: params\nmatch_to: swirl\n"])
def test_a_match_target_that_is_no_head_is_one_line(tmp_path, study_file, line):
    study_file.write_text(study_file.read_text() + line)
    with pytest.raises(ConfigError, match="needs `match: params` or `match: gflops`, and a head of that name"):
        load_study(study_file, runs=tmp_path / "runs")


def test_the_guide_explains_every_key_column_and_ablation():
    text = (Path(__file__).resolve().parents[2] / "docs" / "compare.md").read_text()
    assert [key for key in StudyConfig.model_fields if f"`{key}`" not in text] == []
    titles = [column.title for column in OF_HEAD.values()]
    assert [title for title in titles if f"| {title} |" not in text] == []
    assert [name for name in ABLATIONS if name.partition("=")[0] not in text] == []
