import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segnl.core.errors import CheckpointError
from segnl.models.weights.checksums import to_safetensors
from segnl.models.weights.files import listed, read_checkpoint, tensors_in


class Evil:
    """What a malicious file holds: unpickled plainly, it writes a marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.marker, "run"))


def test_tensors_come_back_from_both_formats(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(2, 3)}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, str(tmp_path / "a.safetensors"))
    for name in ("a.pth", "a.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name)["a.weight"], state["a.weight"])


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Evil(marker)}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not marker.exists()


def test_a_malicious_pickle_of_the_old_format_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"a": Evil(marker)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.pth")
    assert not marker.exists()


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(100_000)}, tmp_path / "plain.pth")
    plain = zipfile.ZipFile(tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert torch.load(tmp_path / "bomb.pth")["a.weight"].shape == (100_000,)
    with pytest.raises(CheckpointError, match="unpacks to more bytes than it has"):
        read_checkpoint(tmp_path / "bomb.pth")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("depth", "width"), [(60, 2), (12, 12), (400, 1)])
@pytest.mark.parametrize("kind", ["zip", "ZIP", "legacy", "legacy and zip"])
def test_tuples_in_tuples_without_end_are_refused(tmp_path: Path, kind: str, depth: int, width: int) -> None:
    """torch finds `DATA.PKL` too, and tells the format by the first bytes."""
    deep: Any = ()
    for _ in range(depth):
        deep = (deep,) * width
    content = pickle.dumps([deep], protocol=2)[:-1].replace(b"]", b"}", 1).removesuffix(b"a") + b"K\x01s."
    path = tmp_path / "deep.pth"
    if "legacy" in kind:
        head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join(head) + content)
        content = pickle.dumps({})
    if kind != "legacy":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("deep/DATA.PKL" if kind == "ZIP" else "deep/data.pkl", content)
            archive.writestr("deep/version", "3")
    with pytest.raises(CheckpointError, match="a tuple of too many values or levels"):
        read_checkpoint(path)


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


LONG_TUPLE = b"(" + b"K\x01" * 60_000 + b"tq\x01"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        pickled(b"}", LONG_TUPLE, b"K\x01s", b"h\x01K\x01s" * 100_000),
        pickled(  # a set of a list of pairs with that tuple, made again and again
            *(
                b"}",
                b"ccollections\nOrderedDict\nq\x02",
                b"]q\x03(",
                LONG_TUPLE,
                b"K\x01\x86",
                b"h\x01K\x01\x86" * 100,
                b"e",
            ),
            *(b"\x85q\x04R", b"h\x02h\x04R" * 20_000),
        ),
    ],
)
def test_a_tuple_that_is_hashed_again_and_again_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "often.pth", "w") as archive:
        for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"often/{name}", data)
    with pytest.raises(CheckpointError, match="or tuples too often"):
        read_checkpoint(tmp_path / "often.pth")


class Shadowed(OrderedDict[str, Any]):
    """Is pickled as an OrderedDict with an attribute `values` of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"values": None, "items": None, "get": None}, None, iter(OrderedDict.items(self))


class WithAttribute(torch.Tensor):
    """Is pickled as a tensor with an attribute `untyped_storage` of its own."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        build, args = torch.zeros(2).__reduce_ex__(protocol)  # type: ignore[misc]
        return torch._tensor._rebuild_from_type_v2, (build, torch.Tensor, args, {"untyped_storage": None, "float": 1})


def test_attributes_in_a_pickle_replace_no_method(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    weight = torch.zeros(2).as_subclass(WithAttribute)
    torch.save(Shadowed(state_dict=Shadowed(weight=weight), meta=Shadowed(cfg="x")), path)
    content = read_checkpoint(path)
    assert content["meta"].get("cfg") == "x"
    assert tensors_in(content, "own.pth")["weight"].untyped_storage().nbytes() == 8


@pytest.mark.parametrize("is_zip", [True, False])
def test_long_tuples_of_a_real_file_are_read(tmp_path: Path, is_zip: bool) -> None:
    names = tuple(f"class {i}" for i in range(1203))
    parameters = tuple(torch.nn.Parameter(torch.zeros(2, 3, 1, 1)) for _ in range(160))
    content = {
        "state_dict": {"a": torch.zeros(1)},
        "meta": {"CLASSES": names},
        "optimizer": (parameters, ((1, 2), (3,))),
    }
    torch.save(content, tmp_path / "long.pth", _use_new_zipfile_serialization=is_zip)
    assert read_checkpoint(tmp_path / "long.pth")["meta"]["CLASSES"] == names


def test_a_checkpoint_for_whose_bytes_there_is_no_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnl.models.weights.checksums.COPIES", 2**58)
    with pytest.raises(MemoryError):
        to_safetensors({"weight": torch.zeros(1)}, {})


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"{os.fsdecode(bytes([255]))}.{suffix}"
    plain = tmp_path / f"plain.{suffix}"
    save = torch.save if suffix == "pth" else save_file
    save({"weight": torch.ones(2)}, plain)
    plain.rename(path)
    assert torch.equal(read_checkpoint(path)["weight"], torch.ones(2))


def test_a_bytearray_of_any_length_is_not_made(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "extra": bytearray(3)}, tmp_path / "long.pth")
    with pytest.raises(CheckpointError, match="wants to call bytearray; nothing of it was run"):
        read_checkpoint(tmp_path / "long.pth")


HISTORY = """
import numpy as np
class HistoryBuffer:
    def __init__(self):
        self.log = np.arange(3.0)
        self.methods = {"mean": HistoryBuffer.mean}
    def mean(self):
        return 1
"""


def test_a_checkpoint_of_mmengine_is_read_without_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    for parent in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(HISTORY, name, "exec"), module.__dict__)
    state = OrderedDict({"a.weight": torch.randn(2, 3)})
    content = {"meta": {"iter": 3}, "state_dict": state, "message_hub": {"log_scalars": module.HistoryBuffer()}}
    torch.save(content, tmp_path / "mm.pth")
    for each in ("mmengine", "mmengine.logging", name):
        monkeypatch.delitem(sys.modules, each)
    read = read_checkpoint(tmp_path / "mm.pth")
    assert torch.equal(tensors_in(read, "mm.pth")["a.weight"], state["a.weight"])
    assert read["meta"] == {"iter": 3}
    assert not any(each.startswith("mmengine") for each in sys.modules)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"no weights at all"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "none.pth")


def test_a_pipe_or_a_folder_is_not_called_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    for path in (tmp_path, tmp_path / "a.pth"):
        with pytest.raises(CheckpointError, match="is a folder, a pipe or a device"):
            read_checkpoint(path)


def test_torch_s_own_warnings_stay_out_of_the_terminal(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save({"a": torch.eye(3).to_sparse(), "b": torch.ones(2)}, tmp_path / "a.pth")
    recwarn.clear()
    read_checkpoint(tmp_path / "a.pth")
    assert len(recwarn) == 0


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.module.", "model.", "net."])
def test_wrappers_and_module_prefixes_are_removed(wrap: Any, prefix: str) -> None:
    assert list(tensors_in(wrap({f"{prefix}a.weight": torch.zeros(1)}), "file")) == ["a.weight"]


def test_a_module_prefix_on_some_names_stays() -> None:
    assert set(tensors_in({"module.a": torch.zeros(1), "b": torch.zeros(1)}, "file")) == {"module.a", "b"}


def test_files_without_tensors_and_with_other_things_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no tensors; found the keys epoch"):
        tensors_in({"epoch": 3}, "file")
    with pytest.raises(CheckpointError, match="extra not tensors"):
        tensors_in({"a": torch.zeros(1), "extra": "text"}, "file")


def test_long_lists_are_cut() -> None:
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_a_refused_pickle_names_what_it_wants_to_call(tmp_path: Path) -> None:
    class System:
        def __reduce__(self) -> Any:
            return (os.system, ("true",))

    torch.save({"a": System()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"more than tensors and wants to call posix\.system; nothing of it"):
        read_checkpoint(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x020.", b"\x80\x02K\x01b.", b"\x80\x02h\x05."])
def test_a_pickle_that_runs_out_of_values_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged or not a weight file|holds more than tensors"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.empty(2, 2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantised"],
)
def test_odd_tensors_are_refused_by_name(tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"odd\.weight sparse, quantised or without values"):
        tensors_in({"odd.weight": tensor}, "x.pth")
