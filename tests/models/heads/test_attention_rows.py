from typing import Any

import pytest
import torch
from torch import Tensor

from segnl.models.find import HEADS
from segnl.models.heads.base import ContextHead, attention_rows

PIXELS = [(3, 9), (6, 0)]
ROWS, COLUMNS = [3, 6], [9, 0]


def awake_head(name: str, **settings: Any) -> ContextHead:
    torch.manual_seed(0)
    kind = HEADS.find(name)
    head = kind(kind.Config(channels=16, **settings), (0, 0, 0, 6), 3).eval().double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def stages() -> list[Any]:
    torch.manual_seed(1)
    return [None, None, None, torch.randn(2, 6, 7, 11, dtype=torch.float64)]


def entering(head: ContextHead) -> Tensor:
    return head.shell.before_context(head.concat_stages(stages()))


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
@torch.no_grad()
def test_a_non_local_row_times_its_values_is_the_aggregate(pairwise: str, subsample: bool) -> None:
    head = awake_head("non_local", pairwise=pairwise, subsample=subsample)
    (hop,) = attention_rows(head, stages(), PIXELS).hops
    aggregate = head.shell.context.aggregate(entering(head)).unflatten(2, (7, 11))
    torch.testing.assert_close(hop.aggregate(), aggregate[:, :, ROWS, COLUMNS])
    assert hop.rows.shape == ((2, 2, 3, 5) if subsample else (2, 2, 7, 11))
    is_softmax = pairwise in ("embedded_gaussian", "gaussian")
    assert hop.is_signed is not is_softmax
    if is_softmax:
        torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("recurrence", [1, 2, 3])
@torch.no_grad()
def test_each_criss_cross_hop_gives_its_own_aggregate(recurrence: int) -> None:
    head = awake_head("rcca", recurrence=recurrence)
    rows = attention_rows(head, stages(), PIXELS)
    x = entering(head)
    assert len(rows.hops) == recurrence
    for hop in rows.hops:
        aggregate = head.shell.context.aggregate(x)
        torch.testing.assert_close(hop.aggregate(), aggregate[:, :, ROWS, COLUMNS])
        torch.testing.assert_close(hop.rows.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))
        x = head.shell.context.hop(x)


def dense_attention(head: ContextHead, x: Tensor) -> Tensor:
    """The n x n matrix of one hop, pixel by pixel from the paper: its row and column, itself once."""
    block = head.shell.context
    query, key = block.query_conv(x), block.key_conv(x)
    b, _, h, w = x.shape
    matrix = torch.zeros(b, h * w, h * w, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            cross = [(i, other) for other in range(w)] + [(other, j) for other in range(h) if other != i]
            scores = torch.stack([(query[:, :, i, j] * key[:, :, r, c]).sum(1) for r, c in cross], dim=1)
            for (r, c), weight in zip(cross, scores.softmax(dim=1).unbind(1), strict=True):
                matrix[:, i * w + j, r * w + c] = weight
    return matrix


@torch.no_grad()
def test_routing_equals_the_product_of_dense_attention_matrices() -> None:
    head = awake_head("rcca", recurrence=3)
    rows = attention_rows(head, stages(), PIXELS)
    x, product = entering(head), torch.eye(77, dtype=torch.float64)
    for _ in range(3):
        product = dense_attention(head, x) @ product  # A_3 A_2 A_1
        x = head.shell.context.hop(x)
    torch.testing.assert_close(rows.routing, product[:, [3 * 11 + 9, 6 * 11]].unflatten(2, (7, 11)))
    torch.testing.assert_close(rows.routing.sum(dim=(2, 3)), torch.ones(2, 2, dtype=torch.float64))


def test_one_hop_sees_a_cross_and_two_see_the_whole_map() -> None:
    rows = attention_rows(awake_head("rcca", recurrence=2), stages(), PIXELS)
    assert (rows.hops[0].rows[0, 0] > 0).sum() == 7 + 11 - 1
    assert (rows.routing[0, 0] > 0).all()


@pytest.mark.parametrize(
    ("name", "pixel", "message"),
    [
        ("rcca", (7, 0), "7 x 11"),
        ("rcca", (0, -1), "7 x 11"),
        ("rcca", (1.5, 2), "two integers"),
        ("rcca", (1, 2, 3), "two integers"),
        ("fcn", (0, 0), "FCNHead has no attention between positions"),
    ],
)
def test_bad_pixels_and_heads_without_attention_are_refused(name: str, pixel: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_rows(awake_head(name), stages(), [PIXELS[0], pixel])


def test_a_head_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="call eval"):
        attention_rows(awake_head("rcca").train(), stages(), PIXELS)


def test_no_pixel_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        attention_rows(awake_head("rcca"), stages(), [])


def test_heads_say_whether_they_attend() -> None:
    attending = {"ann", "da", "dnl", "gc", "isa", "non_local", "rcca"}
    for name in HEADS.names():
        kind = HEADS.find(name)
        with torch.device("meta"):
            head = kind(kind.Config(), (16, 16, 16, 16), 3)
        assert head.attends is (name in attending)
