import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segnl.data.reading import FileError, exif_orientation, read_image, read_label

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
IDS = PIXELS[..., 0] % 5


def png(bits: int, colour: int, rows: list[bytes], width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_an_image_of_any_8_bit_mode_becomes_rgb(tmp_path, mode):
    source = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / "a.tif"
    source.save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_a_file_that_breaks_off_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(PIXELS, (20, 20, 1))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(FileError, match="cannot be decoded") as caught:
        read_image(path)
    assert caught.value.kind == "damaged"
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_missing_empty_and_foreign_files_are_told_apart(tmp_path, read):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    for name, kind in (("none.png", "missing"), ("empty.png", "empty"), ("text.png", "damaged")):
        with pytest.raises(FileError) as caught:
            read(tmp_path / name)
        assert caught.value.kind == kind
        assert str(caught.value).count(name) == 1


def test_a_16_bit_image_is_refused_not_clipped(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200).save(tmp_path / "a.png")
    with pytest.raises(FileError, match="8 bits a channel"):
        read_image(tmp_path / "a.png")


def test_grey_palette_16_bit_and_1_bit_labels_keep_their_indices(tmp_path):
    palette = Image.fromarray(IDS)
    palette.putpalette(list(range(200, 0, -1)) + [0] * 568)
    assert palette.mode == "P"
    files = {"grey": Image.fromarray(IDS), "palette": palette, "wide": Image.fromarray(IDS.astype(np.uint16))}
    for name, image in files.items():
        for suffix in ("png", "tif"):
            image.save(tmp_path / f"{name}.{suffix}")
            np.testing.assert_array_equal(read_label(tmp_path / f"{name}.{suffix}"), IDS, err_msg=name)
    Image.fromarray(IDS > 2).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_label(tmp_path / "bits.png"), (IDS > 2).astype(np.uint8))
    assert read_label(tmp_path / "bits.png").dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_coloured_label_is_refused_with_a_hint(tmp_path, mode):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=f"label of mode {mode}; expected one channel of class ids"):
        read_label(tmp_path / "a.png")


def test_a_16_bit_label_above_255_is_refused_naming_the_pixel(tmp_path):
    wide = IDS.astype(np.uint16)
    wide[3, 8] = 26001
    Image.fromarray(wide).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"pixel \(row 3, column 8\) holds 26001"):
        read_label(tmp_path / "a.png")


def test_a_4_bit_grey_label_is_refused_since_decoders_rescale_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, 0, [bytes([0x12, 0x30])], 3))
    with pytest.raises(FileError, match="4-bit grey"):
        read_label(tmp_path / "a.png")


def test_exif_orientation_rotates_neither_image_nor_label(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    for suffix in ("png", "jpg"):
        Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}", exif=tag)
        assert read_image(tmp_path / f"a.{suffix}").shape == (7, 11, 3)
        assert exif_orientation(tmp_path / f"a.{suffix}") == 6
    Image.fromarray(IDS).save(tmp_path / "label.png", exif=tag)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), IDS)


def test_an_image_too_large_to_decode_is_refused_in_one_line(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(FileError, match="too large to decode"):
        read_image(tmp_path / "a.png")


def test_damaged_bytes_end_in_pixels_or_in_one_fault(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, kind)
        whole = file.getvalue()
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.integers(8, len(whole))] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_image(path).ndim == 3
            except FileError as fault:
                assert fault.kind in ("damaged", "format")  # noqa: PT017  either outcome is right
