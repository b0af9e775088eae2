from segnl.models.heads.non_local import NonLocalHead, NonLocalHeadConfig


def test_the_pairwise_function_reaches_the_block() -> None:
    head = NonLocalHead(NonLocalHeadConfig(channels=8, pairwise="concatenation", reduction=4), (0, 0, 0, 6), 3)
    assert head.shell.context.pairwise == "concatenation"
    assert head.shell.context.score.weight.shape == (1, 4, 1, 1)


def test_the_published_head_has_24_million_parameters() -> None:
    head = NonLocalHead(NonLocalHeadConfig(), (256, 512, 1024, 2048), 19)
    classifier = 512 * 19 + 19
    assert round((sum(each.numel() for each in head.parameters()) + classifier) / 1e6, 2) == 24.13
