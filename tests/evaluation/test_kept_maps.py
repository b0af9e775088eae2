import dataclasses

import pytest
import safetensors.torch
import torch

from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.kept_maps import KeptMaps, _crc, kept_maps_of
from segnl.evaluation.predictor import predictor_of
from segnl.runs.recipe import load_recipe
from segnl.runs.run import Run, open_run
from segnl.training.fit import fit

OPTIONS = ["model.backbone.frozen=true", "data.views=2", "train.max_steps=2", "eval.scales=[1.0, 1.5]"]


@pytest.fixture
def run(tiny_config, tmp_path) -> Run:
    recipe = load_recipe(tiny_config, [*OPTIONS, "train.features={dtype: float16}"])
    fit(recipe, tmp_path / "runs" / "first")
    return open_run(tmp_path / "runs" / "first")


def without_features(run: Run) -> Run:
    train = run.recipe.train.model_copy(update={"features": None})
    return dataclasses.replace(run, recipe=run.recipe.model_copy(update={"train": train}))


def test_an_evaluation_from_kept_maps_equals_one_without_to_the_bit(run):
    data = run.open_data("val")
    plain, kept = predictor_of(run), predictor_of(run)
    kept.kept_maps = kept_maps_of(run, kept.model)
    for _ in range(2):
        for i in range(len(data)):
            image = data.read(i).image
            assert torch.equal(plain.scores(image).probabilities(), kept.scores(image).probabilities())
    kept.model.backbone.forward = None  # nothing computes maps any more
    evaluation = evaluate_run(run, EvaluationRequest("val"))
    assert evaluation.metrics["num_images"] == 3
    files = [*(run.folder.parent / "features").glob("images-*/*.safetensors")]
    assert len(files) == 3 * 2  # scales
    for file in files:
        file.unlink()
    assert kept_maps_of(without_features(run), kept.model) is None


def test_a_damaged_file_is_computed_again(run, tmp_path):
    model = predictor_of(run).model.eval()
    maps, image = KeptMaps(tmp_path / "maps", model.backbone, 1e9), torch.randn(1, 3, 33, 41)
    with torch.inference_mode():
        expected = maps.stages(image)
        (file,) = (tmp_path / "maps").iterdir()
        whole = file.read_bytes()
        for damaged in (whole[:-9], whole[:500] + b"x" + whole[501:], b""):
            file.write_bytes(damaged)
            assert all(torch.equal(x, y) for x, y in zip(maps.stages(image), expected, strict=True))
            assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: {},
        lambda maps: {"c2": maps["c2"]},
        lambda maps: {"c2": maps["c5"], "c3": maps["c4"], "c4": maps["c3"], "c5": maps["c2"]},
        lambda maps: {name: x.half() for name, x in maps.items()},
        lambda maps: {name: x.to(torch.float8_e8m0fnu) for name, x in maps.items()},
        lambda maps: maps | {"c5": maps["c5"][..., :1, :1].contiguous()},
        lambda maps: maps | {"c5": torch.zeros(1, maps["c5"].shape[1], 600, 600)},
        lambda maps: None,
    ],
)
def test_maps_that_the_backbone_cannot_give_are_computed_again_whatever_their_checksum(run, tmp_path, change):
    model = predictor_of(run).model.eval()
    maps, image = KeptMaps(tmp_path / "maps", model.backbone, 1e9), torch.randn(1, 3, 33, 41)
    with torch.inference_mode():
        expected = maps.stages(image)
        (file,) = (tmp_path / "maps").iterdir()
        whole = file.read_bytes()
        changed = change({name: x.clone() for name, x in safetensors.torch.load(whole[:-4]).items()})
        content = b"none" if changed is None else safetensors.torch.save(changed)
        file.write_bytes(content + _crc(file, content))
        assert all(torch.equal(x, y) for x, y in zip(maps.stages(image), expected, strict=True))
        assert file.read_bytes() == whole


def test_maps_of_a_backbone_that_needs_values_are_kept_too(run, tmp_path, monkeypatch):
    backbone, sizes = predictor_of(run).model.eval().backbone, []
    original = backbone.forward

    def forward(image):
        assert image.sum().item() is not None
        sizes.append(image.shape)
        return original(image)

    monkeypatch.setattr(backbone, "forward", forward)
    image = torch.randn(1, 3, 33, 41)
    with torch.inference_mode():
        KeptMaps(tmp_path / "maps", backbone, 1e9).stages(image)
        maps = KeptMaps(tmp_path / "maps", backbone, 1e9)
        for _ in range(3):
            maps.stages(image)
    assert len(sizes) == 1 + 1  # one for the shapes


def test_a_file_under_another_s_name_is_computed_again(run, tmp_path):
    model = predictor_of(run).model.eval()
    maps, images = KeptMaps(tmp_path / "maps", model.backbone, 1e9), [torch.randn(1, 3, 33, 41) for _ in range(2)]
    with torch.inference_mode():
        expected = [maps.stages(image) for image in images]
        first, second = (tmp_path / "maps").iterdir()
        swapped = first.read_bytes(), second.read_bytes()
        second.write_bytes(swapped[0])
        first.write_bytes(swapped[1])
        for image, stages in zip(images, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(maps.stages(image), stages, strict=True))


def test_no_more_than_the_limit_is_kept(run, tmp_path):
    model = predictor_of(run).model.eval()
    with torch.inference_mode():
        KeptMaps(tmp_path / "maps", model.backbone, 1e9).stages(torch.randn(1, 3, 33, 41))
        (file,) = (tmp_path / "maps").iterdir()
        limited = KeptMaps(tmp_path / "maps", model.backbone, 1.5 * file.stat().st_size)
        limited.stages(torch.randn(1, 3, 33, 41))
    assert [*(tmp_path / "maps").iterdir()] == [file]
