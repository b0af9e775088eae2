import numpy as np
import pytest
import torch

from segnl.evaluation.attention import (
    KEYS,
    AttentionMaps,
    ImageAttention,
    RunAttention,
    grid_hw,
    image_attention,
)
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.evaluation.predictor import load
from segnl.metrics.attention import centres
from segnl.models.find import HEADS
from segnl.models.segmenter import Segmenter, model_config
from segnl.runs.run import open_run

IMAGE = np.random.default_rng(0).integers(0, 256, (56, 88, 3)).astype(np.uint8)  # a map of 7 x 11


def network(head, *, channels=3, num_frames=1, **settings):
    if "channels" in HEADS.find(head).Config.model_fields:
        settings = {"channels": 8} | settings
    backbone = {"name": "resnet", "blocks": [1, 1, 1, 1], "depth": None, "block": "basic", "width": 0.125}
    backbone |= {"stem": {"kind": "plain", "channels": 8}, "output_stride": 8}
    bands = {"channels": channels, "mean": [100.0] * channels, "std": [50.0] * channels}
    mapping = {"backbone": backbone, "head": {"name": head, **settings}, "aux": None, "input": bands}
    return Segmenter(model_config(mapping, file="test"), 3, seed=0, num_frames=num_frames).eval()


def run_attention(folder):
    run = open_run(folder)
    return RunAttention(run, evaluate_run(run), run.open_data("val"))


@pytest.mark.parametrize(("most", "expected"), [(77, (7, 11)), (76, (4, 6)), (12, (3, 4)), (1, (1, 1)), (0.2, (1, 1))])
def test_a_grid_takes_every_sth_row_and_column(most, expected):
    assert grid_hw((7, 11), most) == expected


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("rcca", ["all hops", "hop 1", "hop 2", "receptive field"]),
        ("isa", ["all hops", "hop 1", "hop 2", "receptive field"]),
        ("non_local", ["attention", "receptive field"]),
        ("dnl", ["pairwise", "shared", "receptive field"]),
        ("psp", ["receptive field"]),
    ],
)
def test_a_pixel_has_a_row_for_each_measure(head, names):
    rows = ImageAttention(network(head), IMAGE).of_pixel((30, 70))
    assert list(rows) == names
    for row in rows.values():
        assert row.weights.shape == (7, 11)
        assert row.weights.dtype == np.float32
        assert row.kind in ("softmax", "gradient")
        # isa pads its map to whole groups, and weights on the padding are cut off
        assert row.weights.sum() == pytest.approx(1, abs=1e-5) or head == "isa"
        assert 0 <= row.entropy_bits <= np.log2(77) + 1e-6
        assert 0 <= row.distance_px <= np.hypot(56, 88)


@pytest.mark.parametrize(("channels", "num_frames"), [(1, 1), (4, 1), (3, 3)])
def test_other_bands_and_several_frames_are_read_as_the_network_does(channels, num_frames):
    image = np.random.default_rng(0).integers(0, 256, (56, 88, channels * num_frames)).astype(np.uint8)
    rows = ImageAttention(network("non_local", channels=channels, num_frames=num_frames), image).of_pixel((30, 70))
    assert rows["receptive field"].weights.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=rf"expected uint8 `H W {channels}`"):
        ImageAttention(network("non_local", channels=channels), np.zeros((56, 88, 2), np.uint8))


def test_signed_weights_are_called_signed():
    row = ImageAttention(network("non_local", pairwise="dot_product"), IMAGE).of_pixel((30, 70))["attention"]
    assert row.kind == "signed"


def test_a_pixel_is_seen_from_its_cell_of_the_map():
    maps = ImageAttention(network("rcca", recurrence=1), IMAGE).attention(np.array([[30.5 / 56, 70.5 / 88]]))[0]
    assert maps.cells.tolist() == [[3, 8]]
    cross = {(3, column) for column in range(11)} | {(row, 8) for row in range(7)}
    assert set(map(tuple, np.argwhere(maps.weights[0] > 0))) == cross


def test_a_mean_distance_is_that_of_a_loop_in_pixels_of_the_image():
    weights = np.random.default_rng(1).normal(size=(1, 7, 11)).astype(np.float32)
    maps = AttentionMaps("attention", "signed", weights, np.array([[3, 8]]), (7, 11), (56, 88))
    total = np.abs(weights).sum()
    expected = sum(
        abs(weights[0, i, j]) / total * np.hypot(8 * (i - 3), 8 * (j - 8)) for i in range(7) for j in range(11)
    )
    assert maps.distance_px()[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pixel", [(56, 0), (0, -1), (1.5, 2), (1, 2, 3)])
def test_a_pixel_outside_the_image_is_refused(pixel):
    with pytest.raises(ValueError, match="pixel"):
        ImageAttention(network("fcn"), IMAGE).of_pixel(pixel)


def test_training_mode_and_other_images_are_refused():
    with pytest.raises(ValueError, match="call eval"):
        ImageAttention(network("fcn").train(), IMAGE)
    with pytest.raises(ValueError, match="expected uint8"):
        ImageAttention(network("fcn"), IMAGE / 255)


def test_the_network_sees_the_image_at_its_recipes_size_nearest_to_the_images_own(street_runs):
    predictor = load(street_runs[1])
    image = open_run(street_runs[1]).open_data("val").read(0).image
    own = image_attention(predictor, image)
    predictor.recipe = predictor.recipe.model_copy(
        update={"eval": predictor.recipe.eval.model_copy(update={"scales": (0.25, 0.5, 2.0)})}
    )
    half = image_attention(predictor, image)
    assert half.map_hw == tuple(length // 2 for length in own.map_hw)
    assert half.image_hw == own.image_hw == image.shape[:2]


def test_averages_are_means_over_labelled_queries_and_are_stored(street_runs, monkeypatch):
    attention = run_attention(street_runs[1])
    averages = attention.averages()
    assert averages["num_images"] == 3
    assert list(averages["measures"]) == ["all hops", "hop 1", "hop 2", "receptive field"]
    measure = averages["measures"]["all hops"]
    own, count, distance = 0.0, 0, 0.0
    for i in range(3):
        image, label = attention.of_image(i), attention.data.read(i).label
        maps = image.attention(centres(grid_hw(image.map_hw, 64)))[0]
        for q, (row, column) in enumerate(maps.cells):
            height, width = label.shape
            cell_h, cell_w = height // maps.hw[0], width // maps.hw[1]
            k = label[int((row + 0.5) * cell_h), int((column + 0.5) * cell_w)]
            if k == 255:
                continue
            count += 1
            for y in range(maps.hw[0]):
                for x in range(maps.hw[1]):
                    cell = label[y * cell_h : (y + 1) * cell_h, x * cell_w : (x + 1) * cell_w]
                    own += maps.weights[q, y, x] * (cell == k).mean()
                    distance += maps.weights[q, y, x] * np.hypot((y - row) * cell_h, (x - column) * cell_w)
    assert measure["queries"] == count == sum(value["queries"] for value in measure["by_class"].values())
    assert measure["own_class"] == pytest.approx(own / count, rel=1e-4)
    assert measure["distance_px"] == pytest.approx(distance / count, rel=1e-4)
    assert measure["within"][-1] == pytest.approx(1, abs=1e-5)
    assert measure["within"] == sorted(measure["within"])
    assert set(KEYS) < set(measure["by_class"]["road"])
    absent = next(value for value in measure["by_class"].values() if not value["queries"])
    assert absent["own_class"] is None

    monkeypatch.setattr(RunAttention, "_averages", lambda _: pytest.fail("computed again"))
    assert run_attention(street_runs[1]).averages() == averages


def test_a_head_without_attention_has_its_receptive_field_only(street_runs):
    assert list(run_attention(street_runs[0]).averages()["measures"]) == ["receptive field"]


def test_nothing_of_the_network_changes(street_runs):
    predictor = load(street_runs[1])
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    image_attention(predictor, IMAGE).of_pixel((3, 9))
    assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())


@pytest.mark.parametrize("head", HEADS.names())
def test_every_head_has_an_effective_receptive_field(head):
    field = ImageAttention(network(head), IMAGE).of_pixel((30, 70))["receptive field"]
    assert field.kind == "gradient"
    assert field.weights.sum() == pytest.approx(1, abs=1e-5)
