import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from segnl.core.result_cache import ResultCache, read_record, write_record
from segnl.evaluation.attention import ImageAttention, RunAttention
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.metrics.attention import centres
from segnl.models.segmenter import Segmenter, model_config
from segnl.reports import attention as module
from segnl.reports.attention import Rows, _stored_rows, add_attention, encode, image_rows, pooled, rows_of
from segnl.reports.gallery import gallery
from segnl.runs.run import open_run

RANDOM = np.random.default_rng(0)
HW = (56, 88)  # a map of 7 x 11
IMAGE = RANDOM.integers(0, 256, (*HW, 3)).astype(np.uint8)
LABEL = RANDOM.integers(0, 3, HW).astype(np.uint8)


def rcca(recurrence=2):
    torch.manual_seed(0)
    backbone = {"name": "resnet", "blocks": [1, 1, 1, 1], "depth": None, "block": "basic", "width": 0.125}
    backbone |= {"stem": {"kind": "plain", "channels": 8}, "output_stride": 8}
    head = {"name": "rcca", "channels": 8, "recurrence": recurrence, "gamma_init": 0.5, "reduction": 2}
    model = Segmenter(model_config({"backbone": backbone, "head": head, "aux": None}, file="test"), 3, seed=0).eval()
    for conv in (model.head.shell.context.query_conv, model.head.shell.context.key_conv):
        torch.nn.init.normal_(conv.weight, std=0.1)
    return model


def dense_routing(model, image):
    """The product of the hops' attention matrices, pixel by pixel from the paper: f64 `n n`."""
    block, head = model.head.shell.context, model.head
    x = head.shell.before_context(head.concat_stages(image.stages))
    h, w = x.shape[2:]
    product = np.eye(h * w)
    for _ in range(block.recurrence):
        query, key = (conv(x)[0].double().numpy() for conv in (block.query_conv, block.key_conv))
        matrix = np.zeros((h * w, h * w))
        for i in range(h):
            for j in range(w):
                cross = [(i, other) for other in range(w)] + [(other, j) for other in range(h) if other != i]
                powers = np.exp([query[:, i, j] @ key[:, r, c] for r, c in cross])
                for (r, c), power in zip(cross, powers, strict=True):
                    matrix[i * w + j, r * w + c] = power / powers.sum()
        product = matrix @ product
        x = block.hop(x)
    return product


def bound(weights, largest, *, steps):
    """The error that the module states for one byte a weight."""
    return np.sqrt(np.abs(weights) * largest) / steps + largest / (4 * steps**2) + 1e-7  # float32 of the largest


def unpacked(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def decode(codes, largest, *, is_signed):
    """The weights of `encode`, f64 `q n`, as the page's script computes them."""
    steps = codes.view(np.int8) / 127 if is_signed else codes / 255
    return np.copysign(steps**2, steps) * largest[:, None].astype(np.float64)


@torch.no_grad()
def test_the_pages_data_of_two_hops_equals_the_dense_product_on_7_x_11():
    model = rcca()
    image = ImageAttention(model, IMAGE)
    dense = dense_routing(model, image)
    all_hops = image_rows(image, LABEL, 3)[0].to_dict()
    assert (all_hops["name"], all_hops["kind"], all_hops["hw"]) == ("all hops", "softmax", [7, 11])
    codes = unpacked(all_hops["codes"], np.uint8).reshape(77, 77)
    numbers = unpacked(all_hops["numbers"], "<f4").reshape(77, 4)
    weights = decode(codes, numbers[:, 0], is_signed=False)
    assert (np.abs(weights - dense) <= bound(dense, numbers[:, :1], steps=255)).all()
    assert np.abs(weights - dense).max() < 0.004 * dense.max()
    entropy = [-sum(p * np.log2(p) for p in row if p > 0) for row in dense]
    np.testing.assert_allclose(numbers[:, 1], entropy, rtol=1e-4, atol=1e-6)
    assert np.mean(entropy) > 2  # rows of some width


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_byte_a_weight_keeps_the_stated_error(is_signed):
    weights = (RANDOM.random((5, 300)) ** 8).astype(np.float32)
    weights[3] = 0
    if is_signed:
        weights *= RANDOM.choice([-1, 1], weights.shape)
    codes, largest = encode(weights, is_signed=is_signed)
    assert codes.dtype == np.uint8
    error = np.abs(decode(codes, largest, is_signed=is_signed) - weights)
    assert (error <= bound(weights, largest[:, None], steps=127 if is_signed else 255)).all()
    assert (decode(codes, largest, is_signed=is_signed)[3] == 0).all()


@pytest.mark.parametrize(("most", "hw"), [(77, (7, 11)), (40, (4, 6)), (5, (2, 2)), (1, (1, 1))])
def test_positions_are_summed_over_squares_and_lose_no_weight(most, hw):
    weights = RANDOM.random((3, 7, 11)).astype(np.float32)
    summed, extent = pooled(weights, most)
    assert summed.shape == (3, *hw)
    np.testing.assert_allclose(summed.sum(axis=(1, 2)), weights.sum(axis=(1, 2)), rtol=1e-5)
    step = round(extent[0] * 7 / hw[0])
    assert extent == (hw[0] * step / 7, hw[1] * step / 11)
    np.testing.assert_allclose(summed[:, 0, 0], weights[:, :step, :step].sum(axis=(1, 2)), rtol=1e-5)


def test_own_class_shares_are_those_of_the_exact_weights():
    image = ImageAttention(rcca(), IMAGE)
    maps = image.attention(centres((2, 3)))[0]
    rows = rows_of(maps, (2, 3), LABEL, 3)
    row, column = maps.cells[4]
    k = LABEL[int((row + 0.5) * 8), int((column + 0.5) * 8)]
    cells = (k == LABEL).reshape(7, 8, 11, 8).mean(axis=(1, 3))
    assert rows.numbers[1, 1, 3] == pytest.approx((maps.weights[4] * cells).sum(), rel=1e-4)


def test_a_coarser_grid_keeps_rows_with_their_places():
    codes = np.arange(7 * 11, dtype=np.uint8).reshape(7, 11, 1, 1)
    rows = Rows("attention", "softmax", codes, np.zeros((7, 11, 4), np.float32), (1.0, 1.0), (7, 11))
    packed = rows.to_dict(2)
    assert (len(packed["rows"]), len(packed["columns"])) == (3, 5)
    kept = unpacked(packed["codes"], np.uint8).reshape(3, 5)
    for i, y in enumerate(packed["rows"]):
        for j, x in enumerate(packed["columns"]):
            assert kept[i, j] == codes[int(y * 7), int(x * 11), 0, 0]


def looks_of(street_runs):
    runs = [open_run(folder) for folder in street_runs]
    data = runs[0].open_data("val")
    networks = {folder.name: evaluate_run(run) for folder, run in zip(street_runs, runs, strict=True)}
    pictures = gallery(networks, data, num_images=3)
    own = zip(networks.items(), runs, strict=True)
    return pictures, {name: RunAttention(run, evaluation, data) for (name, evaluation), run in own}


def test_the_first_images_get_rows_of_every_network_and_averages_are_written(street_runs, tmp_path, monkeypatch):
    pictures, looks = looks_of(street_runs)
    averages = add_attention(pictures, looks, tmp_path / "attention.json", num_images=2, command="inspect")
    assert ["attention" in image for image in pictures["images"]] == [True, True, False]
    of_fcn, of_rcca = pictures["images"][0]["attention"]["heads"]
    assert [measure["name"] for measure in of_fcn] == ["receptive field"]
    assert [measure["name"] for measure in of_rcca] == ["all hops", "hop 1", "hop 2", "receptive field"]
    assert all(0 <= place < 1 for place in pictures["images"][0]["attention"]["start"])
    assert len(averages.curves.plots) == 2
    assert [len(row) for row in averages.table.rows] == [7] * 6
    assert averages.charts[0].rows[0].values[0] is None  # fcn does not attend
    written = json.loads((tmp_path / "attention.json").read_text())
    assert written["complete"] is True
    assert list(written["networks"]) == ["fcn", "rcca"]

    monkeypatch.setattr(module, "image_rows", lambda *_: pytest.fail("computed again"))
    again, looks = looks_of(street_runs)
    add_attention(again, looks, tmp_path / "attention.json", num_images=2, command="inspect")
    assert again == pictures


def changed(value, place, new):
    """A copy of a JSON value with `new` at a place, where "_" stands for the first key."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    key = next(iter(value)) if place[0] == "_" else place[0]
    copy[key] = changed(value[key], place[1:], new)
    return copy


OF_OTHER_CONTENT = {
    "attention-*.json": [
        *(((), own) for own in ({}, 5, [])),
        *((("num_images",), own) for own in (None, "x")),
        *((("measures",), own) for own in ({}, {"attention": 5})),
        *((("measures", "_", "entropy_bits"), own) for own in (None, {}, 1e6)),
        *((("measures", "_", "by_class", "_"), own) for own in (-1, {"queries": 5})),
        (("limits",), [1]),
    ],
    "attention_rows-*.json": [
        *(((), own) for own in (5, ["x"])),
        *(((0, "map_hw"), own) for own in (None, True)),
        *(((0, "extent"), own) for own in (None, [1, "x"])),
    ],
}


def test_kept_attention_of_other_content_is_computed_again(street_runs, tmp_path, monkeypatch):
    own = looks_of(street_runs)[1]["rcca"]
    look = replace(own, evaluation=replace(own.evaluation, cache=ResultCache(tmp_path)))
    averages, rows, calls = look.averages(), _stored_rows(look, 0), []
    monkeypatch.setattr(RunAttention, "_averages", lambda _: calls.append("averages") or averages)
    monkeypatch.setattr(module, "image_rows", lambda *_: calls.append("rows") or rows)
    look.averages(), _stored_rows(look, 0)
    assert calls == []
    for pattern, changes in OF_OTHER_CONTENT.items():
        (path,) = tmp_path.glob(pattern)
        record = read_record(path)
        arrays = {name: array[..., :1] for name, array in record.arrays.items()}
        others = [replace(record, value=changed(record.value, *change)) for change in changes]
        for other in others + ([replace(record, arrays=arrays)] if arrays else []):
            write_record(path, other)
            calls.clear()
            look.averages(), _stored_rows(look, 0)
            assert len(calls) == 1, other


def test_rows_stay_within_their_part_of_the_page(street_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHARACTERS", 40_000)
    pictures, looks = looks_of(street_runs)
    add_attention(pictures, looks, tmp_path / "attention.json", num_images=2, command="inspect")
    heads = [image["attention"]["heads"] for image in pictures["images"][:2]]
    assert len(json.dumps(heads)) <= 40_000
    full = looks["rcca"].of_image(0).map_hw
    assert 1 <= len(heads[0][1][0]["rows"]) < full[0]


def test_where_one_field_takes_too_long_only_heads_without_attention_have_one(street_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageAttention, "seconds_per_field", lambda _: 100.0)
    monkeypatch.setattr(module, "VERSION", "slow")
    monkeypatch.setattr("segnl.evaluation.attention.VERSION", "slow")
    pictures, looks = looks_of(street_runs)
    averages = add_attention(pictures, looks, tmp_path / "attention.json", num_images=1, command="inspect")
    of_fcn, of_rcca = pictures["images"][0]["attention"]["heads"]
    assert [measure["name"] for measure in of_rcca] == ["all hops", "hop 1", "hop 2"]
    assert [(len(measure["rows"]), len(measure["columns"])) for measure in of_fcn] == [(1, 1)]
    assert [len(plot.series) for plot in averages.curves.plots] == [1, 1]


def test_no_images_means_no_attention(street_runs, tmp_path):
    pictures, looks = looks_of(street_runs)
    (tmp_path / "attention.json").write_text("{}")  # of an earlier page
    assert add_attention(pictures, looks, tmp_path / "attention.json", num_images=0, command="inspect") is None
    assert not any("attention" in image for image in pictures["images"])
    assert list(tmp_path.iterdir()) == []
