import pytest

from segnl.convert.config_text import read_config_text
from segnl.core.errors import ConfigError

TEXT = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
crop_size = (512, 1024)
model = dict(
    type='EncoderDecoder',
    backbone=dict(norm_cfg=norm_cfg, dilations=(1, 1, 2, 4), shift=-1.5),
    decode_head={'type': 'CCHead', 'in_index': 3})
work_dir = './runs'
"""


def test_a_flattened_config_is_read_without_running_it() -> None:
    config = read_config_text(TEXT, "file")
    assert config["model"]["backbone"] == {
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "dilations": [1, 1, 2, 4],
        "shift": -1.5,
    }
    assert config["model"]["decode_head"] == {"type": "CCHead", "in_index": 3}


def test_a_value_that_needs_running_code_is_passed_over() -> None:
    config = read_config_text("a = 1\nb = __import__('os').getcwd()\na = open('x')\nc = [1, a]", "file")
    assert config == {}


def test_text_that_is_not_python_is_refused() -> None:
    with pytest.raises(ConfigError, match="not readable"):
        read_config_text("model = dict(", "file")
