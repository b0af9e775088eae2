import numpy as np
import pytest
import torch

from segnl.core.distributed import ProcessGroup
from segnl.core.errors import DataError, MachineError
from segnl.data.base import DataConfig
from segnl.data.datasets.ade20k import ADE20K
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.metrics.accumulator import Accumulator
from segnl.metrics.confusion import metrics_dict
from segnl.runs.build import build_data, build_model, device_of
from segnl.runs.recipe import load_recipe


def scored(config, workers=0):
    recipe = load_recipe(config, [f"data.workers={workers}"])
    data = build_data(recipe, "val")
    predictor = Predictor(build_model(recipe, 3, is_new=True), recipe, data.table, device_of())
    seen = []
    counts = evaluate(predictor, data, on_result=lambda sample, labels: seen.append((sample, labels)))
    confusion = counts.confusion
    return confusion, seen


def test_every_image_is_counted_once_at_its_own_size(tiny_config):
    confusion, seen = scored(tiny_config)
    matrix = np.zeros((3, 4), np.int64)
    for sample, labels in seen:
        for target, prediction in zip(sample.label.ravel(), labels.numpy().ravel(), strict=True):
            if target != 255:
                matrix[target, prediction] += 1
    assert [sample.id for sample, _ in seen] == ["frame0", "frame1", "frame2"]
    assert np.array_equal(confusion.matrix, matrix)


def test_workers_do_not_change_the_count(tiny_config):
    assert np.array_equal(scored(tiny_config, 0)[0].matrix, scored(tiny_config, 2)[0].matrix)


def data_and_predictor(config):
    recipe = load_recipe(config)
    data = build_data(recipe, "val")
    return data, Predictor(build_model(recipe, 3, is_new=True), recipe, data.table, device_of())


def test_cached_labels_are_counted_without_running_the_network(tiny_config, monkeypatch):
    data, predictor = data_and_predictor(tiny_config)
    whole = evaluate(predictor, data).confusion
    masks = {data.sample_ids[i]: predictor.predict(data.read(i).image) for i in (0, 2)}
    calls = []
    plain = predictor.labels
    monkeypatch.setattr(predictor, "labels", lambda image: calls.append(image) or plain(image))
    confusion = evaluate(predictor, data, cached_labels=lambda sample: masks.get(sample.id)).confusion
    assert np.array_equal(confusion.matrix, whole.matrix)
    assert len(calls) == 1


def test_shards_of_the_images_add_up_to_all_of_them(tiny_config):
    data, predictor = data_and_predictor(tiny_config)
    whole = evaluate(predictor, data, with_strata=True)
    shards = [evaluate(predictor, data, with_strata=True, group=Unconnected(rank, 2)) for rank in range(2)]
    assert [len(shard.per_image) for shard in shards] == [2, 1]
    shards[0].merge(shards[1])
    assert np.array_equal(shards[0].confusion.matrix, whole.confusion.matrix)
    assert shards[0].per_image.sample_ids == whole.per_image.sample_ids
    assert shards[0].strata.to_dict() == whole.strata.to_dict()


class Unconnected(ProcessGroup):
    """Group of several ranks without a connection to the others."""

    def error_of_any(self, error):
        return error

    def all_gather_object(self, value):
        return [value if rank == self.rank else Accumulator(3, with_strata=True) for rank in range(self.world_size)]


def test_an_error_in_the_counting_thread_ends_the_evaluation(tiny_config):
    data, predictor = data_and_predictor(tiny_config)
    for first_bad in ("frame0", "frame2"):

        def refuse(sample, labels, first_bad=first_bad):
            if sample.id == first_bad:
                raise MachineError("disk full")

        with pytest.raises(MachineError, match="disk full"):
            evaluate(predictor, data, on_result=refuse)


class Oracle:
    """Predictor that returns `answer(i, label)` for image i."""

    def __init__(self, data, answer):
        self.answers = {data.read(i).image.tobytes(): answer(i, data.read(i).label) for i in range(len(data))}

    def labels(self, image):
        return torch.from_numpy(self.answers[image.tobytes()])


def ade20k(shared):
    cfg = DataConfig(name="ade20k", root=shared / "data/ADEChallengeData2016", crop_hw=(7, 11), workers=0)
    return ADE20K(cfg, "val")


def test_perfect_predictions_of_the_three_real_ade20k_images_have_the_official_scores(shared):
    data = ade20k(shared)
    confusion = evaluate(
        Oracle(data, lambda i, label: label % 150), data
    ).confusion  # some class where the label is ignored
    metrics = metrics_dict(confusion, data.table.names, num_images=len(data), counts_absent_classes=True)
    assert (metrics["miou"], metrics["pixel_acc"], metrics["classes_averaged"]) == (1.0, 1.0, 15)
    assert metrics["miou_official150"] == pytest.approx(0.100, abs=1e-12)
    assert metrics["score"] == pytest.approx(0.55, abs=1e-12)  # as the benchmark's own demonstration prints


def noisy(i, label):
    random = np.random.default_rng(i)
    guess = random.choice([0, 3, 12, 149, 255], label.shape).astype(np.uint8)
    return np.where(random.random(label.shape) < 0.4, guess, label % 150).astype(np.uint8)


def test_noisy_predictions_of_the_real_images_equal_a_count_in_loops(shared):
    data = ade20k(shared)
    oracle = Oracle(data, noisy)
    confusion = evaluate(oracle, data).confusion
    intersection, target, prediction = [0] * 150, [0] * 150, [0] * 150
    for i in range(len(data)):
        label = data.read(i).label
        for c, p in zip(label.ravel().tolist(), noisy(i, label).ravel().tolist(), strict=True):
            if c != 255:
                target[c] += 1
                intersection[c] += c == p
                if p != 255:
                    prediction[p] += 1
    union = [t + p - i for t, p, i in zip(target, prediction, intersection, strict=True)]
    ious = [i / u for i, u in zip(intersection, union, strict=True) if u]
    metrics = metrics_dict(confusion, data.table.names, num_images=len(data), counts_absent_classes=True)
    assert metrics["miou"] == pytest.approx(sum(ious) / len(ious), abs=1e-12)
    assert metrics["miou_official150"] == pytest.approx(sum(ious) / 150, abs=1e-12)
    assert metrics["pixel_acc"] == pytest.approx(sum(intersection) / sum(target), abs=1e-12)
    accuracies = [i / t for i, t in zip(intersection, target, strict=True) if t]
    assert metrics["mean_acc"] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-12)
    assert metrics["num_pixels"] == sum(target)


def test_a_damaged_image_is_an_error_and_never_skipped(tiny_config, tiny_data):
    path = tiny_data / "images" / "val" / "frame1.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame1\.png.*index 1"):
        scored(tiny_config)


def test_an_empty_split_is_an_error(tiny_config, tiny_data):
    for kind in ("images", "labels"):
        for path in (tiny_data / kind / "val").iterdir():
            path.unlink()
    with pytest.raises(DataError, match="no image files"):
        scored(tiny_config)
