import io

import numpy as np
import pytest
from PIL import Image

from segnl.core.png import png


@pytest.mark.parametrize("shape", [(7, 11), (7, 1), (7, 11, 3), (7, 1, 3), (7, 11, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_is_read_back_exactly(shape, dtype):
    if len(shape) == 3 and dtype == np.uint16:
        pytest.skip("colours have 8 bits")
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
