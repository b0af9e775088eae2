import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig, Pairwise

PAIRWISE: list[Pairwise] = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
SPACES = {1: (13,), 2: (7, 11), 3: (3, 5, 7)}


def awake_block(cfg: NonLocalConfig, dims: int = 2) -> NonLocalBlock:
    torch.manual_seed(0)
    block = NonLocalBlock(6, cfg, dims=dims).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def oracle(block: NonLocalBlock, x: Tensor) -> Tensor:
    """The paper's sum over positions, one asking position after another."""

    def maps(layer: torch.nn.Module) -> Tensor:
        weight, bias = layer.weight.flatten(1), layer.bias
        return torch.einsum("dc,bc...->bd...", weight, x) + bias.view(1, -1, *[1] * block.dims)

    def pooled(map_: Tensor) -> Tensor:
        if not block.subsample:
            return map_.flatten(2)
        kernel = {1: 2, 2: (2, 2), 3: (1, 2, 2)}[block.dims]
        return {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[block.dims](map_, kernel).flatten(2)

    is_plain = block.pairwise == "gaussian"
    theta = (x if is_plain else maps(block.theta)).flatten(2)
    phi = pooled(x if is_plain else maps(block.phi))
    g = pooled(maps(block.g))
    out = torch.empty(x.shape[0], g.shape[1], theta.shape[2], dtype=x.dtype)
    for batch in range(x.shape[0]):
        for i in range(theta.shape[2]):
            if block.pairwise == "concatenation":
                w = block.score.weight.flatten()
                pairs = torch.cat([theta[batch, :, i, None].expand_as(phi[batch]), phi[batch]])
                weights = (w @ pairs).relu() / phi.shape[2]
            else:
                weights = theta[batch, :, i] @ phi[batch] * block.scale
                is_softmax = block.pairwise != "dot_product"
                weights = weights.softmax(0) if is_softmax else weights / phi.shape[2]
            out[batch, :, i] = g[batch] @ weights
    y = (block.w_z.weight.flatten(1) @ out).unflatten(2, x.shape[2:])
    return x + block.norm(y)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_block_equals_the_sum_over_positions(pairwise: Pairwise, subsample: bool, dims: int) -> None:
    block = awake_block(NonLocalConfig(pairwise=pairwise, subsample=subsample), dims)
    x = torch.randn(2, 6, *SPACES[dims], dtype=torch.float64)
    torch.testing.assert_close(block(x), oracle(block, x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_new_block_is_the_identity(pairwise: Pairwise, has_norm: bool, dims: int) -> None:
    block = NonLocalBlock(6, NonLocalConfig(pairwise=pairwise), dims=dims, has_norm=has_norm)
    x = torch.randn(2, 6, *SPACES[dims])
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_gradients_equal_those_of_the_formula(
    pairwise: Pairwise, subsample: bool, b: int, layout: torch.memory_format
) -> None:
    block = awake_block(NonLocalConfig(pairwise=pairwise, subsample=subsample))
    x = torch.randn(b, 6, 7, 11, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    cotangent = torch.randn_like(x)
    wanted = (x, *block.parameters())
    ours = torch.autograd.grad((block(x) * cotangent).sum(), wanted)
    expected = torch.autograd.grad((oracle(block, x) * cotangent).sum(), wanted)
    torch.testing.assert_close(ours, expected)


def test_the_result_has_the_memory_format_of_its_input() -> None:
    block, x = awake_block(NonLocalConfig()), torch.randn(2, 6, 7, 11, dtype=torch.float64)
    assert block(x).is_contiguous()
    last = x.to(memory_format=torch.channels_last)
    assert block(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(block(last), block(x))


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("b", [1, 2])
def test_a_block_compiles_in_one_graph(pairwise: Pairwise, b: int) -> None:
    block = awake_block(NonLocalConfig(pairwise=pairwise))
    x = torch.randn(b, 6, 7, 11, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, block(x))
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), x)[0] for y in (compiled, block(x))))


def test_only_the_embedded_gaussian_is_scaled() -> None:
    assert NonLocalBlock(8, NonLocalConfig()).scale == 0.5
    assert NonLocalBlock(8, NonLocalConfig(use_scale=False)).scale == 1.0
    assert NonLocalBlock(8, NonLocalConfig(pairwise="gaussian")).scale == 1.0


def test_a_map_of_one_row_can_be_subsampled() -> None:
    block = awake_block(NonLocalConfig(subsample=True))
    x = torch.randn(1, 6, 1, 5, dtype=torch.float64)
    assert block(x).shape == x.shape


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1, 2 or 3"):
        NonLocalBlock(4, NonLocalConfig(), dims=4)
    with pytest.raises(ValueError, match="2 more axes"):
        NonLocalBlock(4, NonLocalConfig())(torch.randn(2, 4, 7))


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_across_frames_the_first_frame_attends_to_all_positions_of_all_frames(pairwise, subsample) -> None:
    """The oracle loops over the positions of a clip `b c t h w`, with the same weights."""
    cfg = NonLocalConfig(pairwise=pairwise, subsample=subsample)
    block, of_clips = awake_block(cfg), awake_block(cfg, dims=3)
    of_clips.load_state_dict(
        {name: values.view(of_clips.state_dict()[name].shape) for name, values in block.state_dict().items()}
    )
    clip = torch.randn(2, 3, 6, 5, 7, dtype=torch.float64)  # b t c h w
    torch.testing.assert_close(block(clip.flatten(0, 1), 3), oracle(of_clips, clip.transpose(1, 2))[:, :, 0])
