import torch
import torch.nn.functional as F

from segnl.models.heads.unet import UNetConfig, UNetHead
from segnl.models.initialisation import initialise

CHANNELS = (4, 6, 8, 10)


def head(**settings) -> UNetHead:
    made = UNetHead(UNetConfig(channels=5, **settings), CHANNELS, 3)
    initialise(made, 0)
    return made.eval()


def stages(h: int = 28, w: int = 44) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, c, -(-h // 2**i), -(-w // 2**i)) for i, c in enumerate(CHANNELS)]


def test_the_decoder_equals_its_steps_by_hand() -> None:
    made, (c2, c3, c4, c5) = head(in_stages=(0, 1, 2, 3)), stages()
    x = made.bottom(c5)
    for level, finer in zip(made.levels, (c4, c3, c2), strict=True):
        up = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
        x = level[1](level[0](torch.cat([up, finer], dim=1)))
    torch.testing.assert_close(made([c2, c3, c4, c5]).context, x)


def test_channels_double_per_level_and_the_context_has_the_finest_size() -> None:
    made = head(in_stages=(0, 1, 2, 3))
    assert [level[0].conv.out_channels for level in made.levels] == [20, 10, 5]
    assert made.bottom.conv.out_channels == 40
    context = made(stages(27, 41)).context  # odd sizes: every level is resized to its own
    assert context.shape == (2, made.out_channels, 27, 41)


def test_unused_stages_may_be_none() -> None:
    _, c3, _, c5 = stages()
    assert head(in_stages=(1, 3))([None, c3, None, c5]).context.shape == (2, 5, *c3.shape[-2:])
