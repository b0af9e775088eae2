"""Write a trained network as ONNX, or its weights as safetensors."""

import argparse
from pathlib import Path

from segnl.cli.arguments import add_checkpoint


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_checkpoint(command)
    add("--out", type=Path, required=True, metavar="FILE", help="model.onnx, or model.safetensors")
    add("--half", action="store_true", help="write float16 weights (safetensors only)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.convert.export import OPSET, export

    report, out = export(args.checkpoint, args.out, half=args.half, trust_modules=args.trust_modules), args.out
    mib = f"{out.stat().st_size / 2**20:.1f} MiB"
    if out.suffix != ".onnx":
        dtype = "float16" if args.half else "as trained"
        print(f"{out}: {report.num_tensors} tensors, {dtype}, {mib}; no optimiser state")
        print(f"segnl eval --checkpoint {out}, or segnl.load({str(out)!r})")
        return
    print(f"{out}: ONNX, opset {OPSET}, {mib}")
    print("in:  image, u8 `b H W 3`, RGB, any H and W; normalised inside the graph")
    print("out: labels, u8 `b H W`, train ids; logits, f32 `b k h w` at feature size")
    for (rows, columns), (logit_error, label_error) in report.errors.items():
        size = f"checked at {rows}x{columns}"
        print(f"{size}: logits within {logit_error:.1e} of the largest; {label_error:.1e} of labels differ")
    for line in report.not_in_graph:
        print(line)
