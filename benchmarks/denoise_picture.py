"""The picture of docs/non-local-means.md: a row of weights of the filter, and of a non-local block that is the filter.

./run.sh bench denoise_picture [--image FILE] [--out docs/images/non_local_means_rows.png]

The block is an embedded gaussian on the features [patch, |patch|^2, 1], with theta = [2 patch, 1] / strength^2,
phi = [patch, -|patch|^2] and g = the patch's centre. Prints the largest differences of rows and of results.
"""

import argparse
from pathlib import Path

import cv2
import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig
from segnl.ops.non_local_means import non_local_means

ROOT = Path(__file__).resolve().parent.parent

PATCH, STRENGTH, HW, PIXEL = 7, 0.05, (90, 120), (58, 70)


def filter_block(strength: float, patch: int, channels: int) -> NonLocalBlock:
    """A block whose weighted sum is the filter, for features as from `patch_features`."""
    num = channels * patch**2
    block = NonLocalBlock(num + 2, NonLocalConfig(reduction=1, use_scale=False)).double()
    theta, phi, g = (torch.zeros(num + 2, num + 2, dtype=torch.float64) for _ in range(3))
    theta[range(num), range(num)] = 2 / strength**2
    theta[num, num + 1] = 1 / strength**2
    phi[range(num), range(num)] = 1
    phi[num, num] = -1
    for channel in range(channels):
        g[channel, channel * patch**2 + patch**2 // 2] = num**0.5
    with torch.no_grad():
        for layer, matrix in ((block.theta, theta), (block.phi, phi), (block.g, g)):
            layer.weight.copy_(matrix[:, :, None, None])
    return block


def patch_features(image: Tensor, patch: int) -> Tensor:
    """[patch, |patch|^2, 1] at every pixel: image `1 c H W` -> `1 c*patch^2+2 H W`."""
    patches = F.unfold(F.pad(image, [patch // 2] * 4, mode="reflect"), patch) / (image.shape[1] * patch**2) ** 0.5
    features = torch.cat([patches, patches.square().sum(1, keepdim=True), torch.ones_like(patches[:, :1])], dim=1)
    return features.unflatten(2, image.shape[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=ROOT / "data/camvid/images/val/0016E5_08017.jpg")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/non_local_means_rows.png")
    args = parser.parse_args()
    pixels = cv2.cvtColor(cv2.imread(str(args.image)), cv2.COLOR_BGR2RGB)
    pixels = cv2.resize(pixels, HW[::-1], interpolation=cv2.INTER_AREA)
    clean = torch.from_numpy(pixels).movedim(-1, 0)[None].double() / 255
    image = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).double()
    features = patch_features(image, PATCH)
    index = PIXEL[0] * HW[1] + PIXEL[1]
    patches = features[0, :-2].flatten(1)
    distances = (patches - patches[:, index, None]).square().sum(0)
    row = torch.exp(-distances / STRENGTH**2)
    row = (row / row.sum()).unflatten(0, HW)
    with torch.no_grad():
        block = filter_block(STRENGTH, PATCH, 3)
        theta, phi, _ = block.embeddings(features)
        block_row = (theta[0, :, index] @ phi[0]).softmax(0).unflatten(0, HW)
        result = block.aggregate(features)[:, :3].unflatten(2, HW)
    filtered = non_local_means(image, patch=PATCH, strength=STRENGTH)
    print("rows differ by at most", float((row - block_row).abs().max() / row.max()), "of the largest weight")
    print("results differ by at most", float((filtered - result).abs().max()))
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 7))
    pictures = [(image, "with noise"), (filtered, "filtered"), (row, "row of the filter")]
    pictures.append((block_row, "row of the block"))
    for panel, (values, title) in zip(axes.flat, pictures, strict=True):
        if values.dim() == 4:
            panel.imshow(values[0].clamp(0, 1).movedim(0, -1).numpy())
        else:
            # The pixel itself has the largest weight by far.
            panel.imshow((values / values.quantile(0.999)).clamp(max=1).sqrt().numpy(), cmap="magma")
        panel.plot(PIXEL[1], PIXEL[0], "+", color="cyan", markersize=12, markeredgewidth=2)
        panel.set_title(title, fontsize=10)
        panel.axis("off")
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
