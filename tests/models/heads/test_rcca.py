import torch

from segnl.models.heads.rcca import RCCAConfig, RCCAHead


def test_a_checkpoint_of_two_hops_may_be_evaluated_with_three() -> None:
    two = RCCAHead(RCCAConfig(channels=8, gamma_init=0.5), (0, 0, 0, 6), 3).eval()
    three = RCCAHead(RCCAConfig(channels=8, gamma_init=0.5, recurrence=3), (0, 0, 0, 6), 3).eval()
    three.load_state_dict(two.state_dict())
    stages = [None, None, None, torch.randn(1, 6, 7, 11)]
    assert not torch.equal(two(stages).context, three(stages).context)
    two.shell.context.recurrence = 3
    assert torch.equal(two(stages).context, three(stages).context)


def test_the_published_head_has_24_million_parameters() -> None:
    head = RCCAHead(RCCAConfig(), (256, 512, 1024, 2048), 19)
    classifier = 512 * 19 + 19
    assert round((sum(each.numel() for each in head.parameters()) + classifier) / 1e6, 2) == 23.93
