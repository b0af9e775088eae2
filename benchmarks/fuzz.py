"""Damages each kind of file that segnl reads, and checks that a reader returns a value or raises one of segnl's errors.

./run.sh bench fuzz [--mutations 500] [--seed 0] [--kind KIND]

A mutation is a function of kind, number and seed, so `--kind mask --only 17` repeats one. Each must end within
10 seconds, in one process that may hold 8 GiB of address space. Writes benchmarks/results/torture/fuzz.json; with
--only or --kind, nothing. `make test` runs a few of each kind.
"""

import argparse
import hashlib
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from segnl.convert.mmseg_config import backbone_section, read_config_text
from segnl.convert.mmseg_heads import decode_head
from segnl.core.environment import git_state
from segnl.core.errors import as_segnl_error
from segnl.core.files import write_atomic
from segnl.core.log import printable
from segnl.core.run_log import read_log
from segnl.data.mask_files import find_masks
from segnl.data.reading import read_image, read_label
from segnl.labels.table import ClassTable
from segnl.metrics.scored_counts import ScoredCounts, counts_bytes, load_counts
from segnl.models.weights.checksums import NO_CHECKSUM
from segnl.models.weights.files import read_checkpoint, tensors_in
from segnl.reports.learning_curves import read_curve
from segnl.runs.checkpoint import FORMAT, load_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.runs.run import open_run
from segnl.studies.study import load_study

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "torture" / "fuzz.json"
SECONDS = 10
RECIPE = """\
model:
  backbone: {name: resnet, depth: null, block: basic, blocks: [1, 1, 1, 1], width: 0.125, output_stride: 8}
  head: {name: rcca, channels: 16, recurrence: 2}
  aux: {channels: 8, weight: 0.4}
data: {name: folder, root: data/mine, crop_hw: [33, 41], scale: [0.5, 2.0], ignore_ids: [9], workers: 0}
train: {max_steps: 6, batch_size: 2, save_every: 2, eval_every: null, pictures: false, seed: 3}
optim: {name: sgd, lr: 0.05, momentum: 0.9}
schedule: {name: poly, warmup_steps: 2}
loss: {name: cross_entropy, class_weight: [1.0, 2.0, 0.5]}
eval: {mode: slide, window_hw: [65, 65], stride_hw: [33, 33], scales: [0.75, 1.0], flip: true}
"""
STUDY = """\
base: recipe.yaml
heads:
  fcn: {model: {head: {name: fcn, channels: 16}}}
  rcca: recipe.yaml
seeds: {fcn: [0, 1], rcca: [0, 1, 2]}
varies: [model.head]
overrides: {train: {max_steps: 8}}
ablations: [gamma0, window=4]
"""
PEER = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
shape = (1, 2, 2, 1)
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 1, 2),
                  strides=shape, norm_cfg=norm_cfg, norm_eval=False, style='pytorch', contract_dilation=True),
    decode_head=dict(type='ASPPHead', in_channels=512, in_index=3, channels=64, dilations=(1, 12, 24, 36),
                     dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
"""
TABLE = "index\tname\tr\tg\tb\n0\troad\t128\t64\t128\n1\tsky\t70\t130\t180\n7\ttree\t0\t128\t0\n"
COCO = json.dumps(
    [
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [5, 7], "counts": [3, 12, 20]}},
        {"image_id": 1, "category_id": 2, "segmentation": {"size": [5, 7], "counts": "b0:7"}},
    ]
)
LOG = "".join(
    json.dumps({"step": step, "loss": 1.5 / step, "lr": 0.05, "images_per_s": 3.5}) + "\n" for step in range(1, 9)
) + json.dumps({"event": "eval", "step": 8, "miou": 0.31, "loss": 1.0}) + "\n"  # fmt: skip
IMAGE_ENDS = (".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".jp2", ".avif")
TOKENS = (
    *("null", "true", "[]", "{}", "-1", "0", "1e999", "-1e-999", "9" * 30, "0.5", "nan", ".inf", "'", '"', "{", "]"),
    *(": ", "- ", "!!python/object/apply:os.system", "&a ", "*a", "\0", "\x1b[2J", "\u202e", "ß", "\t", "\n", "#"),
    *("../../x", "/etc/passwd", "name", "os.path", "x" * 5000, "[" * 2000, "$\\frac$"),
)


def mutated_text(text: str, chance: random.Random) -> bytes:
    """Returns `text` with 1 to 4 changes: a span deleted, doubled or replaced, a token put in, numbers replaced."""
    for _ in range(chance.randint(1, 4)):
        i = chance.randrange(len(text) + 1)
        j = min(len(text), i + chance.choice((1, 1, 2, 8, 40)))
        token = chance.choice(TOKENS)
        changes = (text[:i] + text[j:], text[:j] + text[i:], text[:i] + token + text[j:], text[:i] + token + text[i:])
        text = chance.choice((*changes, _number_replaced(text, chance)))
    return text.encode("utf-8", "surrogateescape")


def _number_replaced(text: str, chance: random.Random) -> str:
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    i = chance.choice(places)
    return text[:i] + chance.choice(("-1", "0", "1e308", "99999999999", "0.5", "null", "[]", "'x'")) + text[i + 1 :]


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Returns `data` with 1 to 6 changes: bytes flipped or replaced, spans cut out, doubled or swapped, an end lost."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        i = chance.randrange(max(1, len(out)))
        j = min(len(out), i + chance.choice((1, 2, 4, 16, 200)))
        kind = chance.randrange(5)
        if kind == 0:
            out[i:j] = bytes(chance.randrange(256) for _ in range(j - i))
        elif kind == 1:
            del out[i:j]
        elif kind == 2:
            out[j:j] = out[i:j]
        elif kind == 3:
            out[i : i + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        elif chance.random() < 0.2:
            del out[i:]
    return bytes(out)


def mutate_checkpoint(file: Path, chance: random.Random | None) -> None:
    """Writes a checkpoint with damaged metadata under a right checksum, or with damaged bytes; a whole one without
    `chance`.
    """
    recipe = load_recipe(file.parent / "recipe.yaml").to_dict()
    classes = {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]], "file_ids": [0, 1], "void_id": 255}
    texts = {"step": "6", "recipe": json.dumps(recipe), "classes": json.dumps(classes), "origin": "{}"}
    if chance is not None:
        key = chance.choice(list(texts))
        texts[key] = mutated_text(texts[key], chance).decode("utf-8", "replace")
    data = safetensors.torch.save({"model.x": torch.zeros(3)}, {"format": FORMAT, "seal": NO_CHECKSUM, **texts})
    checksum = hashlib.sha256(data).hexdigest()
    data = data.replace(f'"seal":"{NO_CHECKSUM}"'.encode(), f'"seal":"{checksum}"'.encode(), 1)
    file.write_bytes(data if chance is None or chance.random() < 0.8 else mutated_bytes(data, chance))


Mutate = Callable[[Path, random.Random | None], object]
"""Writes a damaged file; the whole one where the random numbers are None."""


def text_kind(text: str) -> Mutate:
    return lambda file, chance: file.write_bytes(text.encode() if chance is None else mutated_text(text, chance))


def bytes_kind(data: bytes) -> Mutate:
    return lambda file, chance: file.write_bytes(data if chance is None else mutated_bytes(data, chance))


def read_peer(file: Path) -> None:
    model = read_config_text(file.read_text(encoding="utf-8", errors="replace"), "config").get("model")
    if isinstance(model, dict):
        backbone_section(model.get("backbone"), "backbone")
        decode_head(model.get("decode_head"), (0, 1, 2, 3), "decode_head")


def read_weights(file: Path) -> None:
    tensors_in(read_checkpoint(file), str(file))


def read_run_log(file: Path) -> None:
    read_log(file)
    read_curve(file.parent, "run").smooth_loss()


def open_checkpoint_file(file: Path) -> None:
    load_checkpoint(file)
    open_run(file)


def image_bytes(mode: str, suffix: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 3, (17, 23) if mode != "RGB" else (17, 23, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    (image.convert("P") if mode == "P" else image).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


def masks_bytes() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{name: np.arange(12, dtype=np.uint8).reshape(3, 4) for name in ("a", "b")})
    return file.getvalue()


def scored_counts_bytes() -> bytes:
    counts = np.arange(6, dtype=np.int64).reshape(2, 3)
    texts = ("x", "y")
    return counts_bytes(ScoredCounts("masks", texts, ("a", "b", "c"), counts, counts, counts, texts, texts))


def read_masks(file: Path) -> None:
    for mask in find_masks(file).values():
        mask.read()


def pickle_bytes() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}, "meta": {"epoch": 3}}, file)
    return file.getvalue()


def kinds() -> dict[str, tuple[str, Mutate, Callable[[Path], object]]]:
    """Returns, for each kind of file: its name on disk, the function that writes a damaged one, and its reader."""
    return {
        "checkpoint": ("run.safetensors", mutate_checkpoint, open_checkpoint_file),
        "weights": ("weights.pth", bytes_kind(pickle_bytes()), read_weights),
        "recipe": ("damaged.yaml", text_kind(RECIPE), load_recipe),
        "study": ("study.yaml", text_kind(STUDY), load_study),
        "log": ("log.jsonl", text_kind(LOG), read_run_log),
        "masks": ("masks.npz", bytes_kind(masks_bytes()), read_masks),
        "scored_counts": ("a.counts.npz", bytes_kind(scored_counts_bytes()), load_counts),
        "coco_masks": ("results.json", text_kind(COCO), read_masks),
        "mask": ("mask.png", bytes_kind(image_bytes("P", ".png")), read_label),
        **{f"image{end}": (f"image{end}", bytes_kind(image_bytes("RGB", end)), read_image) for end in IMAGE_ENDS},
        "table": ("classes.tsv", text_kind(TABLE), ClassTable.from_tsv),
        "peer_config": ("config.py", text_kind(PEER), read_peer),
    }


class TooSlowError(Exception):
    """A reader that did not end in time."""


def _on_alarm(*_: object) -> None:
    raise TooSlowError(f"no result after {SECONDS} s")


def outcome(reader: Callable[[Path], object], file: Path) -> str:
    """Returns "value", "error" for one line of segnl's, or what is wrong."""
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(file)
    except TooSlowError as err:
        return f"TOO SLOW: {err}"
    except Exception as err:
        error = as_segnl_error(err)
        if error is None:
            return "TRACEBACK: " + traceback.format_exc(limit=-3)
        if len(printable(str(error)).splitlines()) != 1:
            return f"NOT ONE LINE: {str(error)!r}"
        return "error"
    finally:
        signal.alarm(0)
    return "value"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(kinds()))
    parser.add_argument("--only", type=int, help="number of one mutation")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    signal.signal(signal.SIGALRM, _on_alarm)
    began, counts, num_wrong = time.time(), {}, 0
    for kind, (name, mutate, reader) in kinds().items():
        if args.kind not in (None, kind):
            continue
        counts[kind] = {"value": 0, "error": 0}
        for number in range(-1, args.mutations) if args.only is None else [args.only]:  # -1: the whole file
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "recipe.yaml").write_text(RECIPE)
                file = Path(folder) / name
                mutate(file, random.Random(f"{kind} {number} {args.seed}") if number >= 0 else None)
                result = outcome(reader, file)
            if number < 0:
                if result != "value":
                    sys.exit(f"{kind}: the whole file cannot be read, so mutations would show nothing: {result}")
                continue
            if result in counts[kind]:
                counts[kind][result] += 1
            else:
                num_wrong += 1
                print(f"{kind} {number}: {result}", flush=True)
    print(f"{json.dumps(counts)}; {num_wrong} wrong")
    if args.kind is None and args.only is None and args.mutations >= 500:
        result = {"mutations": args.mutations, "seed": args.seed, "outcomes": counts, "wrong": num_wrong}
        result |= {"seconds": round(time.time() - began), "git": git_state(ROOT)}
        write_atomic(OUT, (json.dumps(result, indent=1) + "\n").encode())
    sys.exit(1 if num_wrong else 0)


if __name__ == "__main__":
    main()
