"""Absurd numbers are refused at once, in one line that says what is allowed; nothing is forked or allocated."""

import argparse
import importlib
import resource
from pathlib import Path

import pytest

from segnl.cli.arguments import path_of
from segnl.cli.main import _parser, main

HUGE = 10**12


@pytest.fixture(autouse=True)
def bounded_memory():
    """Should a bound be missing, the test fails instead of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(16 * 2**30, before[1]) if before[1] > 0 else 16 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(capsys, *words):
    """Returns the one line on standard error of a command that must exit with 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "override",
    [
        f"train.max_steps={HUGE}",
        f"train.batch_size={HUGE}",
        f"train.accumulate={HUGE}",
        f"train.save_every={HUGE}",
        f"data.crop_hw=[{HUGE}, 64]",
        f"data.short_side_px={HUGE}",
        "data.scale=[0.5, 1e9]",
        "data.worker_timeout_s=1e300",
        "loss.class_weight=[1e300, 1.0, 1.0]",
        f"model.head.channels={HUGE}",
        f"model.head.recurrence={HUGE}",
        f"model.head.num_convs={HUGE}",
        f"model.head.kernel={HUGE + 1}",
        f"model.head.last_channels={HUGE}",
        f"model.head={{name: ema, num_bases: {HUGE}}}",
        f"model.head={{name: ema, num_steps: {HUGE}}}",
        f"model.head={{name: psp, bins: [{HUGE}]}}",
        f"model.head={{name: psp, bins: [{'1, ' * 1000}1]}}",
        f"model.head={{name: aspp, dilations: [{'1, ' * 1000}1]}}",
        f"model.head={{name: isa, group_hw: [{HUGE}, 1]}}",
        f"model.aux={{channels: {HUGE}}}",
        "model.backbone.width=1e9",
        f"model.backbone.blocks=[{HUGE}, 1, 1, 1]",
        f"model.backbone.stem={{channels: {HUGE}}}",
        f"eval.batch_size={HUGE}",
        f"eval.window_hw=[{HUGE}, 1]",
        f"eval.size_multiple={HUGE}",
        "eval.scales=[1e9]",
        f"eval.scales=[{'1.0, ' * 1000}1.0]",
        f"eval.short_sides_px=[{HUGE}]",
        f"eval.long_side_px={HUGE}",
    ],
)
def test_an_absurd_number_in_a_recipe_is_refused(tiny_config, capsys, override):
    line = refusal(capsys, "train", "--print", "--config", tiny_config, "--set", override)
    assert f"tiny_rcca.yaml: {override.partition('=')[0]}" in line
    assert "input should be less than or equal to" in line or "at most" in line


@pytest.mark.parametrize("command", ["train", "eval"])
def test_more_workers_than_the_machine_carries_are_refused(tiny_config, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    source = ["--config", tiny_config]
    if command == "eval":
        assert main(["train", "--run", "r", "--config", str(tiny_config), "--set", "train.max_steps=1"]) == 0
        source = ["--checkpoint", tmp_path / "checkpoints" / "r"]
    line = refusal(capsys, command, *source, "--set", "data.workers=100000")
    assert "data.workers: 100000; expected 0 to " in line


def test_a_batch_that_cannot_fit_into_memory_is_refused(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    large = ["--set", "train.batch_size=60000", "data.crop_hw=[30000, 30000]"]
    line = refusal(capsys, "train", "--config", tiny_config, *large)
    assert "train.batch_size crops of data.crop_hw: needs at least" in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data", "streets", "--out", "s", "--train", HUGE], "--train: 1000000000000; expected 1 to 1000000"),
        (["data", "streets", "--out", "s", "--val", HUGE], "--val: "),
        (["data", "streets", "--out", "s", "--val", 0], "--val: 0; expected 1 to"),
        (["compare", "--config", "s.yaml", "--jobs", HUGE], "--jobs: 1000000000000; expected 1 to"),
        (["inspect", "--checkpoint", "r", "--out", "p", "--images", HUGE], "--images: "),
        (["inspect", "--checkpoint", "r", "--out", "p", "--sheet", HUGE], "--sheet: "),
        (["cost", "--input", "999999x999999"], "--input 999999x999999: needs at least"),
        (["cost", "--classes", HUGE], "--classes: "),
        (["import", "f", "--from", "ccnet", "--out", "o", "--recurrence", HUGE], "--recurrence: "),
    ],
)
def test_an_absurd_option_is_refused(tiny_config, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    config = ["--config", tiny_config] if words[0] in ("cost", "import") else []
    assert says in refusal(capsys, *words, *config)
    assert not (tmp_path / "s").exists()


def options_of(*types):
    """(words, option) of every option of a command that takes a value of these types: found by introspection."""
    commands = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    waiting = [([name], parser) for name, parser in commands.choices.items()]
    while waiting:
        words, parser = waiting.pop()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [([*words, name], own) for name, own in action.choices.items()]
        required = []
        for action in parser._actions:
            if action.required and not isinstance(action, argparse._SubParsersAction):
                values = {"classes": "cityscapes", "strength": "0.1"}
                given = action.choices[0] if action.choices else values.get(action.dest, "x")
                required.append(f"{action.option_strings[0]}={given}" if action.option_strings else given)
        for action in parser._actions:
            if action.type in types and action.option_strings:
                yield [*words, *required], action.option_strings[0]


@pytest.mark.parametrize("value", [str(10**20), "9" * 5000, "-1", "nan", "inf"])
@pytest.mark.parametrize(("words", "option"), list(options_of(int, float)), ids=lambda value: str(value)[:20])
def test_no_option_takes_an_absurd_number(words, option, value, tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--config={tiny_config}" if word == "--config=x" else word for word in words]
    if words[0] == "compare":
        words = ["compare", "--config=s.yaml"]
        (tmp_path / "s.yaml").write_text(f"heads: {{a: {tiny_config}, b: {tiny_config}}}\nseeds: [0]\n")
    if words[0] == "import":
        words.append(f"--config={tiny_config}")
    try:
        code = main([*words, f"{option}={value}"])
    except SystemExit as stopped:
        code = stopped.code
    line = capsys.readouterr().err.splitlines()[-1]
    assert (code, option in line) == (2, True), line[:300]


def test_no_path_may_be_empty_as_an_unset_variable_is(capsys):
    assert not list(options_of(Path))
    options = list(options_of(path_of))
    assert len(options) > 20
    for words, option in options:
        with pytest.raises(SystemExit) as stopped:
            main([*words, f"{option}="])
        assert (stopped.value.code, f"argument {option}: is empty" in capsys.readouterr().err) == (2, True), words
    for words in (["predict", "--checkpoint=a", "--out=b", ""], ["score", "", "--labels=a", "--classes=b"]):
        with pytest.raises(SystemExit):
            main(words)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_runs_out_is_one_line(tiny_config, capsys, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("segnl.runs.recipe.load_recipe", fail)
    assert main(["train", "--config", str(tiny_config)]) == 6
    assert "segnl: error: out of memory (" in capsys.readouterr().err


@pytest.mark.parametrize("message", ["PKG_LEVEL must be a number", "could not convert string to float: 'abc'"])
def test_an_environment_variable_that_a_package_refuses_is_named(tiny_config, tmp_path, capsys, monkeypatch, message):
    (tmp_path / "pkg.py").write_text(f"raise ValueError({message!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("segnl.runs.recipe.load_recipe", lambda *_: importlib.import_module("pkg"))
    monkeypatch.setenv("PKG_LEVEL", "abc")
    assert main(["train", "--config", str(tiny_config)]) == 6
    assert capsys.readouterr().err == f"segnl: error: PKG_LEVEL=abc: pkg refuses this value ({message}); unset it\n"
    monkeypatch.delenv("PKG_LEVEL")
    with pytest.raises(ValueError, match=message):
        main(["train", "--config", str(tiny_config)])


@pytest.mark.parametrize("value", ["abc", "", "-1", "9" * 30])
def test_a_variable_at_which_opencv_would_abort_is_refused(capsys, monkeypatch, value):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", value)
    assert main(["env"]) == 6
    assert "OPENCV_IO_MAX_IMAGE_PIXELS=" in capsys.readouterr().err
