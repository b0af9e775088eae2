import numpy as np
import pytest

from segnl.data.sample import Sample, collate


@pytest.mark.parametrize("bands", [1, 3, 4, 7])
def test_a_batch_has_the_bands_first(bands):
    draws = np.random.default_rng(0)
    samples = [
        Sample(
            draws.integers(0, 256, (7, 11, bands), dtype=np.uint8),
            draws.integers(0, 3, (7, 11), dtype=np.uint8),
            str(i),
        )
        for i in range(2)
    ]
    samples[1] = samples[1]._replace(image=samples[1].image[:, ::-1])  # flipped, not contiguous
    batch = collate(samples)
    assert batch.image.is_contiguous()
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(batch.image[i], np.moveaxis(sample.image, -1, 0))
        np.testing.assert_array_equal(batch.label[i], sample.label)
    assert batch.sample_ids == ["0", "1"]
