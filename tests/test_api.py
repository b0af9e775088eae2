"""`import segnl` as its users write it; docs/python.md is run as it stands."""

import math
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import segnl
from segnl import video
from segnl.core.errors import CheckpointError, ConfigError, DataError
from segnl.losses.find import LOSSES
from segnl.models.find import HEADS
from segnl.models.segmenter import SegmentationModel
from segnl.runs.recipe import load_recipe
from segnl.streets.files import generate

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def tiny_model(head: str = "fcn", **settings) -> SegmentationModel:
    return segnl.create_model(head, backbone="resnet18", num_classes=3, output_stride=32, channels=8, **settings)


def test_the_pages_code_runs_as_it_stands(
    street_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(tmp_path / "data" / "streets", num_train=8, num_val=2, hw=(64, 128))
    shutil.copytree(street_runs[1], tmp_path / "checkpoints" / "mine")
    shutil.copy(street_runs[1].with_suffix(".yaml"), tmp_path / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    assert names["logits"].shape == (2, 19, 5, 7)
    assert names["context"].shape == (2, 64, 28, 44)
    assert names["classes"].shape == (64, 128)
    assert (names["ids"] == names["same_ids"]).all()
    assert names["probabilities"].shape == (19, 64, 128)


def test_import_brings_in_no_torch_and_dir_names_everything() -> None:
    code = "import sys, segnl; print(*dir(segnl)); sys.exit('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(segnl.__all__) <= set(process.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = segnl.nothing


# ---- create_model ----


def test_bytes_are_normalised_inside_and_floats_are_taken_as_they_are() -> None:
    model = tiny_model().eval()
    image = torch.randint(0, 256, (2, 3, 41, 57), dtype=torch.uint8)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    logits = model(image)
    assert logits.shape == (2, 3, 41, 57)
    torch.testing.assert_close(model(normalised), logits)
    assert model.bfloat16()(image).dtype == torch.bfloat16


def test_logits_are_the_low_resolution_ones_upsampled() -> None:
    model = tiny_model("rcca").eval()
    image = torch.randn(1, 3, 41, 57, requires_grad=True)
    logits, low = model(image), model.low_resolution(image)
    assert low.main.shape == (1, 3, 2, 2)
    assert low.aux == {}
    torch.testing.assert_close(logits, F.interpolate(low.main, (41, 57), mode="bilinear"))
    logits.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_an_auxiliary_head_returns_logits_in_training() -> None:
    image = torch.randn(2, 3, 41, 57)
    aux = tiny_model(auxiliary=True).low_resolution(image).aux
    assert aux["auxiliary"].shape[:2] == (2, 3)


@pytest.mark.parametrize("image", [torch.zeros(1, 4, 8, 9), torch.zeros(3, 8, 9), torch.zeros(1, 3, 8, 9).long()])
def test_another_shape_or_type_of_image_is_one_line(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"image: torch\.\w+ \(.*\); expected uint8 or floating `b 3 H W`"):
        tiny_model()(image)


def test_initial_values_follow_torchs_seed() -> None:
    def weight(head: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return tiny_model(head).segmenter.backbone.layer4[1].conv2.weight

    assert torch.equal(weight("fcn", 0), weight("psp", 0))
    assert not torch.equal(weight("fcn", 0), weight("fcn", 1))


def test_weights_of_a_backbone_come_from_a_file(tmp_path: Path) -> None:
    backbone = tiny_model().segmenter.backbone
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    for path in (tmp_path / "weights.pth", str(tmp_path / "weights.pth")):
        loaded = tiny_model(weights=path).segmenter.backbone
        assert torch.equal(loaded.layer1[0].conv1.weight, backbone.layer1[0].conv1.weight)
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"wrong\.pth"):
        tiny_model(weights=tmp_path / "wrong.pth")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet51"}, r"backbone: holds 'resnet51'; did you mean 'resnet\d+'\?"),
        ({"backbone": "zzz"}, "known: mobilenet_v2, resnet101, resnet152, resnet18, resnet34, resnet50"),
        ({"head": "rca"}, "did you mean 'rcca'"),
        ({"recurence": 2}, r"model\.head\.recurence: unknown key; did you mean 'recurrence'\?"),
        ({"num_classes": 0}, "num_classes: 0; expected a whole number from 1 to 65536"),
        ({"weights": "imagnet"}, "did you mean 'imagenet'"),
    ],
)
def test_a_wrong_argument_of_create_model_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message) as error:
        segnl.create_model(**{"head": "rcca", "num_classes": 3, **settings})
    assert "\n" not in str(error.value)


def test_a_backbone_of_ones_own_is_found_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api_backbone").mkdir()
    (tmp_path / "api_backbone" / "patches.py").write_text("""
from torch import nn
from segnl.models.backbones.base import Backbone, BackboneConfig

class Patches(Backbone):
    Config = BackboneConfig
    stage_channels = (4, 4, 4, 4)

    def __init__(self, cfg):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, image):
        return [self.patches(image)] * 4

BACKBONE = Patches
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = segnl.create_model("fcn", backbone="api_backbone.patches", num_classes=3, channels=8)
    assert model(torch.randn(2, 3, 24, 40)).shape == (2, 3, 24, 40)


def test_models_and_settings_pickle(tiny_config: Path) -> None:
    model = tiny_model("rcca").eval()
    image = torch.randn(1, 3, 41, 57)
    assert torch.equal(pickle.loads(pickle.dumps(model))(image), model(image))
    recipe = segnl.load_recipe(str(tiny_config), ["model.head.channels=8"])
    assert pickle.loads(pickle.dumps(recipe)).to_dict() == recipe.to_dict()
    assert pickle.loads(pickle.dumps(recipe.model)).model_dump() == recipe.model.model_dump()


def test_build_model_starts_as_a_training_does(tiny_config: Path) -> None:
    recipe = segnl.load_recipe(tiny_config)
    assert recipe.to_dict() == load_recipe(tiny_config).to_dict()
    first, second = segnl.build_model(recipe, 3), segnl.build_model(recipe, num_classes=3)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert first(torch.randn(2, 3, 33, 41)).shape == (2, 3, 33, 41)


# ---- create_head ----


@pytest.mark.parametrize("name", HEADS.names())
def test_a_head_alone_maps_one_map_or_all_stages_to_its_context(name: str) -> None:
    small = {"channels": 8} if "channels" in HEADS.find(name).Config.model_fields else {}
    head = segnl.create_head(name, 6, num_classes=3, **small)
    x = torch.randn(2, 6, 7, 11, requires_grad=True)
    context = pickle.loads(pickle.dumps(head))(x)
    assert context.shape == (2, head.out_channels, 7, 11)
    context.sum().backward()
    head = segnl.create_head(name, [4, 5, 6, 7], num_classes=3, **small)
    stages = [torch.randn(2, channels, 7, 11) for channels in (4, 5, 6, 7)]
    assert head(stages).shape == (2, head.out_channels, 7, 11)


@pytest.mark.parametrize("name", ["aspp", "non_local", "rcca"])
@pytest.mark.filterwarnings("ignore")
def test_a_head_alone_compiles_exports_and_traces_also_for_other_sizes(name: str) -> None:
    head = segnl.create_head(name, 6, channels=8).eval()
    x, other = torch.randn(2, 6, 7, 11), torch.randn(1, 6, 9, 5)
    expected = head(other)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        exported = torch.export.export(head, (x,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
        torch.testing.assert_close(exported.module()(other), expected)
        torch.testing.assert_close(torch.jit.trace(head, (x,))(other), expected)
    compiled = torch.compile(head.train(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), head(x))
    compiled(x).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_head_that_depends_on_the_classes_asks_for_their_number() -> None:
    with pytest.raises(ConfigError, match="ocr: the context depends on the number of classes; give num_classes"):
        segnl.create_head("ocr", 6)
    with pytest.raises(ConfigError, match="chanels: unknown key; did you mean 'channels'"):
        segnl.create_head("rcca", 6, chanels=8)
    with pytest.raises(ValueError, match="in_stages: 3; expected 0"):
        segnl.create_head("rcca", [6, 8])


# ---- open_dataset ----


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_set_works_under_torchs_loader(
    tiny_data: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch would leave its SIGCHLD handler behind, which raises when another test kills a worker.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    data = segnl.open_dataset("folder", str(tiny_data), ignore_ids=[9])
    assert data.class_table.names == ("road", "sky", "tree")
    sample = data[1]
    assert (sample.image.shape, sample.label.shape, sample.id) == ((37, 53, 3), (37, 53), "frame1")
    batches = list(DataLoader(data, batch_size=3, num_workers=num_workers))
    assert [len(batch.id) for batch in batches] == [3, 2]
    assert batches[0].image.shape == (3, 37, 53, 3)
    assert torch.equal(batches[0].label[1], torch.from_numpy(sample.label))
    assert len(data) == len(list(data)) == 5  # it also ends when it is iterated over


def test_a_wrong_argument_of_open_dataset_is_one_line(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"ignore_id: unknown key; did you mean 'ignore_ids'\?"):
        segnl.open_dataset("folder", tiny_data, ignore_id=[9])
    with pytest.raises(ConfigError, match="known: ade20k, cityscapes, folder, probe, streets"):
        segnl.open_dataset("zzz", tiny_data)
    with pytest.raises(DataError, match="no split 'dev'; it has train, val"):
        segnl.open_dataset("folder", tiny_data, "dev", ignore_ids=[9])


# ---- losses ----


@pytest.mark.parametrize("name", sorted({*LOSSES.names()} - {"sum"}))
def test_every_loss_is_a_function_also_after_its_module_was_imported(name: str) -> None:
    loss = getattr(segnl.losses, name)
    assert name in segnl.losses.__all__
    assert pickle.loads(pickle.dumps(loss)) is loss
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    label = torch.randint(0, 3, (2, 33, 41), dtype=torch.uint8)
    upsampled = F.interpolate(logits, (33, 41), mode="bilinear")
    torch.testing.assert_close(loss(logits, label), loss(upsampled, label))
    loss(logits, label).backward()
    with pytest.raises(ConfigError, match="typo: unknown key"):
        loss(logits, label, typo=1)


@pytest.mark.parametrize("name", segnl.losses.__all__)
@pytest.mark.parametrize(
    ("label", "weight", "message"),
    [
        (torch.full((2, 9, 9), 7), None, "label: holds 7; expected 0..2"),
        (torch.zeros(1, 9, 9, dtype=torch.long), None, "label: shape"),
        (torch.zeros(2, 9, 9), None, "expected an integer dtype"),
        (torch.zeros(2, 3, 9, 9, dtype=torch.long), None, "label: shape"),
        (torch.zeros(2, 9, 9, dtype=torch.long), [1.0], "class_weight: .*; expected 3 numbers"),
        (torch.zeros(2, 9, 9, dtype=torch.long), [1.0, 1.0, math.nan], "class_weight: .*; expected 3 numbers"),
    ],
)
def test_a_wrong_argument_of_a_loss_is_one_line(
    name: str, label: torch.Tensor, weight: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(segnl.losses, name)(torch.zeros(2, 3, 5, 5), label, class_weight=weight)


@pytest.mark.parametrize("number", [0, -5, True, 2.0, 10**9, 10**20])
def test_a_wrong_count_is_one_line(number: int, tiny_config: Path) -> None:
    recipe = segnl.load_recipe(tiny_config)
    for build in (
        lambda: segnl.create_model("fcn", num_classes=number),
        lambda: segnl.create_model("fcn", num_classes=2, output_stride=number),
        lambda: segnl.create_head("fcn", number),
        lambda: segnl.create_head("fcn", 8, num_classes=number or -1),
        lambda: segnl.build_model(recipe, number),
    ):
        with pytest.raises(ConfigError, match="expected a whole number from 1 to 65536"):
            build()


def test_a_network_larger_than_the_memory_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.core.limits.memory_bytes", lambda: 2**30)
    for build in (
        lambda: segnl.create_model("fcn", num_classes=3, channels=4096, num_convs=4),
        lambda: segnl.create_head("fcn", 8, channels=4096, num_convs=4),
        lambda: video.create_model("c2d_resnet50", num_classes=3, base_channels=1024),
    ):
        with pytest.raises(ConfigError, match=r"the network: needs at least [\d,]+ MiB; expected at most 1,024 MiB"):
            build()


def test_a_second_name_of_the_head_is_refused() -> None:
    assert segnl.create_model("fcn", backbone="resnet18", num_classes=2, name="fcn")
    with pytest.raises(ConfigError, match="name: 'aspp', but the head is 'fcn'; leave it out"):
        segnl.create_model("fcn", backbone="resnet18", num_classes=2, name="aspp")


def test_one_override_may_be_a_text_and_a_sample_has_a_number(tiny_config: Path, tiny_data: Path) -> None:
    assert segnl.load_recipe(tiny_config, "optim.lr=0.5").optim.lr == 0.5
    with pytest.raises(TypeError, match="'slice' object"):
        segnl.open_dataset("folder", tiny_data)[0:2]


def test_cross_entropy_equals_torchs() -> None:
    logits, label = torch.randn(2, 3, 9, 11), torch.randint(0, 3, (2, 9, 11))
    label[0, :2] = 255
    weight = [1.0, 5.0, 0.5]
    expected = F.cross_entropy(logits, label, torch.tensor(weight), ignore_index=255, label_smoothing=0.1)
    loss = segnl.losses.cross_entropy(logits, label, class_weight=weight, label_smoothing=0.1)
    assert segnl.losses.cross_entropy(logits, label, class_weight=weight, label_smoothing=0.1, weight=3) == 3 * loss
    torch.testing.assert_close(loss, expected)


def test_attention_of_a_pixel_in_a_new_network_and_in_a_trained_one(street_runs: tuple[Path, Path]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (56, 88, 3)).astype(np.uint8)
    model = segnl.create_model("rcca", backbone="resnet18", num_classes=3, channels=8).eval()
    rows = segnl.attention(model, image, (30, 70))
    assert list(rows) == ["all hops", "hop 1", "hop 2", "receptive field"]
    assert rows["all hops"].weights.shape == (7, 11)
    assert rows["all hops"].weights.sum() == pytest.approx(1, abs=1e-5)
    run = segnl.load(street_runs[1])
    by_array = segnl.attention(run, image, (30, 70))["hop 1"].weights
    by_tensor = segnl.attention(run, torch.from_numpy(image).movedim(2, 0), (30, 70))["hop 1"].weights
    np.testing.assert_array_equal(by_array, by_tensor)
    with pytest.raises(ValueError, match="call eval"):
        segnl.attention(model.train(), image, (30, 70))
