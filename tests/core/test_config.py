import os
from pathlib import Path
from typing import Literal

import pytest

from segnl.core.config import Config, dump_yaml, load_mapping, parse_override, parse_yaml, validate
from segnl.core.errors import ConfigError


class Inner(Config):
    lr: float
    steps: tuple[int, ...] = (1,)


class Outer(Config):
    name: str
    optim: Inner


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("010", 10),
        ("-3", -3),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    read = parse_yaml(text, "test")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml: line 3 key 'a' appears twice"),
        ("x: &a [1]\ny: *a\n", "aliases"),
        ("a: !!python/object/apply:os.system ['touch /tmp/never']", "tags"),
        ("a: [1, 2", "f.yaml: line"),
        ("a: b: c", "f.yaml: line 1"),
        ("- 1\n- 2\n", "expected keys and values"),
        ("[" * 3000, "f.yaml:"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, text, says):
    with pytest.raises(ConfigError) as err:
        load_mapping(write(tmp_path / "f.yaml", text))
    assert says in str(err.value)
    assert "\n" not in str(err.value)


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
    )
    with pytest.raises(ConfigError, match="aliases"):
        load_mapping(write(tmp_path / "f.yaml", bomb))


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere/x\.yaml: cannot be read \(No such file"):
        load_mapping(pytest.importorskip("pathlib").Path("nowhere/x.yaml"))


def test_base_is_blended_but_a_named_part_replaces(tmp_path):
    write(tmp_path / "_base.yaml", "head: {name: aspp, rates: [6, 12]}\noptim: {lr: 1e-2, wd: 1}\n")
    mapping = load_mapping(write(tmp_path / "c.yaml", "base: _base.yaml\nhead: {name: rcca}\noptim: {lr: 0.5}\n"))
    assert mapping == {"head": {"name": "rcca"}, "optim": {"lr": 0.5, "wd": 1}}


def test_a_base_may_have_a_base_but_not_itself(tmp_path):
    write(tmp_path / "a.yaml", "x: 1\ny: 1\nz: 1")
    write(tmp_path / "b.yaml", "base: a.yaml\ny: 2\nz: 2")
    assert load_mapping(write(tmp_path / "c.yaml", "base: b.yaml\nz: 3")) == {"x": 1, "y": 2, "z": 3}
    write(tmp_path / "a.yaml", "base: c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml: base: leads back to this file"):
        load_mapping(tmp_path / "c.yaml")


def test_a_shipped_recipe_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("camvid/rcca_r18", "camvid/rcca_r18.yaml", "configs/camvid/rcca_r18.yaml")
    mappings = [load_mapping(Path(name)) for name in names]
    assert [mapping["model"]["head"]["name"] for mapping in mappings] == ["rcca"] * 3
    (tmp_path / "camvid").mkdir()
    write(tmp_path / "camvid" / "rcca_r18.yaml", "x: own")
    assert load_mapping(Path("camvid/rcca_r18.yaml")) == {"x": "own"}
    with pytest.raises(ConfigError, match=f"{tmp_path}/camvid/nothing: cannot be read .* cityscapes/rcca_r50"):
        load_mapping(Path("camvid/nothing"))


def test_overrides_are_yaml_and_come_last(tmp_path):
    path = write(tmp_path / "c.yaml", "optim: {lr: 1, wd: 2}")
    assert load_mapping(path, ["optim.lr=1e-3", "data.scale=[0.5, 2.0]"]) == {
        "optim": {"lr": 1e-3, "wd": 2},
        "data": {"scale": [0.5, 2.0]},
    }


@pytest.mark.parametrize("text", ["optim.lr", "=3", "a..b=1"])
def test_a_malformed_override_shows_the_form(text):
    with pytest.raises(ConfigError, match=r"expected KEY\.KEY=VALUE"):
        parse_override(text)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (
            {"name": "x", "optim": {"lr": 1.0, "stepz": [1]}},
            "c.yaml: model.optim.stepz: unknown key; did you mean 'steps'?",
        ),
        ({"name": "x", "optim": {}}, "c.yaml: model.optim.lr: missing"),
        ({"name": "x", "optim": {"lr": "fast"}}, 'c.yaml: model.optim.lr: holds "fast"'),
        ({"name": "x", "optim": {"lr": True}}, "c.yaml: model.optim.lr: holds true"),
        ({"name": "x", "optim": {"lr": 1, "steps": [1, "2"]}}, 'c.yaml: model.optim.steps.1: holds "2"'),
        ({"name": "x", "optim": 3}, "c.yaml: model.optim: holds 3"),
        (
            {"name": "x", "optim": {"lr": float("inf")}},
            "c.yaml: model.optim.lr: holds Infinity; input should be",
        ),
        ({"name": "x", "optim": {"lr": float("nan")}}, "c.yaml: model.optim.lr: holds NaN; input should be"),
        ({"nome": "x", "optim": {"lr": 1}}, "c.yaml: model.nome: unknown key; did you mean 'name'?"),
    ],
)
def test_a_fault_is_one_line_with_its_dotted_path(mapping, says):
    with pytest.raises(ConfigError) as err:
        validate(Outer, mapping, file="c.yaml", at="model")
    assert says in str(err.value)
    assert "\n" not in str(err.value)


def test_lists_become_tuples_and_integers_may_stand_for_floats():
    settings = validate(Outer, {"name": "x", "optim": {"lr": 1, "steps": [1, 2]}}, file="c.yaml")
    assert settings.optim == Inner(lr=1.0, steps=(1, 2))


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Inner(lr=1.0).lr = 2.0


def test_dumped_yaml_reads_back(tmp_path):
    mapping = {
        "a": {"lr": 1e-05, "big": 1e16, "text": "on", "none": None, "flag": True, "list": [1, 2.5]},
        "name": "1e3",
    }
    assert load_mapping(write(tmp_path / "d.yaml", dump_yaml(mapping))) == mapping


@pytest.mark.parametrize("text", ["a: !!bool x", 'a: !!float ""', "a: !!map [1]", "!!set [1]"])
def test_a_tag_that_does_not_fit_its_value_is_one_line(text):
    with pytest.raises(ConfigError, match=r"c\.yaml: ") as err:
        parse_yaml(text, "c.yaml")
    assert "\n" not in str(err.value)


@pytest.mark.timeout(20)
def test_a_pipe_that_nobody_writes_to_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match="a pipe or a device, not a file"):
        load_mapping(tmp_path / "recipe.yaml")


def test_a_long_chain_of_bases_is_one_line(tmp_path):
    for i in range(200):
        write(tmp_path / f"{i}.yaml", f"base: {i + 1}.yaml")
    with pytest.raises(ConfigError, match=r"101\.yaml: base: more than 100 bases in a row"):
        load_mapping(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{a: 5}", "levels.a: holds 5; input should be a list or 'rest'"),
        ("{a: [x]}", 'levels.a.0: holds "x"; input should be a valid integer'),
    ],
)
def test_a_value_of_several_kinds_is_explained_without_pydantics_names(value, message):
    class Levels(Config):
        levels: dict[str, tuple[int, ...] | Literal["rest"]]

    with pytest.raises(ConfigError) as err:
        validate(Levels, parse_yaml(f"levels: {value}", "x"), file="r.yaml")
    assert str(err.value) == f"r.yaml: {message}"


def test_a_null_character_in_base_is_one_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text('base: "a\\0b.yaml"\n')
    with pytest.raises(ConfigError, match="holds a null character"):
        load_mapping(tmp_path / "recipe.yaml")


def test_text_that_is_not_unicode_is_named_with_its_key():
    with pytest.raises(ConfigError, match=r"r\.yaml: name: holds bytes that are not UTF-8; rename the file"):
        validate(Outer, {"name": "caf\udce9", "optim": {"lr": 1.0}}, file="r.yaml")
    with pytest.raises(ConfigError, match=r"r\.yaml: name: holds a NUL; give plain text"):
        validate(Outer, {"name": "a\0b", "optim": {"lr": 1.0}}, file="r.yaml")


@pytest.mark.parametrize(
    "text", ["a\x85b", "a\u2028b", "a\u2029b", "a\nb", "a\rb", " a", "a: b", "# a", "a\tb", "\ufeffa", "1e3"]
)
def test_text_comes_back_from_yaml_as_it_was(text):
    assert parse_yaml(dump_yaml({"root": text}), "test") == {"root": text}


def test_a_document_that_would_take_long_is_one_line():
    with pytest.raises(ConfigError, match=r"^r\.yaml: has 600,\d+ characters; at most 262,144 are read$"):
        parse_yaml("a: [" + "1, " * 200_000 + "]", "r.yaml")
