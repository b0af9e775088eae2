import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError
from segnl.core.outputs import marked, require_own

PIXELS = np.arange(7 * 11 * 3, dtype=np.uint8).reshape(7, 11, 3)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format=kind)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a", "b")
    return file.getvalue()


FILES = {kind: picture(kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")} | {
    "zip": archive(),
    "JSON": json.dumps({"miou": 0.5}, indent=1).encode(),
    "SVG": b'<?xml version="1.0"?>\n<svg/>\n',
    "PDF": b"%PDF-1.4\n...\n%%EOF\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_known_again_by_its_own_command_only(tmp_path, kind):
    path = tmp_path / "out"
    path.write_bytes(marked(FILES[kind], "eval"))
    require_own(path, "eval", option="--out")
    with pytest.raises(ConfigError, match="out: exists and was not written by segnl cost; move it aside"):
        require_own(path, "cost", option="--out")
    path.write_bytes(FILES[kind])
    with pytest.raises(ConfigError, match="was not written by segnl eval"):
        require_own(path, "eval", option="--out")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_the_remark_changes_no_pixel(kind):
    before, after = (Image.open(io.BytesIO(data)).convert("RGB") for data in (FILES[kind], marked(FILES[kind], "eval")))
    assert before.tobytes() == after.tobytes()


def test_a_zip_with_the_remark_opens_and_json_has_one_more_key():
    assert zipfile.ZipFile(io.BytesIO(marked(FILES["zip"], "eval"))).read("a") == b"b"
    assert json.loads(marked(FILES["JSON"], "eval")) == {"written_by": "segnl eval", "miou": 0.5}


def test_json_that_quotes_a_result_is_its_author_s(tmp_path):
    result = json.loads(marked(FILES["JSON"], "eval"))
    for content in ({"first": result}, [result], {"miou": 0.5, **result}):
        (tmp_path / "all.json").write_text(json.dumps(content, indent=1))
        with pytest.raises(ConfigError):
            require_own(tmp_path / "all.json", "eval", option="--json")


def test_an_empty_file_may_go_and_what_is_no_file_may_not(tmp_path):
    (tmp_path / "mktemp").touch()
    require_own(tmp_path / "mktemp", "eval", option="--json")
    require_own(tmp_path / "missing", "eval", option="--json")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be replaced"):
            require_own(tmp_path / name, "eval", option="--json")


def test_a_file_under_the_name_of_an_archive_is_not_read_as_one(tmp_path):
    (tmp_path / "s.zip").write_text("precious")
    with pytest.raises(ConfigError, match="exists and was not written by segnl eval"):
        require_own(tmp_path / "s.zip", "eval", option="--submission")


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ConfigError, match="was not written by"):
        require_own(tmp_path / "huge", "eval", option="--json")


def test_a_link_to_nothing_is_not_replaced(tmp_path):
    (tmp_path / "out.json").symlink_to("/not/mounted/out.json")
    with pytest.raises(ConfigError, match=r"--json .*out\.json: is a link to /not/mounted/out\.json, which does not"):
        require_own(tmp_path / "out.json", "eval", option="--json")
