from dataclasses import replace

import torch
from torch import nn

from segnl.data.sample import Batch
from segnl.training.run_hashes import batch_hash, initial_hashes, module_hashes


def batch():
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 21, 33), generator=noise, dtype=torch.uint8)
    return Batch(image, torch.randint(0, 3, (2, 21, 33), generator=noise), ["a", "b"])


def test_a_flipped_shifted_recoloured_reordered_or_renamed_batch_has_another_hash():
    original = batch()
    changed = [
        replace(original, image=original.image.flip(-1)),
        replace(original, image=original.image.roll(1, -1)),
        replace(original, image=original.image ^ 1),
        replace(original, image=original.image.flip(0), label=original.label.flip(0)),
        replace(original, label=original.label.roll(1, -2)),
        replace(original, sample_ids=["a", "c"]),
        replace(original, image=original.image[..., :-1], label=original.label[..., :-1]),
    ]
    assert batch_hash(original) == batch_hash(batch())
    assert len({batch_hash(version) for version in [original, *changed]}) == 1 + len(changed)


def test_weights_are_hashed_one_by_one_and_by_top_module():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.BatchNorm1d(3)})
    hashes = initial_hashes(model)
    assert {"backbone.weight 3x2", "backbone.bias 3", "head.num_batches_tracked scalar"} <= hashes.keys()
    before = module_hashes(hashes)
    with torch.no_grad():
        model["head"].running_mean[0] += 1
    after = module_hashes(initial_hashes(model))
    assert before["backbone"] == after["backbone"]
    assert before["head"] != after["head"]
