"""Each kind of decode head of mmsegmentation: its own settings as ours, and our modules' names as its."""

from collections.abc import Callable
from dataclasses import dataclass, field

from segnl.convert.mmseg_config import JSONDict, Reader, is_integer
from segnl.core.errors import ConfigError

Names = dict[str, str]
MOST_CHANNELS = 2**20
"""More than that is a slip of the pen, not a network."""


@dataclass(frozen=True)
class Kind:
    """What a head's own keys come to; those that all heads have are read elsewhere."""

    mapping: JSONDict
    """A part of the section `head` of a recipe."""
    names: Names
    """Prefixes of our names to theirs."""
    takes_several: bool = False
    """Whether the head reads several maps, each for itself, and says so without its config."""
    low_channels: int = 0
    """Of the backbone's first map, where the head reads that as its `low_stage`."""
    tied: Names = field(default_factory=dict)
    """Prefixes of tensors that a state_dict there holds once more, to those that they repeat."""
    dropout_key: str | None = None
    """Under which our head wants mmsegmentation's dropout once more."""


_SHELL_NAMES = {"head.shell.convs": "convs", "head.shell.conv_cat": "conv_cat"}
_BLOCK = "head.shell.context"


def _shell(reader: Reader, *, num_convs: int | None) -> JSONDict:
    mapping: JSONDict = {
        "num_convs": reader.take("num_convs", 2) if num_convs is None else num_convs,
        "kernel": reader.take("kernel_size", 3),
        "dilation": reader.take("dilation", 1),
        "concat_input": reader.flag("concat_input", default=True),
    }
    if not is_integer(mapping["kernel"]) or mapping["kernel"] % 2 == 0:
        raise ConfigError(f"{reader.where}.kernel_size: holds {mapping['kernel']!r}, expected an odd number")
    return mapping


def _fcn(reader: Reader) -> Kind:
    return Kind({"name": "fcn"} | _shell(reader, num_convs=None), _SHELL_NAMES)


def _dilations(reader: Reader) -> list[int]:
    return list(reader.integers("dilations", (1, 6, 12, 18)))


_ASPP_NAMES = {"head.image_pool": "image_pool.1", "head.branches": "aspp_modules", "head.project": "bottleneck"}


def _aspp(reader: Reader) -> Kind:
    return Kind({"name": "aspp", "dilations": _dilations(reader)}, _ASPP_NAMES)


def _separable_aspp(reader: Reader) -> Kind:
    first, low = (reader.need(key) for key in ("c1_in_channels", "c1_channels"))
    if not all(is_integer(each) and each >= 0 for each in (first, low)) or (first == 0) != (low == 0):
        raise ConfigError(
            f"{reader.where}: c1_in_channels {first!r}, c1_channels {low!r}; expected integers above 0, or 0 twice"
        )
    mapping = {"name": "deeplabv3plus", "dilations": _dilations(reader)} | (
        {"low_channels": low} if low else {"low_stage": None}
    )
    names = _ASPP_NAMES | {"head.low": "c1_bottleneck", "head.decode": "sep_bottleneck"}
    return Kind(mapping, names, low_channels=first)


def _non_local_dict(reader: Reader, known: tuple[str, ...]) -> JSONDict:
    mapping = {"reduction": reader.take("reduction", 2), "use_scale": reader.flag("use_scale", default=True)}
    pairwise = mapping["pairwise"] = reader.take("mode", "embedded_gaussian")
    if pairwise not in known:
        raise ConfigError(f"{reader.where}.mode: holds {pairwise!r}; known: {', '.join(known)}")
    return mapping | _shell(reader, num_convs=2)


def _non_local_names(block: str) -> Names:
    names = {f"{_BLOCK}.{each}": f"{block}.{each}.conv" for each in ("g", "theta", "phi")}
    return names | {f"{_BLOCK}.w_z": f"{block}.conv_out.conv", f"{_BLOCK}.norm": f"{block}.conv_out.bn"}


def _nl(reader: Reader) -> Kind:
    known = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
    names = _non_local_names("nl_block") | {f"{_BLOCK}.score": "nl_block.concat_project.conv"}
    return Kind({"name": "non_local"} | _non_local_dict(reader, known), _SHELL_NAMES | names)


def _dnl(reader: Reader) -> Kind:
    mapping = {"name": "dnl", "temperature": reader.number("temperature", 0.05)}
    mapping |= _non_local_dict(reader, ("embedded_gaussian", "dot_product"))
    names = _non_local_names("dnl_block") | {f"{_BLOCK}.unary": "dnl_block.conv_mask"}
    return Kind(mapping, _SHELL_NAMES | names)


def _cc(reader: Reader) -> Kind:
    mapping = {"name": "rcca", "recurrence": reader.take("recurrence", 2)} | _shell(reader, num_convs=2)
    return Kind(mapping, _SHELL_NAMES | {_BLOCK: "cca"})


def _gc(reader: Reader) -> Kind:
    ratio, channels = reader.number("ratio", 1 / 4), reader.count("channels")
    reader.left["channels"] = channels  # all heads have it, and it is taken with what they share
    pooling = reader.take("pooling_type", "att")
    fusion = reader.take("fusion_types", ("channel_add",))
    ours = {"channel_mul": "multiply", "channel_add": "add"}
    if pooling not in ("att", "avg"):
        raise ConfigError(f"{reader.where}.pooling_type: holds {pooling!r}; known: att, avg")
    if not isinstance(fusion, (list, tuple)) or not fusion or not all(each in list(ours) for each in fusion):
        raise ConfigError(f"{reader.where}.fusion_types: holds {fusion!r}; known: {', '.join(ours)}")
    inner = int(channels * ratio)
    if not 1 <= inner <= MOST_CHANNELS:
        raise ConfigError(
            f"{reader.where}.ratio: {ratio} of {channels} channels are {inner}; expected 1 to {MOST_CHANNELS}"
        )
    mapping = {
        "name": "gc",
        "inner_channels": inner,
        "pooling": "attention" if pooling == "att" else "mean",
        "fusion": "both" if len(set(fusion)) == 2 else ours[fusion[0]],
    }
    names = {f"{_BLOCK}.{each}": f"gc_block.{theirs}_conv" for theirs, each in ours.items()}
    names |= {f"{_BLOCK}.unary": "gc_block.conv_mask"}
    return Kind(mapping | _shell(reader, num_convs=2), _SHELL_NAMES | names)


def _psp(reader: Reader) -> Kind:
    bins = list(reader.integers("pool_scales", (1, 2, 3, 6)))
    names = {f"head.levels.{index}": f"psp_modules.{index}.1" for index in range(len(bins))}
    return Kind({"name": "psp", "bins": bins}, names | {"head.join": "bottleneck"})


def _projections(ours: str, theirs: str, *, num_convs: int, value: str = "value") -> Names:
    """Of a ProjectedAttention whose query and key are `projection`s; a single convolution has no number there.

    value: our name of that convolution, a part of a `projection` or not.
    """
    inside = ".0" if num_convs == 1 else ""
    names = {f"{ours}.{each}{inside}": f"{theirs}.{each}_project" for each in ("query", "key")}
    return names | {f"{ours}.{value}": f"{theirs}.value_project"}


def _da(reader: Reader) -> Kind:
    names = {
        f"head.{branch}.{ours}": f"{prefix}_{theirs}"
        for branch, prefix in (("position", "pam"), ("channel", "cam"))
        for ours, theirs in (("0", "in_conv"), ("2", "out_conv"))
    }
    names |= {"head.position.1.gamma": "pam.gamma", "head.channel.1.gamma": "cam.gamma"}
    names |= {f"head.position.1.attention.{each}": f"pam.{each}_project" for each in ("query", "key", "value")}
    names |= {"head.classifiers.position": "pam_conv_seg", "head.classifiers.channel": "cam_conv_seg"}
    mapping = {"name": "da", "inner_channels": reader.count("pam_channels")}
    return Kind(mapping, names, dropout_key="branch_dropout")


def _isa(reader: Reader) -> Kind:
    group = list(reader.integers("down_factor", (8, 8)))
    if len(group) != 2 or min(group) < 1:
        raise ConfigError(f"{reader.where}.down_factor: holds {group}, expected two integers of at least 1")
    mapping = {
        "name": "isa",
        "inner_channels": reader.count("isa_channels"),
        "group_hw": group,
    }
    names = {"head.reduce": "in_conv", "head.join": "out_conv"}
    for ours, theirs in (("head.long_range", "global_relation"), ("head.short_range", "local_relation")):
        names |= _projections(f"{ours}.attention", theirs, num_convs=2) | {f"{ours}.out": f"{theirs}.output_project"}
    return Kind(mapping, names)


def _ema(reader: Reader) -> Kind:
    mapping = {
        "name": "ema",
        "inner_channels": reader.count("ema_channels"),
        "num_bases": reader.count("num_bases"),
        "num_steps": reader.count("num_stages"),
        "momentum": reader.number("momentum", 0.1),
        "concat_input": reader.flag("concat_input", default=True),
    }
    names = {
        "head.reduce": "ema_in_conv",
        "head.before": "ema_mid_conv.conv",
        "head.rebuild": "ema_module",
        "head.after": "ema_out_conv",
        "head.narrow": "bottleneck",
        "head.conv_cat": "conv_cat",
    }
    return Kind(mapping, names)


def _ann(reader: Reader) -> Kind:
    reader.only("query_scales", (1,), [(1,), [1]])
    mapping = {
        "name": "ann",
        "inner_channels": reader.count("project_channels"),
        "bins": list(reader.integers("key_pool_scales", (1, 3, 6, 8))),
    }
    names = {"head.reduce": "bottleneck"}
    for ours, theirs in (("head.fusion", "fusion"), ("head.itself", "context")):
        names |= _projections(f"{ours}.attention", f"{theirs}.stages.0", num_convs=1)
        names |= {f"{ours}.out": f"{theirs}.stages.0.out_project", f"{ours}.join": f"{theirs}.bottleneck"}
    stage = "context.stages.0"
    tied = {f"{stage}.key_project": f"{stage}.query_project"}
    return Kind(mapping, names, takes_several=True, tied=tied, dropout_key="fusion_dropout")


KINDS: dict[str, Callable[[Reader], Kind]] = {
    "ANNHead": _ann,
    "ASPPHead": _aspp,
    "CCHead": _cc,
    "DAHead": _da,
    "DNLHead": _dnl,
    "DepthwiseSeparableASPPHead": _separable_aspp,
    "EMAHead": _ema,
    "FCNHead": _fcn,
    "GCHead": _gc,
    "ISAHead": _isa,
    "NLHead": _nl,
    "PSPHead": _psp,
}


def ocr(reader: Reader) -> Kind:
    """OCRHead, which stands in a cascade only: a coarse head comes before it."""
    reader.only("scale", 1, [1])
    mapping = {"name": "ocr", "inner_channels": reader.count("ocr_channels")}
    block = "object_context_block"
    names = {"head.reduce": "bottleneck", "head.out": f"{block}.out_project", "head.join": f"{block}.bottleneck"}
    return Kind(mapping, names | _projections("head.attention", block, num_convs=2, value="value.0"))
