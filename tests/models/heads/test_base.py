import pytest
import torch

from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput
from segnl.ops.resize import resize


def head_of(in_stages: tuple[int, ...]) -> ContextHead:
    return ContextHead(HeadConfig(name="any", in_stages=in_stages), (2, 3, 4, 5), 7)


def stages() -> list[torch.Tensor]:
    return [torch.randn(2, c, h, w) for c, h, w in ((2, 13, 21), (3, 7, 11), (4, 7, 11), (5, 7, 11))]


def test_the_default_input_is_the_last_stage() -> None:
    maps = stages()
    head = ContextHead(HeadConfig(name="any"), (2, 3, 4, 5), 7)
    assert head.concat_stages(maps) is maps[3]
    assert head.in_channels == 5


@pytest.mark.parametrize("align_corners", [False, True])
def test_several_stages_are_resized_to_the_first_ones_size(align_corners: bool) -> None:
    maps = stages()
    head = head_of((0, 3))
    head.align_corners = align_corners
    expected = torch.cat([maps[0], resize(maps[3], (13, 21), align_corners=align_corners)], dim=1)
    assert torch.equal(head.concat_stages(maps), expected)
    assert head.in_channels == 7


def test_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in_stages: 4; expected 0 \(c2\) to 3"):
        head_of((4,))


def test_a_head_has_no_auxiliary_logits_by_default() -> None:
    assert HeadOutput(torch.zeros(1)).aux_logits == {}


def test_attend_refuses_a_head_without_attention() -> None:
    with pytest.raises(ValueError, match="has no attention between positions; ann, da, dnl, gc"):
        head_of((3,)).attend(stages(), (0, 0))
