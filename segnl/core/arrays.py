"""Short names for the array types of signatures. Imports no torch."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""Images, colours and train ids."""
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.integer]
"""Class or instance ids of any integer type."""
