import copy
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from segnl.core.errors import CheckpointError, ConfigError, MachineError
from segnl.models.weights.checksums import NO_CHECKSUM
from segnl.runs.checkpoint import (
    Checkpoint,
    checkpoint_path,
    checkpoints_of,
    drop_old_checkpoints,
    keep_as_best,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    open_checkpoint,
    optimiser_tensors,
    quarantine_damaged,
    require_weights_file,
    restore_optimiser,
    save_checkpoint,
    step_of,
)

CLASSES = {"names": ["a"], "palette": [[0, 0, 0]], "file_ids": [0], "void_id": 255}
RECIPE = {"model": {"backbone": {"name": "resnet"}}, "data": {}, "train": {"max_steps": 9}, "a": {"b": [1]}}


def net(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def save(path: Path, model: nn.Module, step: int = 7, **optimiser: torch.Tensor) -> Path:
    save_checkpoint(Checkpoint(path, step, RECIPE, CLASSES, {}, model=model.state_dict(), optim=optimiser))
    return path


def test_what_was_saved_comes_back(tmp_path):
    model = net()
    read = load_checkpoint(save(tmp_path / "c.safetensors", model, step=7, x=torch.ones(2)))
    assert (read.step, read.recipe, read.optim["x"].tolist()) == (7, RECIPE, [1.0, 1.0])
    assert all(torch.equal(read.model[name], value) for name, value in model.state_dict().items())


def test_a_channels_last_tensor_comes_back_with_its_values(tmp_path):
    weight = torch.randn(4, 3, 5, 7).to(memory_format=torch.channels_last)
    read = load_checkpoint(save(tmp_path / "c.safetensors", net(), x=weight))
    assert torch.equal(read.optim["x"], weight)


def test_every_single_flipped_byte_is_noticed(tmp_path):
    path = save(tmp_path / "c.safetensors", net())
    whole = path.read_bytes()
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("cut", [0, 3, 8, 200, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, cut):
    path = save(tmp_path / "c.safetensors", net())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"c\.safetensors: ") as err:
        load_checkpoint(path)
    assert "\n" not in str(err.value)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_a_malicious_pickle_is_refused_and_nothing_is_executed(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "marker").exists()


def test_a_foreign_safetensors_file_is_pointed_to_import(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="segnl import"):
        load_checkpoint(tmp_path / "w.safetensors")


def test_a_damaged_newest_falls_back_with_a_warning_and_named_it_is_refused(tmp_path):
    for step in (1, 2):
        save(checkpoint_path(tmp_path, step), net(), step=step)
    newest = checkpoint_path(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="falling back"):
        assert newest_checkpoint(tmp_path).step == 1
    with pytest.raises(CheckpointError, match="step-00000002"):
        open_checkpoint(newest)


def test_a_run_without_a_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged|truncated"),
        pytest.raises(CheckpointError, match=r"every step-\*.safetensors is damaged; move them aside"),
    ):
        newest_checkpoint(tmp_path)


def test_an_empty_run_is_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no step"):
        open_checkpoint(tmp_path)


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 10, 100):
        save(checkpoint_path(tmp_path, step), net(), step=step)
    drop_old_checkpoints(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000010.safetensors",
        "step-00000100.safetensors",
    ]


def test_a_folder_in_place_of_the_best_is_said(tmp_path):
    (tmp_path / "best.safetensors").mkdir()
    with pytest.raises(MachineError, match=r"cannot be written \(Is a directory\); move that folder"):
        keep_as_best(save(checkpoint_path(tmp_path, 5), net()))


@pytest.mark.parametrize("metadata", ["null", "5", "[]"])
def test_a_header_without_metadata_is_no_checkpoint(tmp_path, metadata):
    header = f'{{"__metadata__":{metadata}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_copy_under_another_name_is_no_checkpoint_of_the_run_and_stays(tmp_path):
    for step in (5, 10, 15):
        save(checkpoint_path(tmp_path, step), net(), step=step)
    names = [save(tmp_path / name, net()).name for name in ("step-00000005 (copy).safetensors", "step-new.safetensors")]
    drop_old_checkpoints(tmp_path)
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [15, 10]
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("type_name", ["float8_e8m0fnu", "float4_e2m1fn_x2"])
def test_a_tensor_of_a_type_that_torch_cannot_load_is_named_and_the_one_before_is_taken(tmp_path, type_name):
    save(checkpoint_path(tmp_path, 1), net(), step=1)
    odd = torch.zeros(2, dtype=torch.uint8).view(getattr(torch, type_name))
    save(checkpoint_path(tmp_path, 2), net(), step=2, odd=odd)
    with pytest.raises(CheckpointError, match=r"step-00000002\.safetensors: optim\.odd F\w+, a type that torch cannot"):
        load_checkpoint(checkpoint_path(tmp_path, 2))
    with pytest.warns(UserWarning, match="falling back"):
        assert newest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("shape", [[2**63, 0], [0, 2**40, 2**40]])
def test_a_tensor_of_a_size_that_torch_does_not_have_is_one_line(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"__metadata__": {"format": "segnl-1"}, "model.x": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["\0", "x" * 5000])
def test_a_name_that_no_file_can_have_is_one_line(name):
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(Path(name))


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path):
    save(checkpoint_path(tmp_path, 4), net(), step=4)
    save(checkpoint_path(tmp_path, 99), net(), step=2)
    with pytest.warns(UserWarning, match=r"step-00000099\.safetensors: is of step 2, .* - falling back"):
        assert newest_checkpoint(tmp_path).step == 4


def test_every_nth_is_kept_beside_the_newest_two(tmp_path):
    for step in (5, 10, 15, 20, 22, 23):
        save(checkpoint_path(tmp_path, step), net(), step=step)
    drop_old_checkpoints(tmp_path, keep_every=10)
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [23, 22, 20, 10]


@pytest.mark.parametrize("has_links", [True, False])
def test_the_best_outlives_the_file_that_it_was_and_is_no_newest_one(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(95, "no links")))
    for step in (5, 10):
        keep_as_best(save(checkpoint_path(tmp_path, step), net(), step=step))
    checkpoint_path(tmp_path, 10).unlink()
    assert load_checkpoint(tmp_path / "best.safetensors").step == 10
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "step-00000005.safetensors"]


def test_a_damaged_newer_one_does_not_count_among_the_two(tmp_path):
    for step in (8, 9, 10):
        save(checkpoint_path(tmp_path, step), net(), step=step)
    checkpoint_path(tmp_path, 10).write_bytes(b"damaged")
    quarantine_damaged(tmp_path, load_checkpoint(checkpoint_path(tmp_path, 9)))
    drop_old_checkpoints(tmp_path)
    assert [path.name for path in checkpoints_of(tmp_path)] == [
        "step-00000009.safetensors",
        "step-00000008.safetensors",
    ]


def test_weights_of_another_shape_are_refused_and_the_tensor_named(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path / "c.safetensors", net(3)))
    with pytest.raises(CheckpointError, match=r"tensors do not fit the model, '\S+' first"):
        load_weights(net(4), checkpoint)


@pytest.mark.parametrize("count", [torch.tensor(1.5), torch.tensor(True)])
def test_a_counter_that_is_no_integer_is_refused(tmp_path, count):
    checkpoint = load_checkpoint(save(tmp_path / "c.safetensors", net(3)))
    name = next(name for name in checkpoint.model if name.endswith("num_batches_tracked"))
    checkpoint.model[name] = count
    with pytest.raises(CheckpointError, match=f"1 tensors do not fit the model, '{name}' first"):
        load_weights(net(3), checkpoint)


@pytest.mark.parametrize(
    "odd", [torch.tensor(1e300, dtype=torch.float64), torch.empty(1, dtype=torch.float4_e2m1fn_x2)]
)
def test_weights_that_float32_cannot_hold_are_refused(odd, tmp_path):
    checkpoint = load_checkpoint(save(tmp_path / "c.safetensors", net(3)))
    name = "0.weight"
    checkpoint.model[name] = odd.expand(checkpoint.model[name].shape)
    with pytest.raises(CheckpointError, match=f"{name} NaN, infinite"):
        load_weights(net(3), checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda state, name: state.clear(),
        lambda state, name: state.pop(name),
        lambda state, name: state.update({name: torch.zeros(3)}),
        lambda state, name: state.update({name: torch.zeros(0)}),
        lambda state, name: state.update({name: state[name].to(torch.complex64)}),
        lambda state, name: state.update({name: state[name].to(torch.int64)}),
        lambda state, name: state.update({"nothing.exp_avg": state[name]}),
        lambda state, name: state[name].fill_(torch.nan),
        lambda state, name: state[f"{name}_sq"].fill_(-1),
        lambda state, name: state[name.replace("exp_avg", "step")].fill_(0),
    ],
)
def test_optimiser_state_that_is_not_of_this_optimiser_is_refused(change):
    model = net()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 3, 5, 7)).square().sum().backward()
    optimiser.step()
    state, weights = optimiser_tensors(optimiser, model), copy.deepcopy(model.state_dict())
    restore_optimiser(optimiser, model, state)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    change(state, next(name for name in state if name.endswith("exp_avg")))
    with pytest.raises(CheckpointError, match=r"optimiser state of the checkpoint: \d+ tensors do not fit, '"):
        restore_optimiser(optimiser, model, state)


def test_an_optimiser_of_ones_own_may_have_later_state_and_need_more_than_gradients():
    class Late(torch.optim.SGD):
        is_ready = True

        def step(self, closure=None):
            if not self.is_ready:
                raise RuntimeError("call ready() first")
            super().step(closure)
            for state in self.state.values():
                state["steps"] = state.get("steps", 0) + 1
                if state["steps"] == 2:
                    state["late"] = torch.ones(3)

    model = net()
    optimiser = Late(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model(torch.ones(2, 3, 5, 7)).square().sum().backward()
        optimiser.step()
    state = optimiser_tensors(optimiser, model)
    assert any(name.endswith("late") for name in state)
    for is_ready in (True, False):
        other = Late(model.parameters(), lr=0.1, momentum=0.9)
        other.is_ready = is_ready
        restore_optimiser(other, model, state)
        assert optimiser_tensors(other, model).keys() == state.keys()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimiser_state_survives_saving(kind):
    def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
        if kind == "sgd":
            return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        model(torch.ones(2, 3, 5, 7)).square().sum().backward()
        optimiser.step()

    one = net()
    one_optimiser = optimiser_of(one)
    step(one, one_optimiser)
    other = net()
    other.load_state_dict(one.state_dict())
    other_optimiser = optimiser_of(other)
    restore_optimiser(other_optimiser, other, optimiser_tensors(one_optimiser, one))
    step(one, one_optimiser)
    step(other, other_optimiser)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("step", "null"),
        ("step", "-1"),
        ("step", "no number"),
        ("step", "1000000001"),
        ("recipe", "[]"),
        ("recipe", "{}"),
        ("recipe", json.dumps(RECIPE | {"model": None})),
        ("recipe", json.dumps(RECIPE | {"model": {"backbone": "resnet"}})),
        ("recipe", json.dumps(RECIPE | {"data": []})),
        ("recipe", json.dumps(RECIPE | {"train": "text"})),
        ("recipe", json.dumps(RECIPE | {"train": {"max_steps": "x"}})),
        ("recipe", json.dumps(RECIPE | {"train": {"extended": None}})),
        ("recipe", "[" * 100_000),
        ("classes", "null"),
        ("classes", '{"names": ["a"], "palette": [[0, 0, 300]], "file_ids": [0], "void_id": 255}'),
        ("classes", '{"names": ["a", "b"], "palette": [[0, 0, 0]], "file_ids": [0], "void_id": 255}'),
        ("classes", json.dumps({"names": [str(i) for i in range(300)], "palette": [[0, 0, 0]] * 300,
                                "file_ids": [i % 256 for i in range(300)], "void_id": 255})),
        ("origin", "3"),
        ("origin", '{"data": null}'),
        ("loss_scale", '"x"'),
        ("loss_scale", '{"x": 1}'),
        ("loss_scale", '{"value": 0}'),
        ("loss_scale", '{"value": 3}'),
        ("loss_scale", '{"value": 16777217, "good_steps": 0}'),
        ("classes", None),
    ],
)  # fmt: skip
def test_metadata_of_a_wrong_type_are_one_line_although_the_checksum_is_right(tmp_path, key, text):
    metadata = {
        "format": "segnl-1",
        "seal": NO_CHECKSUM,
        "step": "3",
        "recipe": json.dumps(RECIPE),
        "classes": '{"names": ["a"], "palette": [[0, 0, 0]], "file_ids": [0], "void_id": 255}',
        "origin": "{}",
    }
    if text is None:
        del metadata[key]
    else:
        metadata[key] = text
    data = safetensors.torch.save({"model.x": torch.zeros(1)}, metadata)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data.replace(NO_CHECKSUM.encode(), hashlib.sha256(data).hexdigest().encode(), 1))
    with pytest.raises(CheckpointError, match="its metadata are not those of a checkpoint") as raised:
        load_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_checkpoint_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="a pipe or a device, not a file"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["best.safetensors", "step-00000004.safetensors", "step-1"])
def test_a_name_of_a_training_s_own_checkpoint_is_refused_for_other_files(name, tmp_path):
    with pytest.raises(ConfigError, match="is how the checkpoints of a training are called"):
        require_weights_file(Path("run") / name, "export")
    require_weights_file(tmp_path / "model.safetensors", "export")
