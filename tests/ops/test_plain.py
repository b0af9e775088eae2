"""The textbook forms against a position that asks all others, one after another, in float64."""

import torch

from segnl.ops import plain


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_pairwise_forms_match_a_loop_over_pairs() -> None:
    theta, phi, g = draw(2, 4, 20, seed=0), draw(2, 4, 13, seed=1), draw(2, 3, 13, seed=2)
    softmax = plain.plain_softmax_context(theta, phi, g, 0.7)
    dot_product = plain.plain_dot_product_context(theta, phi, g)
    concatenation = plain.plain_concatenation_context(theta[:, 0], phi[:, 0], g)
    for b in range(2):
        for i in range(20):
            scores = torch.stack([torch.dot(theta[b, :, i], phi[b, :, j]) for j in range(13)])
            weights = (0.7 * scores).exp() / (0.7 * scores).exp().sum()
            torch.testing.assert_close(softmax[b, :, i], g[b] @ weights)
            torch.testing.assert_close(dot_product[b, :, i], g[b] @ scores / 13)
            pairs = torch.stack([max(theta[b, 0, i] + phi[b, 0, j], torch.zeros(()).double()) for j in range(13)])
            torch.testing.assert_close(concatenation[b, :, i], g[b] @ pairs / 13)


def test_criss_cross_matches_a_loop_over_neighbours() -> None:
    h, w = 4, 6
    query, key, value = draw(1, 3, h, w, seed=0), draw(1, 3, h, w, seed=1), draw(1, 2, h, w, seed=2)
    context = plain.plain_criss_cross_context(query, key, value)
    for row in range(h):
        for column in range(w):
            near = sorted({(row, x) for x in range(w)} | {(y, column) for y in range(h)})
            scores = torch.stack([torch.dot(query[0, :, row, column], key[0, :, y, x]) for y, x in near])
            values = torch.stack([value[0, :, y, x] for y, x in near], dim=1)
            torch.testing.assert_close(context[0, :, row, column], values @ scores.softmax(dim=0))
