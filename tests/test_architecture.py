"""The rules of docs/architecture.md, read from the syntax trees; each rule is also shown a planted violation."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Imports go down only: a package may import those of earlier lines, and itself.
LAYERS = [
    ["core"],
    ["labels", "ops"],
    ["models", "metrics", "streets", "probe", "optim"],
    ["losses", "data", "video"],
    ["runs"],
    ["evaluation"],
    ["training", "profiling", "convert"],
    ["reports", "testing"],
    ["studies"],
    ["api"],
    ["cli"],
    ["__main__"],
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
MODEL_LAYERS = {"blocks": 0, "input": 0, "initialisation": 0, "weights": 0, "backbones": 1, "heads": 1, "segmenter": 2}
HEADS_COMMON = {"__init__", "base"}
TORCHLESS = {"core/config", "core/files", "core/errors", "core/seeds", "core/components", "labels", "__init__"}
TORCHLESS |= {"__main__", "cli"}


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    is_lazy: bool
    """Inside a function, or for type checkers only."""


@dataclass(frozen=True)
class Source:
    """One Python file: its path below the tree's root, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def parts(self) -> list[str]:
        """["models", "heads", "rcca"] for segnl/models/heads/rcca.py."""
        return self.path.removeprefix("segnl/").removesuffix(".py").split("/")


@cache
def read(path: Path, name: str) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(name, text, ast.parse(text, name))


def sources(root: Path, *folders: str) -> list[Source]:
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return [read(path, path.relative_to(root).as_posix()) for path in paths]


def imports(source: Source) -> list[Import]:
    """Every import with its full dotted target: `from segnl.ops import resize` imports segnl.ops.resize."""
    package = source.path.removesuffix(".py").split("/")[:-1]
    found: list[Import] = []

    def visit(node: ast.AST, is_lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found.extend(Import(f"{start}.{alias.name}", node.lineno, is_lazy) for alias in node.names)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, is_lazy or is_function or is_for_types)

    visit(source.tree, is_lazy=False)
    return found


def calls(source: Source) -> Iterator[ast.Call]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))


# ---- the rules: each yields "file:line: what is wrong" ----


def imports_go_down_the_layers(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl"):
        here = source.parts[0]
        if here == "__init__":
            continue  # segnl/__init__.py names a few things lazily; the next rule but one keeps it light
        if here not in LAYER_OF:
            yield f"{source.path}:1: {here} is in no layer; expected one of {', '.join(LAYER_OF)}"
            continue
        for one in imports(source):
            top, *rest = one.target.split(".")
            there = rest[0] if rest else "__init__"
            if top == "segnl" and there != here and LAYER_OF.get(there, 99) >= LAYER_OF[here]:
                yield f"{source.path}:{one.line}: {here} imports {one.target}, which is not below it"


def models_have_layers_of_their_own(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl/models"):
        here = source.parts[1]
        for one in imports(source):
            if not one.target.startswith("segnl.models."):
                continue
            there, *rest = one.target.split(".")[2:]
            is_above = MODEL_LAYERS.get(there, -1) > MODEL_LAYERS.get(here, 99)
            is_sibling = {here, there} == {"backbones", "heads"}
            is_head_in_head = here == there == "heads" and rest[0] not in HEADS_COMMON
            if is_above or is_sibling or is_head_in_head:
                yield f"{source.path}:{one.line}: imports {one.target}"


def some_files_import_no_torch(root: Path) -> Iterator[str]:
    everything = sources(root, "segnl")
    by_name = {".".join(["segnl", *source.parts]).removesuffix(".__init__"): source for source in everything}
    for start in everything:
        if TORCHLESS.isdisjoint({"/".join(start.parts), start.parts[0]}):
            continue
        seen, waiting = {start.path}, [start]
        while waiting:
            source = waiting.pop()
            for one in imports(source):
                if one.is_lazy:
                    continue
                if one.target.split(".")[0] in ("torch", "torchvision"):
                    yield f"{start.path}: brings in {one.target} by way of {source.path}:{one.line}"
                inner = by_name.get(one.target) or by_name.get(one.target.rpartition(".")[0])
                if inner and inner.path not in seen:
                    seen.add(inner.path)
                    waiting.append(inner)


def torchvision_is_imported_inside_functions(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl"):
        for one in imports(source):
            if one.target.split(".")[0] == "torchvision" and not one.is_lazy:
                yield f"{source.path}:{one.line}: imports {one.target} at the top; it costs more than torch itself"


def only_resize_interpolates(root: Path) -> Iterator[str]:
    owners = {"F", "nn", "nn.functional", "torch.nn.functional", "torch.nn"}
    names = {"interpolate", "upsample", "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"}
    for source in sources(root, "segnl"):
        if source.path == "segnl/ops/resize.py":
            continue
        for node in ast.walk(source.tree):
            owner = ast.unparse(node.value) if isinstance(node, ast.Attribute) and node.attr in names else ""
            if owner in owners:
                yield f"{source.path}:{node.lineno}: {ast.unparse(node)}; call segnl.ops.resize"
        for one in imports(source):
            if one.target.startswith("torch.nn.") and one.target.rpartition(".")[2] in names:
                yield f"{source.path}:{one.line}: {one.target}; call segnl.ops.resize"


def torch_loads_weights_only(root: Path) -> Iterator[str]:
    loaders = {"torch.load", "torch.hub.load_state_dict_from_url", "load_state_dict_from_url"}
    for source in sources(root, "segnl"):
        for call in calls(source):
            is_safe = any(
                word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
                for word in call.keywords
            )
            if ast.unparse(call.func) in loaders and not is_safe:
                yield f"{source.path}:{call.lineno}: {ast.unparse(call.func)} without weights_only=True"
        for node in ast.walk(source.tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                yield f"{source.path}:{node.lineno}: {name}; a pickle can run code"
        for one in imports(source):
            if one.target.startswith(("pickle.", "dill", "cloudpickle")):
                yield f"{source.path}:{one.line}: imports {one.target}; a pickle can run code"


def nothing_is_checked_by_assert(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert):
                yield f"{source.path}:{node.lineno}: assert vanishes under -O and says nothing to a user; raise"


def nothing_is_squeezed_blindly(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl"):
        for call in calls(source):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "squeeze" and not call.args + call.keywords:
                yield f"{source.path}:{call.lineno}: a bare squeeze() loses a batch of one"


def constructors_name_their_arguments(root: Path) -> Iterator[str]:
    for source in sources(root, "segnl"):
        for node in ast.walk(source.tree):
            # A name such as `_ignored` says that nothing is passed on.
            is_open = isinstance(node, ast.FunctionDef) and node.args.kwarg and node.args.kwarg.arg[0] != "_"
            if is_open and node.name == "__init__":
                yield f"{source.path}:{node.lineno}: **{node.args.kwarg.arg} through a constructor hides a typo"


# ---- each rule holds, and each can fail ----

Rule = Callable[[Path], Iterator[str]]
PLANTS: list[tuple[Rule, str, str]] = [
    (imports_go_down_the_layers, "segnl/core/x.py", "from segnl.ops import resize\n"),
    (imports_go_down_the_layers, "segnl/models/x.py", "def f():\n    import segnl.data.sample\n"),
    (imports_go_down_the_layers, "segnl/labels/x.py", "from ..ops.resize import resize\n"),
    (imports_go_down_the_layers, "segnl/runs/x.py", "from segnl import load\n"),
    (imports_go_down_the_layers, "segnl/attic/x.py", ""),
    (models_have_layers_of_their_own, "segnl/models/blocks/x.py", "from segnl.models.heads.base import HeadConfig\n"),
    (models_have_layers_of_their_own, "segnl/models/heads/x.py", "from segnl.models.heads import rcca\n"),
    (models_have_layers_of_their_own, "segnl/models/heads/x.py", "from segnl.models.backbones.resnet import ResNet\n"),
    (models_have_layers_of_their_own, "segnl/models/backbones/x.py", "import segnl.models.segmenter\n"),
    (some_files_import_no_torch, "segnl/core/config.py", "import torch.nn as nn\n"),
    (some_files_import_no_torch, "segnl/labels/x.py", "from segnl.core.seeds import y\n"),
    (
        torchvision_is_imported_inside_functions,
        "segnl/models/x.py",
        "if True:\n    from torchvision import ops\n",
    ),
    (only_resize_interpolates, "segnl/models/x.py", "import torch.nn.functional as F\ny = F.interpolate\n"),
    (only_resize_interpolates, "segnl/models/x.py", "from torch.nn.functional import interpolate\n"),
    (torch_loads_weights_only, "segnl/runs/x.py", "import torch\ntorch.load('f', weights_only=False)\n"),
    (torch_loads_weights_only, "segnl/runs/x.py", "import torch\ntorch.load('f')\n"),
    (torch_loads_weights_only, "segnl/runs/x.py", "import pickle\npickle.loads(b'')\n"),
    (nothing_is_checked_by_assert, "segnl/ops/x.py", "def f(y):\n    assert y\n"),
    (nothing_is_squeezed_blindly, "segnl/ops/x.py", "def f(y):\n    return y.squeeze()\n"),
    (constructors_name_their_arguments, "segnl/ops/x.py", "class A:\n    def __init__(self, **kwargs): pass\n"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule) -> None:
    violations = list(rule(ROOT))
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize(("rule", "path", "text"), PLANTS, ids=lambda part: getattr(part, "__name__", None))
def test_a_planted_violation_is_found(tmp_path: Path, rule: Rule, path: str, text: str) -> None:
    for name in ("segnl/ops/resize.py", "segnl/models/heads/rcca.py", "segnl/core/seeds.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        mirror = tmp_path / Path("tests", *Path(name).parts[1:-1], f"test_{Path(name).name}")
        mirror.parent.mkdir(parents=True, exist_ok=True)
        mirror.touch()
    (tmp_path / "segnl/core/seeds.py").write_text("from torch import Tensor\n")
    is_bred_by_the_tree = rule is some_files_import_no_torch  # core/seeds.py is itself one of the torchless
    assert is_bred_by_the_tree or not list(rule(tmp_path))
    planted = tmp_path / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(text)
    found = list(rule(tmp_path))
    assert any(line.startswith(path) for line in found), found
