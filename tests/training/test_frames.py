"""A training with data.frames: it resumes to the bit, evaluation and prediction see the same frames, heads refuse."""

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.errors import ConfigError
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import load
from segnl.models.segmenter import Segmenter
from segnl.runs.recipe import load_recipe
from segnl.runs.run import open_run
from segnl.training.fit import fit
from tests.training.test_fit import checkpoints_of, weights_hash

OPTIONS = ["model.head={name: non_local, channels: 8}", "model.aux={channels: 8}", "data.frames=3", "data.workers=0"]


def test_a_training_resumes_and_prediction_sees_the_frames_that_evaluation_sees(tiny_config, tmp_path):
    run = tmp_path / "run"
    recipe = load_recipe(tiny_config, [*OPTIONS, "train.ema=0.9", "train.eval_every=3"])
    fit(recipe, run)
    before = weights_hash(run)
    checkpoints_of(run)[0].unlink()
    fit(recipe, run)
    assert weights_hash(run) == before

    evaluation = evaluate_run(open_run(run), EvaluationRequest(masks=tmp_path / "masks"))
    assert evaluation.metrics["num_images"] == 3
    predictor = load(run)
    predict_files(predictor, [recipe.data.root / "images" / "val"], tmp_path / "predicted")
    for i in range(3):
        evaluated, predicted = (
            np.asarray(Image.open(tmp_path / folder / "ids" / f"frame{i}.png")) for folder in ("masks", "predicted")
        )
        assert np.array_equal(evaluated, predicted)
    with pytest.raises(ValueError, match=r"expected uint8 `H W 9`"):
        predictor.predict(np.zeros((33, 41, 3), np.uint8))


def test_other_heads_refuse_more_than_one_frame(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"data.frames: 3, but head 'rcca' sees one frame; leave it at 1"):
        fit(load_recipe(tiny_config, ["data.frames=3"]), tmp_path / "run")


def test_a_clip_of_equal_frames_is_classified_as_its_frame_alone(tiny_config):
    """Softmax weights are shared between copies, so the sums stay."""
    cfg = load_recipe(tiny_config, OPTIONS).model
    one, three = (Segmenter(cfg, 3, seed=0, num_frames=frames).double().eval() for frames in (1, 3))
    for network in (one, three):
        torch.nn.init.ones_(network.head.shell.context.norm.weight)
    image = torch.randn(2, 3, 33, 41, dtype=torch.float64)
    torch.testing.assert_close(three(image.repeat(1, 3, 1, 1)).main, one(image).main)
    changed = torch.cat([image, image, torch.zeros_like(image)], dim=1)
    assert not torch.allclose(three(changed).main, one(image).main)


def test_three_frames_learn_what_another_frame_alone_shows_and_one_frame_does_not(tiny_config):
    """Toy clips: a cue of one of two colours in a neighbour only, which is the class of the labelled frame."""
    options = [
        "model.backbone={name: strided_convs, channels: 8, num_convs: 1}",
        "model.head={name: non_local, channels: 8, kernel: 1}",
        "model.aux=null",
        "model.dropout=0.0",
    ]
    cfg = load_recipe(tiny_config, options).model
    for seed in range(3):
        accuracy = {}
        for num_frames in (1, 3):
            draws = torch.Generator().manual_seed(seed)
            network = Segmenter(cfg, 2, seed=seed, num_frames=num_frames)
            optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
            for _ in range(120):
                clips, label = toy_clips(32, draws)
                logits = network(clips[:, : 3 * num_frames]).main
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(logits, label).backward()
                optimiser.step()
            clips, label = toy_clips(400, draws)
            with torch.no_grad():
                predicted = network.eval()(clips[:, : 3 * num_frames]).main.argmax(dim=1)
            accuracy[num_frames] = float((predicted == label).float().mean())
        assert accuracy[3] > 0.9
        assert 0.4 < accuracy[1] < 0.6


def toy_clips(num: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `num 9 6 10` of three frames, the labelled one first, and labels `num 3 5` at the network's stride."""
    clips = 0.3 * torch.randn(num, 3, 3, 6, 10, generator=draws)
    colour, frame, row, column = (
        torch.randint(low, high, (num,), generator=draws) for low, high in ((0, 2), (1, 3), (0, 3), (0, 5))
    )
    for i in range(num):
        clips[i, frame[i], colour[i], 2 * row[i] : 2 * row[i] + 2, 2 * column[i] : 2 * column[i] + 2] += 3
    return clips.flatten(1, 2), colour[:, None, None].expand(-1, 3, 5)
