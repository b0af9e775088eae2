import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from segnl.convert.ccnet import from_ccnet
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.backbones.resnet import plan_stages
from segnl.models.segmenter import Segmenter, model_config
from segnl.runs.recipe import load_recipe


def record(shared: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(shared / "parity" / "head-ccnet-authors-r2.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
        return json.loads(file.metadata()["config"]), tensors


def test_the_authors_head_gives_the_recorded_logits_and_input_gradient(shared: Path) -> None:
    config, tensors = record(shared)
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    x = tensors["input"].requires_grad_()
    logits = from_ccnet(state, recurrence=config["recurrence"])([None, None, None, x])
    (gradient,) = torch.autograd.grad((logits * tensors["cotangent"]).sum(), x)
    for ours, recorded in ((logits, tensors["output"]), (gradient, tensors["grad_input"])):
        assert (ours - recorded).abs().max() < 1e-5 * recorded.abs().max()


TREE = {
    "backbone": {"name": "resnet", "depth": 50, "width": 0.0625, "stem": {"kind": "deep", "channels": 8}},
    "head": {"name": "rcca", "channels": 8, "last_channels": 12},
    "aux": {"channels": 12, "has_conv_bias": True},
}
NUMBERED = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
SHELL = {"convs.0": "conva", "convs.1": "convb", "conv_cat": "bottleneck"}


def their_name(ours: str) -> str:
    """The authors' name of one of our tensors, written from a listing of their checkpoint."""
    first, *rest = ours.split(".")
    if first == "backbone":
        return ".".join([NUMBERED[rest[1]], *rest[2:]]) if rest[0] == "stem" else ".".join(rest)
    if first == "classifier":
        return f"head.bottleneck.3.{rest[0]}"
    if first == "auxiliary":
        return ".".join(["dsn", {"conv.conv": "0", "conv.norm": "1"}.get(".".join(rest[:2]), "3"), rest[-1]])
    path = ".".join(rest[1:]).replace("context.gamma.scale", "cca.gamma").replace("context.", "cca.")
    for mine, theirs in SHELL.items():
        path = path.replace(f"{mine}.conv.", f"{theirs}.0.").replace(f"{mine}.norm.", f"{theirs}.1.")
    return f"head.{path}"


def their_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Segmenter(model_config(TREE, file="test"), 5)
    state = {their_name(name): value for name, value in model.state_dict().items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    state["head.cca.gamma"] = torch.tensor([0.7])
    return {f"module.{name}": value for name, value in state.items()}


def test_the_authors_whole_model_is_recognised_by_names_and_shapes() -> None:
    model = from_ccnet(their_state(), recurrence=3)
    cfg = model.model
    assert cfg["backbone"]["depth"] == 50
    assert cfg["backbone"]["stem"] == {"kind": "deep", "channels": 8, "has_pool": True, "ceil_mode": True}
    mean = [104.00698793, 116.66876762, 122.67891434]
    assert cfg["input"].items() >= {"mean": mean, "std": [1.0] * 3, "order": "bgr", "channels": 3}.items()
    assert (cfg["backbone"]["contract_dilation"], cfg["align_corners"], cfg["input"]["order"]) == (False, True, "bgr")
    assert model.segmenter.backbone.layer4[0].conv2.dilation == (4, 4)
    assert model.segmenter.head.shell.context.recurrence == 3
    assert model.segmenter.head.shell.context.gamma.scale.item() == pytest.approx(0.7)
    assert model(torch.randn(1, 3, 33, 41)).shape == (1, 5, 33, 41)
    assert model.report.filled


def test_the_shipped_recipe_describes_the_authors_network() -> None:
    recipe = load_recipe(Path(__file__).resolve().parents[2] / "configs/cityscapes/ccnet_r101.yaml")
    ours = recipe.model.model_dump(mode="json")
    theirs = model_config(from_ccnet(their_state()).model, file="test").model_dump(mode="json")
    for sized in (ours, theirs):  # their_state is small
        for key in ("depth", "width", "weights", "multi_grid"):
            del sized["backbone"][key]
        del sized["backbone"]["stem"]["channels"], sized["head"]["channels"], sized["head"]["last_channels"]
        del sized["aux"]["channels"]
    assert ours == theirs
    assert (recipe.model.backbone.stem.channels, recipe.model.aux.channels) == (128, 512)
    assert all(dilation == 4 for dilation in plan_stages(recipe.model.backbone)[3].dilations)


def test_only_the_head_has_leaky_activations() -> None:
    model = from_ccnet(their_state()).segmenter
    conv = model.head.shell.convs[0]
    x = torch.randn(1, 64 * 2, 7, 11)
    torch.testing.assert_close(conv(x), F.leaky_relu(conv.norm(conv.conv(x)), 0.01))
    assert model.auxiliary.conv.leaky_slope == 0.01
    assert (model.backbone.layer1[0](torch.randn(1, 8, 7, 11)) >= 0).all()


def test_abs_reads_norm_weights_as_the_authors_cuda_code() -> None:
    state = their_state()
    state["module.head.conva.1.weight"].fill_(-0.5)
    state["module.bn1.weight"].fill_(-0.25)
    model = from_ccnet(state, abn="abs").segmenter
    assert model.head.shell.convs[0].norm.weight[0].item() == pytest.approx(0.5 + 1e-5)
    assert model.backbone.stem[1].weight[0].item() == pytest.approx(0.25 + 1e-5)
    assert from_ccnet(state).segmenter.backbone.stem[1].weight[0].item() == -0.25


def test_the_authors_aspp_head_is_read_too() -> None:
    torch.manual_seed(0)
    state = {"head.0.conv1.1.weight": torch.randn(4, 6, 1, 1), "head.0.conv2.0.weight": torch.randn(4, 6, 1, 1)}
    state |= {f"head.0.conv{index}.0.weight": torch.randn(4, 6, 3, 3) for index in (3, 4, 5)}
    state |= {"head.0.bottleneck.0.weight": torch.randn(8, 20, 1, 1)}
    state |= {"head.1.weight": torch.randn(5, 8, 1, 1), "head.1.bias": torch.randn(5)}
    norms = {"conv1.2": 4, **{f"conv{index}.1": 4 for index in (2, 3, 4, 5)}, "bottleneck.1": 8}
    for name, channels in norms.items():
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"head.0.{name}.{key}"] = torch.rand(channels) + 0.5
    x = torch.randn(2, 6, 7, 11)

    def abn(y: Tensor, name: str) -> Tensor:
        w, b, m, v = (state[f"head.0.{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var"))
        return F.leaky_relu(F.batch_norm(y, m, v, w, b), 0.01)

    maps = [abn(F.conv2d(x.mean((2, 3), keepdim=True), state["head.0.conv1.1.weight"]), "conv1.2").expand(2, 4, 7, 11)]
    maps += [abn(F.conv2d(x, state["head.0.conv2.0.weight"]), "conv2.1")]
    for index, rate in ((3, 12), (4, 24), (5, 36)):
        conv = F.conv2d(x, state[f"head.0.conv{index}.0.weight"], padding=rate, dilation=rate)
        maps.append(abn(conv, f"conv{index}.1"))
    joined = abn(F.conv2d(torch.cat(maps, 1), state["head.0.bottleneck.0.weight"]), "bottleneck.1")
    expected = F.conv2d(joined, state["head.1.weight"], state["head.1.bias"])
    torch.testing.assert_close(from_ccnet(state)([None, None, None, x]), expected, rtol=1e-4, atol=1e-4)


def test_wrong_arguments_and_files_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 'plain' or 'abs'"):
        from_ccnet(their_state(), abn="other")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"head\.recurrence: holds 0"):
        from_ccnet(their_state(), recurrence=0)
    state = their_state()
    state["module.extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="unknown: extra"):
        from_ccnet(state)
    with pytest.raises(CheckpointError, match=r"head\.conva\.0\.weight: missing"):
        from_ccnet({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("cca.gamma", torch.zeros(5), r"of another shape: head\.cca\.gamma"),
        ("conva.1.weight", torch.empty(8, dtype=torch.bits8), "bits8 instead of float32"),
        ("conva.1.weight", torch.ones(8, dtype=torch.bool), "bool instead of float32"),
        ("conva.0.weight", torch.zeros(8), r"shape \(8,\); expected a convolution's weight"),
    ],
)
def test_odd_tensors_are_named(name: str, tensor: Tensor, message: str) -> None:
    state = {name: value for name, value in their_state().items() if name.startswith("module.head.")}
    with pytest.raises(CheckpointError, match=message):
        from_ccnet(state | {f"module.head.{name}": tensor}, abn="abs")
