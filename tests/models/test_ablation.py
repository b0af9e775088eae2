import pytest
import torch

from segnl.core.errors import ConfigError
from segnl.models import ablation as module
from segnl.models.ablation import Ablation, ablated, parse_ablation, permutation
from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.models.find import HEADS
from segnl.models.heads.dnl import DisentangledBlock, DisentangledConfig

PAIRWISE = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}  # float64, sums over 77 positions in another order


def with_random_parameters(block):
    """The block in evaluation mode with random parameters, so that attention acts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return block.double().eval()


def criss_cross(recurrence=2):
    return with_random_parameters(CrissCrossBlock(16, CrissCrossConfig(recurrence=recurrence)))


def non_local(pairwise="embedded_gaussian", *, subsample=False, has_norm=True):
    return with_random_parameters(
        NonLocalBlock(16, NonLocalConfig(pairwise=pairwise, subsample=subsample), has_norm=has_norm)
    )


def disentangled():
    return with_random_parameters(DisentangledBlock(16, DisentangledConfig(temperature=1.0)))


BLOCKS = {
    "criss_cross": criss_cross,
    "disentangled": disentangled,
    **{name: lambda name=name: non_local(name) for name in PAIRWISE},
}


@pytest.fixture
def x():
    return torch.randn(2, 16, 7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@torch.no_grad()
def under(block, text, x):
    with ablated(block, parse_ablation(text)):
        return block(x)


def test_gamma_0_makes_criss_cross_the_identity_bit_for_bit(x):
    assert torch.equal(under(criss_cross(), "gamma0", x), x)


def test_rcca_with_gamma_0_is_fcn_bit_for_bit():
    """Both have the same layout and weights."""
    stages = [None, None, None, torch.randn(1, 24, 7, 11, generator=torch.Generator().manual_seed(0))]
    heads = [HEADS.find(name) for name in ("rcca", "fcn")]
    rcca, fcn = (with_random_parameters(head(head.Config(channels=16), (1, 1, 1, 24), 3)).float() for head in heads)
    fcn.load_state_dict({name: rcca.state_dict()[name] for name in fcn.state_dict()})
    with torch.no_grad():
        expected = fcn(stages).context
        assert not torch.equal(rcca(stages).context, expected)
        with ablated(rcca, Ablation("gamma0")):
            assert torch.equal(rcca(stages).context, expected)


@pytest.mark.parametrize("has_norm", [True, False])
def test_gamma_0_reduces_non_local_to_a_constant_per_channel(x, has_norm):
    block = non_local(has_norm=has_norm)
    bias = block.norm.bias if has_norm else block.w_z.bias
    torch.testing.assert_close(under(block, "gamma0", x), x + bias[:, None, None], **ROUNDING)


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_window_as_large_as_the_map_changes_nothing(x, name):
    block = BLOCKS[name]()
    for radius in (10, 11, 500):
        torch.testing.assert_close(under(block, f"window={radius}", x), block(x), **ROUNDING)


@torch.no_grad()
def test_a_window_of_radius_0_attends_to_itself_alone(x):
    block = criss_cross(recurrence=1)
    expected = x + block.gamma.scale * block.value_conv(x)
    torch.testing.assert_close(under(block, "window=0", x), expected, **ROUNDING)
    block = non_local()
    with ablated(block, Ablation("window", 0)):
        torch.testing.assert_close(block.aggregate(x), block.values(x), **ROUNDING)


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_window_equals_a_loop_over_the_positions_inside(x, name, monkeypatch):
    monkeypatch.setattr(module, "MAX_WINDOW_SCORES", 3 * 11 * 11 * 3)  # bands of some rows, the last one narrower
    radius, (h, w) = 1, x.shape[2:]
    block = criss_cross(recurrence=1) if name == "criss_cross" else BLOCKS[name]()
    values = (block.value_conv(x) if name == "criss_cross" else block.values(x)).flatten(2)
    with ablated(block, Ablation("window", radius)):
        context = block.aggregate(x).flatten(2)
    for position in range(h * w):
        row = block.attend(x, [divmod(position, w)]).hops[0].rows[:, 0].flatten(1)  # b n
        near = torch.tensor(
            [max(abs(i // w - position // w), abs(i % w - position % w)) <= radius for i in range(h * w)]
        )
        weights = torch.where(near, row, 0.0)
        is_mean = name in ("dot_product", "concatenation")
        weights = weights * (h * w / int(near.sum())) if is_mean else weights / weights.sum(dim=1, keepdim=True)
        expected = torch.einsum("bn,bdn->bd", weights, values)
        torch.testing.assert_close(context[:, :, position], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_shuffling_changes_the_output_unless_all_keys_are_equal(x, name):
    block = BLOCKS[name]()
    assert not torch.allclose(under(block, "shuffled", x), block(x))
    torch.testing.assert_close(under(block, "shuffled", x), under(block, "shuffled", x), rtol=0, atol=0)
    if name == "gaussian":
        x = x[:, :, :1, :1].expand_as(x).contiguous()  # its keys are x itself
    else:
        keys = block.key_conv if name == "criss_cross" else block.phi
        keys.weight.zero_()
    torch.testing.assert_close(under(block, "shuffled", x), block(x), **ROUNDING)


@torch.no_grad()
def test_shuffling_permutes_keys_and_not_values(x):
    block = non_local()
    order = permutation(77, x.device)
    theta, phi, _ = block.embeddings(x)
    weights = (theta.transpose(1, 2) @ phi[:, :, order] * block.scale).softmax(dim=-1)
    with ablated(block, Ablation("shuffled")):
        context = block.aggregate(x)
    torch.testing.assert_close(context, block.values(x) @ weights.transpose(1, 2), **ROUNDING)
    assert sorted(order.tolist()) == list(range(77))


@pytest.mark.parametrize("text", ["gamma0", "shuffled", "window=2"])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_the_block_is_restored_even_after_an_error(x, name, text):
    block = BLOCKS[name]()
    before = block(x)
    with pytest.raises(RuntimeError, match="planted"), ablated(block, parse_ablation(text)):
        raise RuntimeError("planted")
    assert torch.equal(block(x), before)
    assert "aggregate" not in vars(block)


@torch.no_grad()
def test_pooled_keys_can_be_shuffled_but_not_windowed(x):
    block = non_local(subsample=True)
    assert not torch.allclose(under(block, "shuffled", x), block(x))
    with pytest.raises(ConfigError, match="window=1: a window needs a map of keys that is not pooled"):
        under(block, "window=1", x)


@pytest.mark.parametrize("name", BLOCKS)
def test_it_runs_under_autocast_in_bfloat16(x, name):
    block = BLOCKS[name]().float()
    for text in ("gamma0", "shuffled", "window=2"):
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), ablated(block, parse_ablation(text)):
            assert block(x.float()).isfinite().all()


def test_a_head_without_attention_is_refused():
    with (
        pytest.raises(ConfigError, match="only dnl, non_local and rcca have ablations"),
        ablated(torch.nn.Conv2d(1, 1, 1), Ablation("gamma0")),
    ):
        pass


@pytest.mark.parametrize(
    "text", ["window", "window=", "window=-1", "window=x", "window=" + "9" * 5000, "gamma0=1", "shuffled=2", "off"]
)
def test_an_unknown_ablation_is_refused(text):
    with pytest.raises(ConfigError, match="unknown; expected gamma0, shuffled or window=R"):
        parse_ablation(text)


def test_names_slugs_and_descriptions():
    for text in ("gamma0", "shuffled", "window=0", "window=4"):
        assert parse_ablation(text).name == text
    assert parse_ablation("window=4").slug == "window4"
    assert parse_ablation("window=1").meaning == "attention within 1 cell of the map only"
    assert parse_ablation("window=0").meaning == "attention to oneself only"


@pytest.mark.parametrize("hw", [(97, 97), (128, 256), (65, 33), (1, 11)])
@pytest.mark.parametrize("radius", [0, 1, 4, 40, 300])
def test_a_band_has_at_most_the_allowed_scores_or_one_row(hw, radius):
    h, w = hw
    rows = module._band_rows(h, w, radius)
    assert rows >= 1
    num_scores = rows * w * min(h, rows + 2 * radius) * w
    assert num_scores <= module.MAX_WINDOW_SCORES or rows == 1
    num_with_another_row = (rows + 1) * w * min(h, rows + 1 + 2 * radius) * w
    assert num_with_another_row > 0.9 * module.MAX_WINDOW_SCORES or rows >= h  # not much less either
