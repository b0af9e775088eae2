"""Cases of benchmarks/denoise.py: non-local means by segnl, OpenCV and scikit-image at equal settings."""

from collections.abc import Callable

import cv2
import numpy as np
from timing import Case

PATCH, SEARCH = 7, 21


def noisy_image(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its noisy copy, u8 `H W 3`."""
    clean = cv2.cvtColor(cv2.imread(case["image"]), cv2.COLOR_BGR2RGB)
    if "hw" in case:
        clean = cv2.resize(clean, case["hw"][::-1], interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).normal(0, case["sigma"], clean.shape)
    return clean, (clean + noise).round().clip(0, 255).astype(np.uint8)


def filtered_by(contestant: str, case: Case) -> Callable[[], np.ndarray]:
    """A call that filters the noisy image, strength = the noise's standard deviation; u8 `H W 3`."""
    _, noisy = noisy_image(case)
    sigma = float(case["sigma"])
    if contestant == "opencv":
        cv2.setNumThreads(1)
        return lambda: cv2.fastNlMeansDenoising(noisy, None, sigma, PATCH, SEARCH)
    if contestant == "scikit-image":
        from skimage.restoration import denoise_nl_means

        values = noisy / np.float32(255)
        settings = {"patch_size": PATCH, "patch_distance": SEARCH // 2, "h": sigma / 255, "channel_axis": -1}
        return lambda: _as_pixels(denoise_nl_means(values, fast_mode=True, **settings))
    from segnl.data.denoise import DenoiseSettings

    variants = {"segnl gaussian": {"kernel": "gaussian"}, "segnl max": {"centre": "max"}}
    settings = DenoiseSettings(sigma / 255, PATCH, SEARCH, **variants.get(contestant, {}))
    return lambda: settings.apply(noisy)


def build(contestant: str, case: Case) -> Callable[[], object]:
    """For timing.py."""
    return filtered_by(contestant, case)


def psnr(contestant: str, case: Case) -> float:
    """Peak signal-to-noise ratio in dB; "noisy": of the image before the filter."""
    clean, noisy = noisy_image(case)
    result = noisy if contestant == "noisy" else filtered_by(contestant, case)()
    return float(10 * np.log10(255**2 / np.mean((result.astype(float) - clean) ** 2)))


def _as_pixels(values: np.ndarray) -> np.ndarray:
    return (values * 255).round().clip(0, 255).astype(np.uint8)
