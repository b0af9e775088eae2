import json
import sys

import numpy as np
import pytest
import torch

import segnl
from segnl.cli.main import main
from segnl.convert.export import ExportWrapper, _not_in_graph, _to_float16, export, onnx_errors
from segnl.core.errors import ConfigError, MachineError
from segnl.core.outputs import mark
from segnl.labels.table import ClassTable
from segnl.runs.build import build_model
from segnl.runs.checkpoint import Checkpoint, class_table_to_dict, open_checkpoint, save_checkpoint
from segnl.runs.recipe import load_recipe

RED_BLUE = ClassTable(["road", "sky", "tree"], [[128, 64, 128], [70, 130, 180], [0, 128, 0]])

# One of each head, and the settings that change the graph: pooled pairs, the form by associativity, a stage resized to
# another, bgr and corners.
HEADS = {
    "fcn": ["model.head={name: fcn, channels: 8}"],
    "aspp": ["model.head={name: aspp, channels: 8, in_stages: [1, 3]}"],
    "non_local": ["model.head={name: non_local, channels: 8, subsample: true}", "model.input.order=bgr"],
    "dot_product": ["model.head={name: non_local, channels: 8, pairwise: dot_product}"],
    "concatenation": ["model.head={name: non_local, channels: 8, pairwise: concatenation}"],
    "rcca": ["model.head={name: rcca, channels: 8, gamma_init: 1.0}", "model.align_corners=true"],
    "ann": ["model.head={name: ann, channels: 8}"],
    "da": ["model.head={name: da, channels: 8, gamma_init: 1.0}"],
    "deeplabv3plus": ["model.head={name: deeplabv3plus, channels: 8, low_channels: 4}"],
    "dnl": ["model.head={name: dnl, channels: 8}"],
    "ema": ["model.head={name: ema, channels: 8, num_bases: 5}"],
    "gc": ["model.head={name: gc, channels: 8}"],
    "isa": ["model.head={name: isa, channels: 8, group_hw: [3, 5]}"],
    "ocr": ["model.head={name: ocr, channels: 8, coarse: {channels: 8}}", "model.aux=null"],
    "psp": ["model.head={name: psp, channels: 8}"],
    "four_bands": [
        "model.head={name: fcn, channels: 8}",
        "model.input={channels: 4, mean: [9, 9, 9, 9], std: [9, 9, 9, 9]}",
    ],
    "three_frames": ["model.head={name: non_local, channels: 8}", "data.frames=3"],
}


@pytest.fixture
def checkpoint(tiny_config, tmp_path, request):
    """The file of a network of three classes at step 7, with an optimiser's tensor beside the weights."""
    recipe = load_recipe(tiny_config, HEADS[getattr(request, "param", "rcca")])
    path = tmp_path / "run" / "step-00000007.safetensors"
    model = build_model(recipe, 3, is_new=True)
    save_checkpoint(
        Checkpoint(
            path=path,
            step=7,
            recipe=recipe.to_dict(),
            classes=class_table_to_dict(RED_BLUE),
            origin={},
            model=model.state_dict(),
            optim={"classifier.weight.momentum_buffer": torch.ones(3, 8, 1, 1)},
        )
    )
    return path


def test_a_graph_that_torch_cannot_write_is_one_line_with_the_cause(checkpoint, tmp_path, capsys, monkeypatch):
    def refuse(*_args, **_settings):
        raise RuntimeError("Failed.\nNext steps:") from ValueError("sizes differ:\n33 and 41")

    monkeypatch.setattr("torch.onnx.export", refuse)
    monkeypatch.setattr("segnl.convert.export._packages", lambda: (None, None))
    for options, end in (([], "; perhaps it can for one image size: --input ROWSxCOLUMNS"), (["--input", "33x41"], "")):
        assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "x.onnx"), *options]) == 6
        expected = f"torch cannot write the network, RCCAHead, as ONNX (sizes differ: 33 and 41){end}\n"
        assert capsys.readouterr().err.endswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", HEADS, indirect=True)
def test_onnxruntime_predicts_the_same_at_other_sizes_and_batches(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    out = tmp_path / "model.onnx"
    assert main(["export", "--checkpoint", str(checkpoint.parent), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("checked at") == 2
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    network = segnl.load(checkpoint)
    channels = network.model.image_channels
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["b", "H", "W", channels])
    pixels = np.random.default_rng(1).integers(
        0, 256, (2, 65, 203, channels), dtype=np.uint8
    )  # not a size of the check
    labels, _ = session.run(["labels", "logits"], {"image": pixels})
    assert (labels.dtype, labels.shape) == (np.uint8, (2, 65, 203))
    ours = np.stack([network.predict(image) for image in pixels])
    assert (labels != ours).mean() < 1e-3  # two scores nearer than the rounding of an interpolation
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["segnl.class_names"] == ["road", "sky", "tree"]
    assert about["segnl.palette"][1] == [70, 130, 180]
    assert about["segnl.recipe"]["model"]["head"]["name"] == network.recipe.model.head.name
    assert about["segnl.convention"]["normalised_inside"]["order"] == network.recipe.model.input.order


@pytest.mark.slow
def test_a_graph_of_one_size_keeps_a_free_batch_and_refuses_other_sizes(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    out = tmp_path / "model.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--input", "65x97"]) == 0
    said = capsys.readouterr().out
    assert "of 65x97 only" in said
    assert said.count("checked at 65x97") == 1
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["b", 65, 97, 3]
    labels, _ = session.run(["labels", "logits"], {"image": np.zeros((3, 65, 97, 3), np.uint8)})
    assert labels.shape == (3, 65, 97)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(["labels"], {"image": np.zeros((1, 97, 65, 3), np.uint8)})
    convention = json.loads(session.get_modelmeta().custom_metadata_map["segnl.convention"])
    assert "H = 65, W = 97" in convention["image"]


def test_a_backbone_without_a_free_size_is_exported_at_the_size_of_its_crops(checkpoint, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr("segnl.convert.export._packages", lambda: None)
    monkeypatch.setattr(
        "segnl.convert.export.onnx_bytes", lambda wrapper, about, hw: sizes.append(hw) or mark("export").encode()
    )
    monkeypatch.setattr("segnl.convert.export.onnx_errors", lambda wrapper, data, hw: (0.0, 0.0))
    free = export(checkpoint, tmp_path / "model.onnx")
    monkeypatch.setattr("segnl.models.backbones.base.Backbone.has_free_size", False)
    crop = export(checkpoint, tmp_path / "model.onnx")
    given = export(checkpoint, tmp_path / "model.onnx", hw=(65, 97))
    assert sizes == [free.fixed_hw, crop.fixed_hw, given.fixed_hw] == [None, (33, 41), (65, 97)]
    assert [list(report.errors) for report in (crop, given)] == [[(33, 41)], [(65, 97)]]


def test_a_graph_with_other_outputs_is_not_written(checkpoint, tmp_path, monkeypatch):
    class Session:
        def __init__(self, data, providers):
            pass

        def run(self, names, inputs):
            labels, logits = wrapper(torch.from_numpy(inputs["image"]))
            return labels.numpy(), logits.detach().numpy() + np.float32(0.01)

    runtime = type("Runtime", (), {"InferenceSession": Session})
    wrapper = ExportWrapper(build_model(segnl.load(checkpoint).recipe, 3, is_new=False)).eval()
    monkeypatch.setattr("segnl.convert.export._packages", lambda: (None, runtime))
    monkeypatch.setattr("segnl.convert.export.onnx_bytes", lambda wrapper, about, hw: b"graph")
    assert onnx_errors(wrapper, b"", (33, 41))[0] > 1e-3
    with pytest.raises(MachineError, match="not written; onnxruntime's logits for 97x131 differ"):
        export(checkpoint, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_missing_package_is_one_line_with_the_command(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MachineError, match=r"needs onnx, which is not installed: pip install 'segnl\[export\]'"):
        export(checkpoint, tmp_path / "model.onnx")


@pytest.mark.parametrize("half", [False, True])
def test_exported_weights_are_a_checkpoint_that_predicts_the_same(checkpoint, tmp_path, half):
    out = tmp_path / "model.safetensors"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), *(["--half"] if half else [])]) == 0
    exported, original = open_checkpoint(out), open_checkpoint(checkpoint)
    assert exported.optim == {}
    assert (exported.step, exported.classes, exported.recipe) == (7, original.classes, original.recipe)
    assert exported.origin["input_convention"]["order"] == "rgb"
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    same = (segnl.load(out).predict(image) == segnl.load(checkpoint).predict(image)).mean()
    assert same > 0.97 if half else same == 1
    if half:
        assert exported.model["backbone.layer1.0.conv1.weight"].dtype == torch.float16
        assert exported.model["backbone.layer1.0.bn1.running_var"].dtype == torch.float32


def test_a_weight_that_float16_cannot_hold_stays_as_it_is():
    assert _to_float16(torch.full((2, 2), 1e6)).dtype == torch.float32
    assert _to_float16(torch.ones(2, 2)).dtype == torch.float16
    assert _to_float16(torch.ones(4, 1, 1)).dtype == torch.float32  # gc's layer norm


def test_wrong_suffixes_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"ends with \.pt; expected \.onnx or \.safetensors"):
        export(tmp_path / "nowhere", tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="--half"):
        export(tmp_path / "nowhere", tmp_path / "model.onnx", half=True)
    with pytest.raises(ConfigError, match="--input: is for an ONNX graph"):
        export(tmp_path / "nowhere", tmp_path / "model.safetensors", hw=(64, 96))


def test_the_checkpoint_itself_is_never_overwritten(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="is how the checkpoints of a training are called"):
        export(checkpoint, checkpoint)
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(checkpoint.read_bytes())
    with pytest.raises(ConfigError, match="was not written by segnl export"):
        export(copy, copy)


def test_steps_of_the_evaluation_outside_the_graph_are_named(tiny_config):
    assert _not_in_graph(load_recipe(tiny_config)) == []
    given = ["eval={mode: slide, window_hw: [33, 41], stride_hw: [22, 27], scales: [0.5], flip: true}"]
    (line,) = _not_in_graph(load_recipe(tiny_config, [*given, "data.short_side_px=64"]))
    several = ["eval.short_sides_px=[32, 48]", "eval.long_side_px=200", "eval.size_multiple=8", "data.short_side_px=64"]
    (other,) = _not_in_graph(load_recipe(tiny_config, several))  # eval's own sizes come before data's
    assert all(word in other for word in ("short side to 32, 48 pixels", "200 pixels", "multiple of 8"))
    assert "64" not in other
    assert all(word in line for word in ("64 pixels", "scale 0.5", "windows of (33, 41)", "flipped"))
