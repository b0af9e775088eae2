import errno
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from segnl.core.errors import ConfigError, DataError, MachineError
from segnl.core.result_cache import Record, write_record
from segnl.core.run_log import read_log
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data, build_model
from segnl.runs.checkpoint import newest_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training import features
from segnl.training.features import FeatureFile
from segnl.training.fit import fit
from segnl.training.run_hashes import batch_hash

FROZEN = ["model.backbone.frozen=true", "data.views=3"]
CACHED = [*FROZEN, "train.features={dtype: float32}"]


def feature_file(config: Path, folder: Path, *options: str, seed: int = 0) -> FeatureFile:
    recipe = load_recipe(config, [*CACHED, "init=null", *options])
    data = build_data(recipe, "train")
    return FeatureFile(recipe, data, build_model(recipe, 3, is_new=True), folder)


def trained(config: Path, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    fit(load_recipe(config, list(options)), folder)
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint.model


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("train.precision=bf16", "train.channels_last=true"),
        ("train.accumulate=2", "model.aux=null", "model.head={name: uper, in_stages: [0, 1, 2, 3], channels: 8}"),
    ],
)
def test_training_from_float32_features_equals_training_without_them_to_the_bit(tiny_config, tmp_path, options):
    without = trained(tiny_config, tmp_path / "without", *FROZEN, *options)
    cached = trained(tiny_config, tmp_path / "cached", *CACHED, *options)
    assert without.keys() == cached.keys()
    assert all(torch.equal(without[name], cached[name]) for name in without)
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("without", "cached")]
    batches = [[line["batch"] for line in log if "batch" in line] for log in logs]
    assert batches[0] == batches[1]
    assert len(batches[0]) == 6


def test_a_resumed_training_from_features_equals_an_uninterrupted_one(tiny_config, tmp_path):
    whole = trained(tiny_config, tmp_path / "whole", *CACHED)
    trained(tiny_config, tmp_path / "resumed", *CACHED)
    max(tmp_path.glob("resumed/step-*")).unlink()
    again = trained(tiny_config, tmp_path / "resumed", *CACHED)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bf16", 2**-8)])
def test_maps_of_half_size_differ_by_their_rounding_alone(tiny_config, tmp_path, dtype, rounding):
    plan = BatchPlan(5, 2, 0, 4)
    exact, rounded = (
        feature_file(tiny_config, tmp_path / "features", f"train.features.dtype={name}") for name in ("float32", dtype)
    )
    exact.compute()
    rounded.compute()
    for batch, other in zip(exact.batches(plan), rounded.batches(plan), strict=True):
        assert batch_hash(batch) == batch_hash(other)
        x, y = batch.stages[3], other.stages[3]
        assert not torch.equal(x, y)
        torch.testing.assert_close(y, x, rtol=rounding, atol=2**-24)  # the step of float16's smallest numbers


def test_only_the_stages_that_heads_read_are_kept(tiny_config, tmp_path):
    file = feature_file(tiny_config, tmp_path / "features", "model.aux.stage=1")
    assert file.stages == [1, 3]
    file.compute()
    assert sorted(path.name for path in file.folder.iterdir() if path.name != ".lock") == ["c3", "c5", "crops"]
    others = FeatureFile(file.recipe, file.data, file.model, tmp_path / "features", stages=[0])
    assert others.folder == file.folder  # a further stage is added to the others
    others.compute()
    assert (file.folder / "c2").stat().st_size == 15 * others.maps[0].stride


def test_shapes_are_those_of_the_network_whatever_an_earlier_version_kept(tiny_config, tmp_path):
    file = feature_file(tiny_config, tmp_path / "features")
    value = [[[c, h * 2, w], "float16"] for c, h, w in file.shapes]
    write_record(file.folder.with_suffix(".json"), Record(file._key(), value))
    again = feature_file(tiny_config, tmp_path / "features")
    assert (again.shapes, again.network_dtypes) == (file.shapes, [torch.float32] * 4)


def test_batches_are_those_of_the_loader(tiny_config, tmp_path):
    file, plan = feature_file(tiny_config, tmp_path / "features"), BatchPlan(7, 2, 1, 9)
    file.compute()
    transform = TrainTransform(file.recipe.data, file.recipe.model.input.padding_rgb, 7)
    file.transform = transform
    loaded = [*train_batches(file.data, transform, plan, workers=0, timeout_s=9)]
    kept = [*file.batches(plan)]
    assert [batch_hash(batch) for batch in kept] == [batch_hash(batch) for batch in loaded]
    assert all(torch.equal(batch.label, other.label) for batch, other in zip(kept, loaded, strict=True))


def test_a_killed_computation_goes_on_after_its_last_whole_row(tiny_config, tmp_path, monkeypatch):
    whole = feature_file(tiny_config, tmp_path / "whole")
    whole.compute()
    calls = []

    def maps_until_killed(self, crop):
        calls.append(crop)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(self, crop)

    original = FeatureFile._maps_of
    file = feature_file(tiny_config, tmp_path / "killed")
    monkeypatch.setattr(FeatureFile, "_maps_of", maps_until_killed)
    with pytest.raises(KeyboardInterrupt):
        file.compute()
    with (file.folder / "c5").open("r+b") as rows:  # what a kill leaves of a row, and a power cut of the one before
        rows.truncate(6 * file.maps[3].stride + 5)
        rows.seek(5 * file.maps[3].stride + 9)
        rows.write(b"\xff" * 20)
    calls.clear()
    monkeypatch.setattr(FeatureFile, "_maps_of", lambda self, crop: calls.append(crop) or original(self, crop))
    feature_file(tiny_config, tmp_path / "killed").compute()
    assert len(calls) == 1 + 15 - 5  # one for the shapes
    for name in ("crops", "c5"):
        assert (file.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_second_training_waits_for_the_first_which_computes_the_same_maps(tiny_config, tmp_path, monkeypatch, caplog):
    file = feature_file(tiny_config, tmp_path)
    append = FeatureFile._append
    reads, writes = os.pipe()

    def slow_append(*arguments):
        os.write(writes, b".")
        time.sleep(0.5)
        append(*arguments)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(FeatureFile, "_append", slow_append)
            file.compute()
            os._exit(0)
        finally:
            os._exit(1)
    os.read(reads, 1)
    monkeypatch.setattr(FeatureFile, "_append", None)  # nothing is computed twice
    with caplog.at_level("INFO", logger="segnl"):
        file.compute()
    assert os.waitpid(child, 0)[1] == 0
    assert f"in use by process {child}; waiting" in caplog.text
    assert file.crops.num_written() == file.num_rows


def test_maps_of_images_that_changed_meanwhile_are_not_kept(tiny_config, tiny_data, tmp_path, monkeypatch):
    whole = feature_file(tiny_config, tmp_path / "whole")
    whole.compute()
    image, calls = tiny_data / "images" / "train" / "frame3.png", []
    content = image.read_bytes()

    def maps_while_an_image_changes(self, crop):
        calls.append(crop)
        if len(calls) == 2:
            Image.new("RGB", (53, 37)).save(image)
        return original(self, crop)

    original = FeatureFile._maps_of
    file = feature_file(tiny_config, tmp_path / "features")
    monkeypatch.setattr(FeatureFile, "_maps_of", maps_while_an_image_changes)
    with pytest.raises(DataError, match="images or labels changed while maps were computed; start again"):
        file.compute()
    with pytest.raises(DataError, match="images or labels changed while maps were computed; start again"):
        file.compute()  # before the first image
    image.write_bytes(content)
    file.compute()
    for name in ("crops", "c5"):
        assert (file.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_damaged_row_is_an_error_that_names_its_file(tiny_config, tmp_path):
    file = feature_file(tiny_config, tmp_path / "features")
    file.compute()
    with (file.folder / "c5").open("r+b") as rows:
        rows.seek(4 * file.maps[3].stride + 2)
        rows.write(b"x")
    with pytest.raises(DataError, match=r"c5: row 4 is damaged; delete this file"):
        list(file.batches(BatchPlan(0, 5, 0, 9)))
    (file.folder / "c5").unlink()
    file.compute()
    assert len(list(file.batches(BatchPlan(0, 5, 0, 9)))) == 9


def test_rows_that_were_exchanged_are_damaged(tiny_config, tmp_path):
    file = feature_file(tiny_config, tmp_path / "features")
    file.compute()
    stride, content = file.maps[3].stride, (file.folder / "c5").read_bytes()
    swapped = content[stride : 2 * stride] + content[:stride] + content[2 * stride :]
    (file.folder / "c5").write_bytes(swapped)
    with pytest.raises(DataError, match=r"c5: row [01] is damaged"):
        list(file.batches(BatchPlan(0, 5, 0, 9)))


def test_other_weights_images_or_views_have_other_files(tiny_config, tiny_data, tmp_path):
    def folder(*options):
        return feature_file(tiny_config, tmp_path / "features", *options).folder

    first = folder()
    assert folder("train.max_steps=9", "optim.lr=1", "model.head={name: fcn}") == first
    others = [folder("train.seed=1"), folder("data.views=2"), folder("data.flip=false")]  # the seed draws the weights
    (tiny_data / "labels/train/frame0.png").write_bytes((tiny_data / "labels/train/frame1.png").read_bytes())
    assert len({first, *others, folder()}) == 5


def test_files_beyond_the_limit_or_the_disk_are_refused_in_a_line_with_their_size(tiny_config, tmp_path, monkeypatch):
    file = feature_file(tiny_config, tmp_path / "features", "train.features.max_gib=0.00018")
    with pytest.raises(
        ConfigError, match=r"0\.00018, but 5 images x 3 views, c4, c5 in float32: .* data.views to 2, or"
    ):
        file.compute()
    file = feature_file(tiny_config, tmp_path / "features")
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 100))
    with pytest.raises(MachineError, match=r"are free; free some space or lower data\.views"):
        file.compute()


def test_a_full_disk_is_a_line_and_keeps_what_was_computed(tiny_config, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = feature_file(tiny_config, tmp_path / "features")
    with monkeypatch.context() as patch:
        patch.setattr(features.os, "fsync", full)
        with pytest.raises(MachineError, match=r"No space left on device\); free some space or lower data\.views"):
            file.compute()
    file.compute()
    assert file.crops.num_whole() == 15


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_maps_are_written_into_a_file_alone(tiny_config, tmp_path, kind):
    file = feature_file(tiny_config, tmp_path / "features")
    file.folder.mkdir(parents=True)
    other = tmp_path / "precious"
    other.write_bytes(b"kept")
    make = {"link": lambda path: path.symlink_to(other), "pipe": os.mkfifo, "folder": os.mkdir}[kind]
    make(file.folder / "c5")
    with pytest.raises(ConfigError, match=r"c5: is a .*where segnl writes a file; move it aside"):
        file.compute()
    assert other.read_bytes() == b"kept"


def test_a_map_beyond_float16_is_refused(tiny_config, tmp_path):
    file = feature_file(tiny_config, tmp_path / "features", "train.features.dtype=float16")
    with torch.no_grad():
        for parameter in file.model.backbone.parameters():
            parameter.mul_(1e4)
    with pytest.raises(ConfigError, match=r"float16 cannot hold a map of image frame0, .*; take bf16 or float32"):
        file.compute()


@pytest.mark.parametrize("options", [("model.backbone.frozen=2",), ("data.views=null",)])
def test_features_need_views_and_a_frozen_backbone(tiny_config, options):
    with pytest.raises(ConfigError, match=r"train\.features: needs crops and a backbone that stay the same"):
        load_recipe(tiny_config, [*CACHED, *options])


def test_all_seeds_have_the_same_views_each_once_in_as_many_epochs(tiny_config):
    recipe = load_recipe(tiny_config, FROZEN)
    data = build_data(recipe, "train")
    first, other = (TrainTransform(recipe.data, (124, 116, 104), seed) for seed in (0, 1))
    sample = data.read(2)
    views = {first.view(sample, view).image.tobytes() for view in range(3)}
    assert views == {other.view(sample, view).image.tobytes() for view in range(3)}
    assert len(views) == 3
    for epochs in (range(3), range(3, 6)):
        assert sorted(first.view_of(epoch, 2) for epoch in epochs) == [0, 1, 2]
    assert [first.view_of(epoch, 2) for epoch in range(12)] != [other.view_of(epoch, 2) for epoch in range(12)]
    epoch = next(epoch for epoch in range(3) if first.view_of(epoch, 2) == 1)
    assert (first(sample, epoch, 2).image == first.view(sample, 1).image).all()
