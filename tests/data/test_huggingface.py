"""Hugging Face data sets: parquet files as the library `datasets` writes them."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, DataError
from segnl.core.find_files import find_files
from segnl.data.annotations import huggingface
from segnl.data.folder_layout import plan_folder

pa = pytest.importorskip("pyarrow", reason="the extra `huggingface` is not installed")
pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets", reason="the extra `huggingface` is not installed")
HW = (13, 17)


def encoded(picture: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        image = Image.fromarray(random.integers(0, 256, (*HW, 3), dtype=np.uint8))
        label = Image.fromarray(random.choice(np.array([0, 1, 2, 255], np.uint8), HW))
        out.append({"image": {"bytes": encoded(image, "JPEG"), "path": None}, "label": label})
    return out


def write(path: Path, own: list[dict[str, Any]], **more: Any) -> None:
    """Writes rows as `Dataset.to_parquet` does, which would look for images that are named and not there."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Image(), "scene": datasets.ClassLabel(names=["a", "b", "c"])}
        | more
    )
    table = pa.Table.from_pylist(
        [features.encode_example({"scene": 0} | row) for row in own], schema=features.arrow_schema
    )
    info = datasets.DatasetInfo(features=features)
    path.parent.mkdir(parents=True, exist_ok=True)
    if any(row["image"] and row["image"]["bytes"] is None for row in own):
        pa.parquet.write_table(table, path)
        return
    datasets.Dataset(datasets.table.InMemoryTable(table), info=info, fingerprint="x").to_parquet(path)


def test_images_and_masks_are_copied_as_they_are_stored(tmp_path):
    train, val = rows(20, 0), rows(3, 1)
    write(tmp_path / "data" / "train-00000-of-00002.parquet", train[:18])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", train[18:])
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", val)
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "unlabeled", "1": "road", "2": "car"}))
    plan = plan_folder(tmp_path)
    assert [(file_id, name) for file_id, name, _ in plan.rows] == [(1, "road"), (2, "car")]
    assert plan.data["ignore_ids"] == [0]
    assert "splits: train 20, val 3" in plan.notes
    for split, own in (("train", train), ("val", val)):
        for i, row in enumerate(own):
            image = tmp_path / "segnl_images" / split / f"{i:08d}.jpg"
            assert image.read_bytes() == row["image"]["bytes"]
            label = tmp_path / "segnl_labels" / split / f"{i:08d}.png"
            assert (np.asarray(Image.open(label)) == np.asarray(row["label"])).all()


def test_names_are_those_of_the_images_and_classes_those_of_a_list(tmp_path):
    own = [row | {"classes": [1]} for row in rows(4, 0)]
    for row, name in zip(own, ("b.jpg", "a.jpg", "x/c.jpg", "d.jpg"), strict=True):
        row["image"]["path"] = name
    own[3]["label"] = None
    names = datasets.List(datasets.ClassLabel(names=["sky", "road", "car"]))
    write(tmp_path / "0000.parquet", own, classes=names)
    plan = plan_folder(tmp_path)
    assert [name for _, name, _ in plan.rows] == ["sky", "road", "car"]
    assert sorted(path.name for path in find_files(tmp_path / "segnl_images")) == ["a.jpg", "b.jpg", "c.jpg"]
    assert "left out: 1 rows without a mask" in plan.notes


def test_a_killed_copy_is_continued_and_other_rows_are_stale(tmp_path):
    write(tmp_path / "train.parquet", rows(4, 0))
    plan_folder(tmp_path)
    (tmp_path / "segnl_images" / "train" / "00000002.jpg").unlink()
    kept = tmp_path / "segnl_labels" / "train" / "00000001.png"
    Image.fromarray(np.ones(HW, np.uint8)).save(kept)  # corrected by hand
    content = kept.read_bytes()
    plan_folder(tmp_path)
    assert len(list(find_files(tmp_path / "segnl_images"))) == 4
    assert kept.read_bytes() == content
    write(tmp_path / "train.parquet", rows(4, 9))
    with pytest.raises(ConfigError, match="segnl_labels: the labels are stale"):
        plan_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": {"bytes": b"no image", "path": None}}, "row 1: cannot be read as an image"),
        ({"image": None}, "row 1: image is empty"),
        (
            {"image": {"bytes": None, "path": "../secret.jpg"}},
            "row 1: image is the file .*secret.jpg, which is not beside",
        ),
        ({"label": {"bytes": encoded(Image.new("L", HW), "JPEG"), "path": None}}, "row 1: a mask in JPEG format"),
        ({"image": {"bytes": encoded(Image.new("L", HW), "PPM"), "path": None}}, "row 1: an image in PPM format"),
    ],
)
def test_a_broken_row_is_named(change, message, tmp_path):
    own = rows(3, 0)
    own[1] |= change
    write(tmp_path / "train.parquet", own)
    with pytest.raises(DataError, match=f"train.parquet: {message}"):
        plan_folder(tmp_path)


def test_other_columns_and_damaged_files_are_one_line(tmp_path):
    write(
        tmp_path / "train.parquet",
        [row | {"depth_label": row["label"]} for row in rows(2, 0)],
        depth_label=datasets.Image(),
    )
    with pytest.raises(DataError, match="columns of pictures: image, label, depth_label; expected two"):
        plan_folder(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        huggingface.unpack(tmp_path, [tmp_path / "train.parquet"])


@pytest.mark.parametrize("name", ["segnl_images", "segnl_images/train", "segnl_labels", "segnl_labels/train"])
def test_nothing_is_copied_through_a_link(name, tmp_path):
    write(tmp_path / "whole" / "train.parquet", rows(2, 0))
    plan_folder(tmp_path / "whole")  # its record is current for the same file elsewhere
    root, aim = tmp_path / "linked", tmp_path / "aim"
    shutil.copytree(tmp_path / "whole", root)
    shutil.rmtree(root / name)
    aim.mkdir()
    (root / name).symlink_to(aim)
    with pytest.raises(ConfigError, match=r"is a symbolic link|leads out of"):
        plan_folder(root)
    assert not list(aim.iterdir())


def test_pictures_that_are_no_copies_are_not_taken_for_rows(tmp_path):
    write(tmp_path / "train.parquet", rows(2, 0))
    (tmp_path / "segnl_images" / "train").mkdir(parents=True)
    Image.new("RGB", HW[::-1]).save(tmp_path / "segnl_images" / "train" / "00000000.png")
    with pytest.raises(ConfigError, match="segnl_images: holds other files than images that segnl copied"):
        plan_folder(tmp_path)


@pytest.mark.parametrize("metadata", ["", "{", "null", '{"info": {"features": 3}}', "[" * 99_999, "\udcff"])
def test_features_that_cannot_be_read_are_one_line(metadata, tmp_path):
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    own = pa.table({name: pa.array([{"bytes": b"x", "path": "a.png"}], picture) for name in ("image", "label")})
    key = metadata.encode("utf-8", "surrogateescape")
    pa.parquet.write_table(own.replace_schema_metadata({b"huggingface": key}), tmp_path / "train.parquet")
    with pytest.raises(
        DataError, match=r"train\.parquet: (cannot be read as parquet|row 0: cannot be read as an image)"
    ):
        plan_folder(tmp_path)


def test_class_names_that_are_numbers_are_taken_as_text(tmp_path):
    own = [row | {"classes": [1]} for row in rows(2, 0)]
    write(tmp_path / "train.parquet", own, classes=datasets.List(datasets.ClassLabel(names=["1", "2", "3"])))
    table = pa.parquet.read_table(tmp_path / "train.parquet")
    metadata = table.schema.metadata[b"huggingface"].replace(b'["1", "2", "3"]', b"[1, 2, 3]")
    assert b"[1, 2, 3]" in metadata
    pa.parquet.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet")
    assert [name for _, name, _ in plan_folder(tmp_path).rows] == ["1", "2", "3"]


def test_more_rows_than_bytes_are_refused(tmp_path):
    picture = pa.nulls(100_000, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pa.parquet.write_table(pa.table({"image": picture, "label": picture}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="says that it has 100,000 rows, more than bytes"):
        plan_folder(tmp_path)


def test_a_value_that_many_rows_share_is_not_copied_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "FREE_BYTES", 2**20)
    monkeypatch.setattr(huggingface, "MAX_RATIO", 10)
    picture = encoded(Image.new("RGB", HW), "PNG") + bytes(2**18)
    shared = pa.array([picture]).dictionary_encode()
    values = pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays([0] * 64, shared.dictionary), pa.nulls(64, pa.string())], ["bytes", "path"]
    )
    pa.parquet.write_table(pa.table({"image": values, "label": values}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 1: unpacks to more than 1,048,576 bytes, as a bomb does"):
        plan_folder(tmp_path)


def test_names_that_are_alike_or_long_become_numbers(tmp_path):
    for i, names in enumerate([("\u00e9.png", "e\u0301.png"), ("x" * 300, "y")]):
        own = rows(2, 0)
        for row, name in zip(own, names, strict=True):
            row["image"]["path"] = name
        write(tmp_path / str(i) / "train.parquet", own)
        plan_folder(tmp_path / str(i))
        assert {path.stem for path in find_files(tmp_path / str(i) / huggingface.IMAGES)} == {"00000000", "00000001"}


def test_values_that_are_no_encoded_images_are_one_line(tmp_path):
    for i, (content, name) in enumerate([(10**10, "a.png"), (b"x", 3), ([1], "a.png")]):
        values = [{"bytes": content, "path": name}]
        (tmp_path / str(i)).mkdir()
        pa.parquet.write_table(pa.table({"image": values, "label": values}), tmp_path / f"{i}/train.parquet")
        with pytest.raises(DataError, match=r"train\.parquet: "):
            plan_folder(tmp_path / str(i))


def test_a_second_table_and_one_without_masks_are_one_line(tmp_path):
    write(tmp_path / "a.parquet", rows(2, 0))
    pa.parquet.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: columns text; expected image and label as in a\.parquet"):
        plan_folder(tmp_path)
    (tmp_path / "b.parquet").unlink()
    write(tmp_path / "a.parquet", [row | {"label": None} for row in rows(2, 0)])
    with pytest.raises(DataError, match=r"a\.parquet: no row has a mask in column label"):
        plan_folder(tmp_path)


def test_a_pipe_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as parquet \(.*a pipe or a device"):
        plan_folder(tmp_path)


def test_two_configurations_of_one_data_set_are_refused(tmp_path):
    for folder in ("full", "small"):
        write(tmp_path / folder / "train-00000-of-00001.parquet", rows(2, 0))
    with pytest.raises(DataError, match="its folders full, small all hold train files, perhaps of the same rows"):
        plan_folder(tmp_path)


def test_a_validation_split_alone_is_dealt(tmp_path):
    write(tmp_path / "validation.parquet", rows(5, 0))
    plan = plan_folder(tmp_path)
    assert any("1 of 5 samples are val" in note for note in plan.notes)
    assert plan.data["image_folder"] == "segnl_images/val"


def test_names_of_features_and_of_files_stay_on_one_line(tmp_path):
    own = [{**row, "image": {**row["image"], "path": f"{i}\n.png"}, "scenes": [1]} for i, row in enumerate(rows(3, 0))]
    classes = datasets.Sequence(datasets.ClassLabel(names=["rest", "a\tb", "c\nd"]))
    write(tmp_path / "train.parquet", own, scenes=classes)
    assert [name for _, name, _ in plan_folder(tmp_path).rows] == ["rest", "a b", "c d"]
    assert (tmp_path / "segnl_images" / "train" / "00000000.jpg").exists()
