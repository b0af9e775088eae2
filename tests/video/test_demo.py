import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from segnl import video
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.initialisation import initialise
from segnl.video import demo
from segnl.video.clips import FRAMES, SIDE_PX, VISIBLE


@pytest.mark.parametrize(("name", "span"), [("c2d", 1), ("i3d", 11)])
def test_no_position_without_a_non_local_block_sees_both_objects(name: str, span: int) -> None:
    model = video.VideoClassifier(demo.model_config(name)).eval()
    initialise(model, 0)
    clip = torch.randn(1, 3, FRAMES, SIDE_PX, SIDE_PX, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.backbone(clip)[:, :, FRAMES // 2].sum(), clip)
    frames = gradient.abs().sum(dim=(0, 1, 3, 4)).nonzero()[:, 0]
    assert int(frames.max() - frames.min()) + 1 == span
    assert span < FRAMES - 2 * (VISIBLE - 1)  # from the leaving object's last frame to the entering one's first


@pytest.mark.parametrize("subsample", [False, True])
def test_the_row_is_that_of_the_block(subsample: bool) -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(6, NonLocalConfig(subsample=subsample), dims=3).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 6, 3, 4, 6, dtype=torch.float64)
    row = block.attend(x, [(2, 1, 4)]).hops[0].rows[:, 0]  # b t h w
    expected = block.aggregate(x).unflatten(2, (3, 4, 6))[:, :, 2, 1, 4]
    torch.testing.assert_close(torch.einsum("bm,bdm->bd", row.flatten(1), block.values(x)), expected)


def test_the_demo_writes_its_runs_and_then_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NUM_TEST", 30)
    monkeypatch.setattr(demo, "BATCH", 4)
    results = demo.video_demo(tmp_path, num_seeds=1, steps=20)
    pairs = {frozenset((pair.a, pair.b)) for pair in results.pairs}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(demo.MODELS, 2)}
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["complete"] is True
    assert written["accuracy"] == {name: results.accuracy(name) for name in demo.MODELS}
    assert all(0 <= value <= 1 for values in written["accuracy"].values() for value in values)
    assert not (tmp_path / demo.PICTURE).exists()
    with Image.open(io.BytesIO(demo.attention_picture(tmp_path))) as picture:
        assert picture.width > 800
    model = video.load(tmp_path / "c2d_non_local-s0.safetensors")
    assert list(model.backbone.non_local) == [demo.BLOCK]
    monkeypatch.setattr(demo, "compare_heads", None)  # a demo that ends before its results leaves no earlier ones
    with pytest.raises(TypeError):
        demo.video_demo(tmp_path, num_seeds=1, steps=2)
    assert not (tmp_path / "results.json").exists()
