"""Write a trained network as ONNX, or its weights as safetensors."""

import argparse

from segnl.cli.arguments import add_checkpoint, path_of, size_of
from segnl.core.files import shell_word


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_checkpoint(command)
    add("--out", type=path_of, required=True, metavar="FILE", help="model.onnx, or model.safetensors")
    add("--half", action="store_true", help="write float16 weights (safetensors only)")
    about = "the only image size that the ONNX graph takes (default: any, where possible)"
    add("--input", type=size_of, metavar="HxW", help=about)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.convert.export import OPSET, export
    from segnl.core.limits import require_memory

    out, hw = args.out, args.input
    if hw is not None:
        rows, columns = hw
        require_memory(f"--input {rows}x{columns}", 64 * rows * columns)  # the stem's map: 64 channels at half the size
    report = export(args.checkpoint, out, half=args.half, hw=hw, trust_modules=args.trust_modules)
    mib = f"{out.stat().st_size / 2**20:.1f} MiB"
    if out.suffix != ".onnx":
        dtype = "float16" if args.half else "as trained"
        print(f"{out}: {report.num_tensors} tensors, {dtype}, {mib}; no optimiser state")
        print(f"segnl eval --checkpoint {shell_word(out)}, or segnl.load({str(out)!r})")
        return
    print(f"{out}: ONNX, opset {OPSET}, {mib}")
    size = "of {}x{} only (--input sets it)".format(*report.fixed_hw) if report.fixed_hw else "any H and W"
    print(f"in:  image, u8 `b H W 3`, RGB, {size}; normalised inside the graph")
    print("out: labels, u8 `b H W`, train ids; logits, f32 `b k h w` at feature size")
    for (rows, columns), (logit_error, label_error) in report.errors.items():
        size = f"checked at {rows}x{columns}"
        print(f"{size}: logits within {logit_error:.1e} of the largest; {label_error:.1e} of labels differ")
    for line in report.not_in_graph:
        print(line)
