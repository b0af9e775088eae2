"""`segnl video-demo`: C2D, I3D, and C2D with non-local blocks on a task of far moments and places (docs/video.md)."""

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.core.files import ensure_writable, write_atomic
from segnl.core.outputs import json_file, require_own
from segnl.core.progress import Progress
from segnl.metrics.statistics.comparison import Comparison, RunCounts, compare_heads
from segnl.models.blocks.non_local import NonLocalConfig
from segnl.models.initialisation import initialise
from segnl.video.classifier import VideoClassifier, VideoConfig, load, save
from segnl.video.clips import Clips, make_clips
from segnl.video.resnet3d import ResNet3dConfig

BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 5e-3, 1e-4
STEPS, NUM_TEST = 400, 500
PICTURE = "attention.png"
BLOCK = "layer2_0"
"""The non-local block whose attention is shown."""


def model_config(name: str) -> VideoConfig:
    """Returns the settings of `c2d`, `i3d` or `c2d_non_local`: one residual block a layer, 16 frames kept to the end.

    I3D's kernels over time span 11 frames, fewer than the 12 from the last frame of the leaving object to the first of
    the entering one.
    """
    is_c2d = name.startswith("c2d")
    backbone = ResNet3dConfig(
        blocks=(1, 1, 1, 1),
        base_channels=8,
        stem_kernel=(1 if is_c2d else 5, 7, 7),
        stem_strides=(1, 4, 4),
        has_pool=False,
        has_time_pool=False,
        strides=(1, 1, 2, 2),
        inflated="none" if is_c2d else "published",
        zero_init_residual=False,
        non_local={"layer2": (0,)} if name == "c2d_non_local" else None,
        non_local_block=NonLocalConfig(),
    )
    return VideoConfig(backbone=backbone, num_classes=2, dropout=0.0)


MODELS = ("c2d", "i3d", "c2d_non_local")


@dataclass(frozen=True)
class DemoResults:
    """Correct answers of every run on the test clips, and what the differences between models are worth."""

    runs: dict[str, list[RunCounts]]
    pairs: list[Comparison]

    def accuracy(self, name: str) -> list[float]:
        """Returns the share of correct answers of each seed."""
        return [float(run.intersection.mean()) for run in self.runs[name]]


def video_demo(out: Path, *, num_seeds: int = 3, steps: int = STEPS) -> DemoResults:
    """Trains every model with every seed on generated clips, and writes weights and results.json.

    Runs of one seed see the same clips in the same order, and share the initial values of parameters of the same name
    and shape.
    """
    weights = {(name, seed): out / f"{name}-s{seed}.safetensors" for seed in range(num_seeds) for name in MODELS}
    for path in (*weights.values(), out / "results.json", out / PICTURE):
        require_own(path, "video-demo", option="--out")
    ensure_writable(out)
    for name in ("results.json", PICTURE):  # of earlier models
        (out / name).unlink(missing_ok=True)
    test = make_clips(NUM_TEST, "test")
    runs: dict[str, list[RunCounts]] = {name: [] for name in MODELS}
    for seed in range(num_seeds):
        for name in MODELS:
            model = _train(name, seed, steps)
            save(model, weights[name, seed], command="video-demo")
            correct = (_answers(model, test) == torch.from_numpy(test.label)).long().numpy()[:, None]
            runs[name].append(RunCounts(correct, np.ones_like(correct), seed))
    results = DemoResults(runs, compare_heads(runs))
    record = {
        "accuracy": {name: results.accuracy(name) for name in MODELS},
        "differences": [asdict(pair) for pair in results.pairs],
        "steps": steps,
        "batch_size": BATCH,
        "test_clips": NUM_TEST,
        "complete": True,
    }
    write_atomic(out / "results.json", json_file(record, "video-demo"))
    return results


def _train(name: str, seed: int, steps: int) -> VideoClassifier:
    model = VideoClassifier(model_config(name))
    initialise(model, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    mean_loss = 0.0
    with Progress(f"{name}, seed {seed}", steps) as progress:
        for step in range(steps):
            clips = make_clips(BATCH, seed, "train", step)
            loss = F.cross_entropy(model(torch.from_numpy(clips.frames)), torch.from_numpy(clips.label))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            mean_loss += 0.05 * (loss.item() - mean_loss) if step else loss.item()
            progress.advance(f"loss {mean_loss:.3f}")
    return model.eval()


@torch.no_grad()
def _answers(model: VideoClassifier, clips: Clips) -> Tensor:
    batches = torch.from_numpy(clips.frames).split(100)
    return torch.cat([model(batch).argmax(dim=1) for batch in batches])


@torch.no_grad()
def attention_of(model: VideoClassifier, clip: Tensor, position: tuple[int, int, int]) -> Tensor:
    """Returns the weights `t h w` of all positions for `position` (frame, row, column) of the map of block BLOCK.

    clip: u8 `3 t H W`. The weights of the embedded gaussian sum to 1.
    """
    block = model.backbone.non_local[BLOCK]
    inputs: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        model(clip[None])
    finally:
        handle.remove()
    (hop,) = block.attend(inputs[0], [position]).hops  # type: ignore[operator]
    return hop.rows[0, 0]


def attention_picture(out: Path) -> bytes:
    """Draws what the entering object attends to in the first model with blocks, whose weights lie in `out`.

    For the first clip of each class: frames above, weights below. Returns a PNG.
    """
    from matplotlib.figure import Figure

    model, clips = load(out / "c2d_non_local-s0.safetensors"), make_clips(NUM_TEST, "test")
    chosen = [int(np.flatnonzero(clips.label == label)[0]) for label in (1, 0)]
    num_frames, side_px = clips.frames.shape[2], clips.frames.shape[-1]
    figure = Figure(figsize=(num_frames * 0.8, 3.9))
    axes = figure.subplots(4, num_frames, squeeze=False)
    for row, index in enumerate(chosen):
        clip = torch.from_numpy(clips.frames[index])
        pixel = clips.centres[index, 1, 1]
        frame = num_frames - clips.centres.shape[2] + 1
        cells = 4  # rows and columns of the block's map
        position = (frame, *(int(value) * cells // side_px for value in pixel))
        weights = attention_of(model, clip, position).numpy()
        answer = "same colour" if int(model(clip[None]).argmax()) else "another colour"
        for time in range(num_frames):
            above, below = axes[2 * row, time], axes[2 * row + 1, time]
            above.imshow(clips.frames[index, :, time].transpose(1, 2, 0))
            below.imshow(weights[time], cmap="magma", vmin=0, vmax=weights.max())
            for panel in (above, below):
                panel.set_xticks([])
                panel.set_yticks([])
        axes[2 * row, frame].plot(pixel[1], pixel[0], "w+", markersize=9, markeredgewidth=2)
        actual = "same colour" if clips.label[index] else "another colour"
        figure.text(0.01, 0.975 - 0.455 * row, f"{actual}; the model says: {answer}", fontsize=9, va="top")
    note = "Below each clip: what the pixel marked + attends to, over every position of every frame."
    figure.text(0.01, 0.02, note, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.1, top=0.9, wspace=0.05, hspace=0.45)
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    return file.getvalue()
