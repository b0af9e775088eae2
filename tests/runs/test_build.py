import os

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from segnl.core.errors import ConfigError, DataError
from segnl.models.input import InputConfig
from segnl.runs.build import build_data, build_model, make_deterministic
from segnl.runs.recipe import load_recipe
from tests.training.test_trainer import batch_of, trainer_for


def test_a_new_model_is_a_function_of_the_seed(tiny_config):
    def weights(seed):
        recipe = load_recipe(tiny_config, [f"train.seed={seed}"])
        return torch.cat([p.detach().flatten() for p in build_model(recipe, 3, is_new=True).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_two_heads_share_every_weight_they_have_in_common(tiny_config):
    def weights(head):
        recipe = load_recipe(tiny_config, [f"model.head={{name: {head}, channels: 16}}"])
        return dict(build_model(recipe, 3, is_new=True).named_parameters())

    fcn, rcca, aspp = weights("fcn"), weights("rcca"), weights("aspp")
    assert fcn.keys() < rcca.keys()
    assert all(torch.equal(fcn[name], rcca[name]) for name in fcn)
    shared = [name for name in fcn.keys() & aspp.keys() if fcn[name].shape == aspp[name].shape]
    assert {"classifier.weight", "auxiliary.classifier.weight", "backbone.layer4.0.conv1.weight"} <= set(shared)
    assert all(torch.equal(fcn[name], aspp[name]) for name in shared)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_padding_normalises_to_nearly_nothing(order):
    from segnl.models.input import Normalise

    cfg = InputConfig(mean=(10.4, 100.0, 200.6), std=(50.0, 60.0, 70.0), order=order)
    pixel = torch.tensor(cfg.padding_rgb, dtype=torch.uint8).view(1, 3, 1, 1)
    assert Normalise(cfg)(pixel).abs().max() < 0.5 / 50


def test_an_unknown_split_names_those_that_are_there(tiny_config):
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        build_data(load_recipe(tiny_config), "test")


# torch.use_deterministic_algorithms, "will throw", of torch 2.15; cumsum and kthvalue of earlier ones. Not bilinear
# upsampling: F.interpolate puts an equivalent in its place.
REFUSED_BY_CUDA = ("adaptive_avg_pool", "adaptive_max_pool", "nll_loss", "reflection_pad", "put_", "histc")
REFUSED_BY_CUDA += ("median", "nanmedian", "grid_sampler", "scatter_reduce", "cumsum", "cumprod", "kthvalue")


@pytest.mark.parametrize(
    "options",
    [
        ["model.head={name: fcn, channels: 8, in_stages: [0, 3]}", "optim={name: adamw, lr: 1e-3}"],
        ["model.head={name: aspp, channels: 8}", "loss={name: ohem, min_kept: 500, class_weight: null}"],
        ["model.head={name: non_local, channels: 8}", "loss={name: ohem, fraction: 0.3}", "train.ema=0.9"],
        ["model.head={name: non_local, channels: 8, pairwise: concatenation}", "optim.clip_norm=0.1"],
        ["model.head={name: rcca, channels: 8}", "loss={name: cross_entropy, label_smoothing: 0.1}"],
    ],
)
def test_a_step_calls_nothing_that_deterministic_cuda_refuses(tiny_config, options):
    trainer = trainer_for(tiny_config, *options)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        trainer.step(batch_of(0))
    called = {event.key.removeprefix("aten::").lstrip("_") for event in record.key_averages()}
    assert "convolution" in called
    assert [name for name in called if name.startswith(REFUSED_BY_CUDA)] == []


def test_deterministic_training_steps_as_it_does_otherwise(tiny_config, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    free = trainer_for(tiny_config)
    free.step(batch_of(0))
    try:
        make_deterministic()
        bound = trainer_for(tiny_config)
        bound.step(batch_of(0))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # the two that CUDA's products accept
    finally:
        torch.use_deterministic_algorithms(False)
    state = bound.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in free.model.state_dict().items())


@pytest.mark.parametrize(
    "override",
    [
        "model.head={name: fcn, channels: 8, kernel: 4}",
        "model.head={name: fcn, channels: 8, in_stages: [4]}",
        "model.head={name: unet, in_stages: [0, 9]}",
    ],
)
def test_settings_that_a_part_refuses_are_a_config_error(tiny_config, override):
    with pytest.raises(ConfigError, match=r"^model: \w+"):
        build_model(load_recipe(tiny_config, [override]), 3, is_new=True)
