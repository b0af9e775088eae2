import torch

from segnl.convert.imported_model import ImportedHead, ImportedModel
from segnl.models.heads.fcn import FCNConfig, FCNHead
from segnl.models.segmenter import BatchNormConfig, Segmenter, model_config
from segnl.models.weights.strict import ImportReport
from segnl.ops.resize import resize

TREE = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "head": {"name": "fcn", "channels": 4}}


def test_an_imported_model_gives_logits_at_the_images_size() -> None:
    cfg = model_config({**TREE, "align_corners": True}, file="test")
    segmenter = Segmenter(cfg, 3).eval()
    model = ImportedModel(cfg, segmenter, ImportReport())
    image = torch.randn(1, 3, 41, 57)
    expected = resize(segmenter(image).main, (41, 57), align_corners=True)
    torch.testing.assert_close(model(image), expected)


def test_an_import_is_what_a_checkpoint_of_ours_needs() -> None:
    cfg = model_config(TREE, file="test")
    imported = ImportedModel(cfg, Segmenter(cfg, 3), ImportReport(num_used=5)).as_import()
    assert imported.model["input"]["order"] == "rgb"
    assert imported.model["align_corners"] is False
    Segmenter(model_config(imported.model, file="test"), imported.num_classes).load_state_dict(imported.state)
    assert imported.report.num_used == 5


def test_an_imported_head_takes_stages() -> None:
    head = FCNHead(FCNConfig(channels=4), (0, 0, 0, 6), 3)
    model = ImportedHead(head, 3, 0.1, BatchNormConfig(eps=0.5), align_corners=True).eval()
    assert model([None, None, None, torch.randn(2, 6, 7, 11)]).shape == (2, 3, 7, 11)
    assert model.head.shell.convs[0].norm.eps == 0.5
    assert model.head.align_corners
