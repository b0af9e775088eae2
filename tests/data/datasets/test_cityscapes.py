import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.base import DataConfig
from segnl.data.datasets.cityscapes import Cityscapes, CityscapesConfig
from segnl.data.digest import content_digest

STEMS = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000007"]


@pytest.fixture
def cfg(tmp_path):
    for sample_id in STEMS:
        city = sample_id.split("_")[0]
        for mapping, end in (
            ("leftImg8bit", "leftImg8bit"),
            ("gtFine", "gtFine_labelIds"),
            ("gtFine", "gtFine_instanceIds"),
        ):
            path = tmp_path / mapping / "val" / city / f"{sample_id}_{end}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (7, 11, 3) if mapping == "leftImg8bit" else (7, 11)
            Image.fromarray(np.full(shape, 7, np.uint8)).save(path)
    return DataConfig(name="cityscapes", root=tmp_path, crop_hw=(7, 11))


def test_the_official_layout_is_read_over_all_cities(cfg):
    data = Cityscapes(cfg, "val")
    assert data.sample_ids == STEMS
    assert (data.read(2).label == 0).all()  # label id 7 is road, train id 0
    assert data.instance_path(2).name == "ulm_000000_000007_gtFine_instanceIds.png"
    assert data.instance_path(2).is_file()


def test_a_missing_label_is_named_with_its_place(cfg):
    Cityscapes(cfg, "val").label_path(1).unlink()
    with pytest.raises(DataError, match=r"expected gtFine/val/aachen/aachen_000001_000019_gtFine_labelIds\.png"):
        Cityscapes(cfg, "val")


def test_train_id_files_alone_are_refused_by_name(cfg):
    for path in (cfg.root / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    message = r"no label files; expected \*_gtFine_labelIds\.png; found 6 \.png .*; only labelIds .* never"
    with pytest.raises(DataError, match=message):
        Cityscapes(cfg, "val")


def test_an_empty_split_is_refused(cfg):
    (cfg.root / "leftImg8bit/train").mkdir()
    (cfg.root / "gtFine/train").mkdir()
    with pytest.raises(DataError, match=r"leftImg8bit/train: no image files; expected \*_leftImg8bit\.png"):
        Cityscapes(cfg, "train")


def test_a_split_without_any_label_is_read_only_where_none_is_needed(cfg):
    for path in (cfg.root / "gtFine").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="gtFine/val: no label files"):
        Cityscapes(cfg, "val")
    data = Cityscapes(cfg, "val", needs_labels=False)
    assert (data.sample_ids, data.has_labels) == (STEMS, False)
    assert data.read(1).label.shape == (7, 11)
    assert (data.read(1).label == 255).all()


def test_labels_that_are_there_are_read_and_must_be_complete(cfg):
    data = Cityscapes(cfg, "val", needs_labels=False)
    assert data.has_labels
    assert (data.read(0).label == 0).all()
    data.label_path(1).unlink()
    with pytest.raises(DataError, match="no label belongs to it"):
        Cityscapes(cfg, "val", needs_labels=False)
    for path in (cfg.root / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DataError, match="only labelIds as downloaded are read"):
        Cityscapes(cfg, "val", needs_labels=False)


def as_coarse(cfg: DataConfig, split: str) -> None:
    """Adds coarse labels of another class to a split, which is made of that of val."""
    for path in [*(cfg.root / "leftImg8bit/val").rglob("*.png"), *(cfg.root / "gtFine/val").rglob("*.png")]:
        name = str(path.relative_to(cfg.root)).replace("/val/", f"/{split}/").replace("gtFine", "gtCoarse")
        (cfg.root / name).parent.mkdir(parents=True, exist_ok=True)
        is_image = name.startswith("leftImg8bit")
        Image.fromarray(np.full((7, 11, 3) if is_image else (7, 11), 8, np.uint8)).save(cfg.root / name)


def test_coarse_labels_are_of_train_and_fine_ones_of_val(cfg):
    as_coarse(cfg, "train_extra")
    coarse = CityscapesConfig.model_validate(
        cfg.model_dump() | {"train_labels": "gtCoarse", "splits": {"train": "train_extra"}}
    )
    train, val = Cityscapes(coarse, "train"), Cityscapes(coarse, "val")
    assert train.sample_ids == val.sample_ids == STEMS
    assert (train.read(1).label == 1).all()  # sidewalk
    assert (val.read(1).label == 0).all()
    assert train.instance_path(0).name == "aachen_000000_000019_gtCoarse_instanceIds.png"
    train.label_path(1).unlink()
    with pytest.raises(DataError, match=r"expected gtCoarse/train_extra/aachen/\S*_gtCoarse_labelIds\.png"):
        Cityscapes(coarse, "train")


def polygons(seed: int) -> dict[str, Any]:
    """Overlapping shapes that leave the image, of groups, a deleted one and a licence plate."""
    random = np.random.default_rng(seed)
    names = ["road", "sky", "cargroup", "license plate", "out of roi", "person", "bicyclegroup", "pole", "truck"]
    objects = [
        {"label": name, "polygon": random.integers(-5, 60, (n, 2)).tolist()} | ({"deleted": 1} if i == 5 else {})
        for i, (name, n) in enumerate(zip(names, (4, 9, 3, 5, 6, 4, 7, 2, 5), strict=True))
    ]
    objects[3]["polygon"] = random.uniform(0, 40, (5, 2)).tolist()
    return {"imgHeight": 37, "imgWidth": 53, "objects": objects}


def test_polygons_are_drawn_as_cityscapesscripts_draws_them(cfg):
    for path in (cfg.root / "gtFine").rglob("*.png"):
        path.unlink()
    for path in (cfg.root / "leftImg8bit").rglob("*.png"):
        Image.fromarray(np.full((37, 53, 3), 7, np.uint8)).save(path)
    for i, stem in enumerate(STEMS):
        path = cfg.root / "gtFine/val" / stem.split("_")[0] / f"{stem}_gtFine_polygons.json"
        path.write_text(json.dumps(polygons(i)))
    data = Cityscapes(cfg, "val")
    assert data.sample_ids == STEMS
    for i in range(3):
        annotation = Annotation()
        annotation.fromJsonFile(str(data.label_path(i)))
        expected = np.asarray(createLabelImage(annotation, "ids"))
        assert (data.read_ids(i) == expected).all()
        assert len(np.unique(expected)) > 4
    assert data.read(0).label.shape == (37, 53)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objects": [{"label": "dragon", "polygon": [[0, 0], [1, 1], [2, 0]]}]},
            "objects.0.label: 'dragon' is none of",
        ),
        ({"objects": [{"label": "road", "polygon": [[0, 0]]}]}, "objects.0.polygon: 1 points; expected three"),
        ({"objects": [{"label": "road", "polygon": [[0, 1e300], [1, 1], [2, 0]]}]}, "objects.0.polygon.0.1: "),
        ({"imgWidth": 10**12}, "imgWidth: "),
        ({"imgWidth": 52}, "label of 37x52 pixels, but .* has 37x53"),
    ],
)
def test_a_broken_polygon_file_is_one_line(change, message, cfg):
    for path in (cfg.root / "leftImg8bit").rglob("*.png"):
        Image.fromarray(np.full((37, 53, 3), 7, np.uint8)).save(path)
    for path in (cfg.root / "gtFine").rglob("*_labelIds.png"):
        path.with_name(path.name.replace("labelIds.png", "polygons.json")).write_text(json.dumps(polygons(0) | change))
        path.unlink()
    with pytest.raises(DataError, match=rf"_polygons\.json: {message}"):
        Cityscapes(cfg, "val").read(0)


def test_an_archive_is_read_as_the_folder_and_the_official_scores_refuse_it(cfg):
    archive = shutil.make_archive(str(cfg.root / "cityscapes"), "zip", cfg.root)
    data = Cityscapes(cfg.model_copy(update={"root": Path(archive)}), "val")
    assert data.sample_ids == STEMS
    assert content_digest(data) == content_digest(Cityscapes(cfg, "val"))
    with pytest.raises(DataError, match="the official evaluator reads files; unpack the archive"):
        data.official_files()
