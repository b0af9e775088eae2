import importlib.util
import io
import os
import struct
import time
import zlib
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from PIL import Image

from segnl.data.file_error import FileError
from segnl.data.png import _ADAM7
from segnl.data.reading import (
    ImageFormat,
    exif_orientation,
    image_hw,
    read_colours,
    read_image,
    read_label,
    rgb_pixels,
    rgb_view,
)

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
    with pytest.raises(FileError, match=rf"a colour-coded label \(mode {mode}\); expected one channel of class ids"):
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


@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_with_an_orientation_keeps_its_pixels_too(tmp_path, orientation, compression):
    tag, path = Image.Exif(), tmp_path / "a.tif"
    tag[0x0112] = orientation
    for mode in ("RGB", "RGBA", "L"):
        stored = Image.fromarray(PIXELS).convert(mode)
        stored.save(path, exif=tag, compression=compression)
        np.testing.assert_array_equal(read_image(path), stored.convert("RGB"))
        assert (image_hw(path), exif_orientation(path)) == ((7, 11), orientation)
    for ids in (IDS, IDS.astype(np.uint16)):
        Image.fromarray(ids).save(path, exif=tag, compression=compression)
        np.testing.assert_array_equal(read_label(path), ids)


ERRORS = (RuntimeError, ZeroDivisionError, AttributeError, AssertionError, cv2.error, Image.DecompressionBombError)


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    Image.fromarray(IDS).save(tmp_path / "a.png")

    def fail(_):
        raise error("Decoding of color planes failed")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(FileError, match=r"a\.png: cannot be decoded \(Decoding of color planes failed\)"):
        read_label(tmp_path / "a.png")


def test_a_deep_tiff_of_colours_with_an_orientation_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    deep = PIXELS.astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extratags=[(274, "H", 1, 3, True)])
    with pytest.raises(FileError, match="orientation 3"):
        read_image(tmp_path / "a.tif", ImageFormat(value_range=(0, 65535)))


def test_an_orientation_in_a_tiff_s_xmp_does_not_rotate_it_either(tmp_path):
    xmp = b'<rdf:Description xmlns:rdf="r" tiff:Orientation="3"/>'
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", tiffinfo={700: xmp})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PIXELS)


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


def save_16_bit(path, pixels):
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


DEEP = np.random.default_rng(1).integers(0, 4096, (7, 11, 3), dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_colours_of_16_bits_are_refused_or_scaled_as_asked_not_cut_to_their_high_byte(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save_16_bit(path, DEEP)
    with pytest.raises(FileError, match=r"more than 8 bits a channel.*data\.value_range.*\[0, 4095\]"):
        read_image(path)
    image = read_image(path, ImageFormat(value_range=(0, 4095)))
    expected = [[[round(int(value) * 255 / 4095) for value in pixel] for pixel in row] for row in DEEP]
    assert np.abs(image.astype(int) - expected).max() == 0
    assert image.flags.c_contiguous


def test_grey_of_16_bits_is_scaled_and_values_beyond_the_range_are_clipped(tmp_path):
    save_16_bit(tmp_path / "a.png", np.array([[100, 350, 600, 60_000, 0]], np.uint16))
    image = read_image(tmp_path / "a.png", ImageFormat(value_range=(100, 600)))
    assert image[0, :, 0].tolist() == [0, 128, 255, 255, 0]
    assert image.shape == (1, 5, 3)


@pytest.mark.parametrize("highest", [256, 4095, 65_534, 65_535])
@pytest.mark.parametrize("kind", ["P2", "P5"])
def test_a_deep_pgm_holds_the_stored_values_whatever_its_maximum(tmp_path, kind, highest):
    values = np.random.default_rng(0).integers(0, highest + 1, (7, 11))
    data = values.astype(">u2").tobytes() if kind == "P5" else " ".join(map(str, values.ravel())).encode()
    (tmp_path / "a.pgm").write_bytes(f"{kind} 11 7 {highest}\n".encode() + data)
    image = read_image(tmp_path / "a.pgm", ImageFormat(value_range=(0, highest)))
    np.testing.assert_allclose(image[..., 0], values * (255 / highest), atol=0.501)  # of rounding
    np.testing.assert_array_equal(read_label(tmp_path / "a.pgm", max_id=65_535), values)


def test_ids_of_a_pgm_are_not_scaled_to_its_maximum(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 11 7 4\n" + IDS.tobytes())
    np.testing.assert_array_equal(read_label(tmp_path / "a.pgm"), IDS)


def test_deep_colours_that_opencv_cannot_decode_are_one_line(tmp_path, capfd):
    (tmp_path / "a.ppm").write_bytes(b"P3 1 1 4095\n1 2 3")
    with pytest.raises(FileError, match="save it as 16-bit PNG"):
        read_image(tmp_path / "a.ppm", ImageFormat(value_range=(0, 4095)))
    assert capfd.readouterr().err == ""


JPEG_2000 = {
    9: "0000000c6a5020200d0a870a00000014667479706a703220000000006a7032200000002d6a7032680000001669686472000000020000"
    "00030001080700000000000f636f6c72010000000000110000008c6a703263ff4fff5100290000000000030000000200000000000000"
    "00000000030000000200000000000000000001080101ff52000c00000001000004040001ff5c00044048ff6400250001437265617465"
    "64206279204f70656e4a5045472076657273696f6e20322e352e34ff90000a00000000001a0001ff93df9848078bc86daef8f2bea3ff"
    "d9",
    12: "ff4fff5100290000000000030000000200000000000000000000000300000002000000000000000000010b0101ff52000c0000000100"
    "0004040001ff5c00044060ff640025000143726561746564206279204f70656e4a5045472076657273696f6e20322e352e34ff90000a"
    "00000000001c0001ff93dfe02c07a36c56bcaa2b26c1e163ffd9",
}
"""Grey files by their bits, of the values [[0, 1, 300], [511, 4, 77]], that imagecodecs wrote."""


@pytest.mark.parametrize("bits", [9, 12])
def test_grey_jpeg_2000_of_any_depth_holds_the_stored_values(tmp_path, bits, capfd):
    (tmp_path / "a.jp2").write_bytes(bytes.fromhex(JPEG_2000[bits]))
    image = read_image(tmp_path / "a.jp2", ImageFormat(value_range=(0, 511)))
    expected = np.rint(np.array([[0, 1, 300], [511, 4, 77]]) * (255 / 511))
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))
    with pytest.raises(FileError, match=r"data\.value_range"):
        read_image(tmp_path / "a.jp2")
    data = bytearray.fromhex(JPEG_2000[bits])
    data[data.index(b"\xff\x4f\xff\x51") + 42] |= 0x80
    (tmp_path / "a.jp2").write_bytes(data)
    with pytest.raises(FileError, match="neither PIL nor OpenCV reads as stored; save it as 16-bit PNG"):
        read_image(tmp_path / "a.jp2")  # signed
    assert capfd.readouterr().err == ""


def test_a_deep_jpeg_2000_that_pil_has_opened_in_memory_is_refused(tmp_path):
    data = io.BytesIO(bytes.fromhex(JPEG_2000[12]))
    with pytest.raises(FileError, match="save it as 16-bit PNG"), Image.open(data) as image:
        rgb_pixels(image, tmp_path / "image", ImageFormat(value_range=(0, 511)))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("shape", [(7, 11), (7, 11, 3)])
def test_a_deep_avif_is_not_cut_to_8_bits(tmp_path, shape, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, shape, dtype=np.uint16)
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    cv2.imwrite(str(tmp_path / "a.avif"), values[..., ::-1] if values.ndim == 3 else values, options)
    image = read_image(tmp_path / "a.avif", ImageFormat(value_range=(0, 2**bits - 1)))
    expected = np.broadcast_to(values.reshape(7, 11, -1) * (255 / (2**bits - 1)), (7, 11, 3))
    np.testing.assert_allclose(image, expected, atol=0.501)  # of rounding
    with pytest.raises(FileError, match=r"data\.value_range"):
        read_image(tmp_path / "a.avif")


def test_images_of_8_bits_do_not_change_with_a_range(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", ImageFormat(value_range=(0, 4095))), PIXELS)


def test_jpeg_2000_of_12_bits_is_recognised(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jp2")
    assert read_image(tmp_path / "a.jp2").shape == (7, 11, 3)
    data = bytearray((tmp_path / "a.jp2").read_bytes())
    start = data.find(b"\xff\x4f\xff\x51") + 42
    assert data[start] == 7  # 8 bits, less one
    data[start] = 11
    (tmp_path / "a.jp2").write_bytes(data)
    with pytest.raises(FileError):
        read_image(tmp_path / "a.jp2")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_fourth_band_is_dropped_only_where_it_holds_nothing(tmp_path, suffix):
    path, bands = tmp_path / f"a.{suffix}", np.dstack([PIXELS, np.full((7, 11), 255, np.uint8)])
    Image.fromarray(bands).save(path)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    bands[2, 3, 3] = 9
    Image.fromarray(bands).save(path)
    for read in (read_image, read_colours, lambda path: read_label(path, allow_colours=True)):
        with pytest.raises(FileError, match=r"mode RGBA, whose last band holds 9\.\.255"):
            read(path)


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_pages_after_the_first_are_not_dropped_silently(tmp_path, suffix):
    first, *more = (Image.fromarray(np.roll(PIXELS, i)) for i in range(3))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=more)
    for read in (read_image, read_label):
        with pytest.raises(FileError, match="holds 3 pages or frames"):
            read(tmp_path / f"a.{suffix}")


def test_the_preview_in_a_tiff_is_no_page(tmp_path):
    first, preview = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::2, ::2])
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "a.tif", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PIXELS)


def test_a_large_image_is_refused_unless_the_limit_is_raised_and_pils_limit_stays(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"has 7x11 pixels, and at most 76 are decoded; cut .* raise data\.max_pixels"):
        read_image(tmp_path / "a.png", ImageFormat(max_pixels=76))
    with pytest.raises(FileError, match="at most 76"):
        read_label(tmp_path / "a.png", max_pixels=76)
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 20  # PIL refuses twice as many
    try:
        assert read_image(tmp_path / "a.png").shape == (7, 11, 3)
        assert exif_orientation(tmp_path / "a.png") == 1
        assert Image.MAX_IMAGE_PIXELS == 20
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_no_permission_a_folder_and_a_broken_link_are_told_from_damage(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for name, kind, message in (
        ("x.jpg", "format", "is a folder; expected a file"),
        ("link.png", "missing", r"no such file, a link to .*gone\.png, which is not there"),
    ):
        with pytest.raises(FileError, match=message) as caught:
            read_image(tmp_path / name)
        assert caught.value.kind == kind

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(FileError, match=r"cannot be read \(Permission denied\); check its permissions") as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.kind == "unreadable"


def test_a_label_of_16_bit_colours_is_refused(tmp_path):
    save_16_bit(tmp_path / "a.png", DEEP)
    with pytest.raises(FileError, match="more than 8 bits"):
        read_colours(tmp_path / "a.png")


def test_postscript_under_the_name_of_a_picture_reaches_no_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for reader in (read_image, read_label, read_colours):
        with pytest.raises(FileError, match="cannot be decoded"):
            reader(tmp_path / "x.png")


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_picture_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(FileError, match="is a pipe or a device; expected a file"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_four_bands_of_16_bits_keep_their_order(tmp_path, suffix, capfd):
    path, bands = tmp_path / f"a.{suffix}", np.dstack([DEEP, DEEP[..., :1] // 2])
    cv2.imwrite(str(path), bands[..., [2, 1, 0, 3]])
    capfd.readouterr()
    image = read_image(path, ImageFormat(value_range=(0, 4095), num_bands=4))
    np.testing.assert_array_equal(image, np.rint(bands * (255 / 4095)).astype(np.uint8))
    assert "WARN" not in capfd.readouterr().err
    with pytest.raises(FileError, match=r"image of 4 bands, but model\.input\.channels is 3"):
        read_image(path, ImageFormat(value_range=(0, 4095)))


def test_one_band_is_read_from_grey_images_only(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(PIXELS).save(tmp_path / "rgb.png")
    image = read_image(tmp_path / "grey.png", ImageFormat(num_bands=1))
    np.testing.assert_array_equal(image[..., 0], PIXELS[..., 0])
    with pytest.raises(FileError, match="image of 3 bands"):
        read_image(tmp_path / "rgb.png", ImageFormat(num_bands=1))
    assert rgb_view(image).shape == (7, 11, 3)
    assert rgb_view(np.dstack([PIXELS, image])).tolist() == PIXELS.tolist()


@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_six_bands_of_a_tiff_keep_their_order(tmp_path, dtype, layout, compression):
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    if compression == "lzw":
        pytest.importorskip("imagecodecs", reason="the extra `tiff` is not installed")
    bands = np.random.default_rng(0).integers(0, 256, (7, 11, 6)).astype(dtype)
    path, first = tmp_path / "a.tif", bands if layout == "contig" else np.moveaxis(bands, 2, 0)
    settings = {"planarconfig": layout} if layout != "pages" else {}
    tifffile.imwrite(path, first, photometric="minisblack", compression=compression, **settings)
    value_range = None if dtype == "uint8" else (0.0, 510.0)
    expected = bands if dtype == "uint8" else np.rint(bands / 2).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path, ImageFormat(value_range, num_bands=6)), expected)
    with pytest.raises(FileError, match=r"image of shape \[.*\], but model\.input\.channels is 5"):
        read_image(path, ImageFormat(value_range, num_bands=5))
    with pytest.raises(FileError, match="has 7x11 pixels"):
        read_image(path, ImageFormat(value_range, num_bands=6, max_pixels=76))
    if dtype != "uint8":
        with pytest.raises(FileError, match=r"expected 8 bits a channel, or data\.value_range"):
            read_image(path, ImageFormat(num_bands=6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        image = read_image(path, ImageFormat(value_range, num_bands=6))
    except FileError:
        return
    np.testing.assert_array_equal(
        image, expected
    )  # the pixels come first, only descriptions of later pages are missing


def write_tiff(path, data, **changes):
    """Writes a little-endian TIFF of 7 x 11 pixels in one strip. changes: values of tags, by t and their number."""
    tags = {256: 11, 257: 7, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 7, 279: len(data), 284: 1}
    tags |= {int(name[1:]): value for name, value in changes.items()}
    tail, entries = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            place, tail = 8 + len(data) + len(tail), tail + packed
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, 4, len(values)) + packed
    start = struct.pack("<I", 8 + len(data) + len(tail))
    path.write_bytes(b"II*\0" + start + data + tail + struct.pack("<H", len(tags)) + entries + bytes(4))


def stored_or_refused(read, path, expected):
    """Requires the stored values, or one line where tifffile is not installed."""
    try:
        np.testing.assert_array_equal(read(path), expected)
    except FileError as error:
        assert "needs tifffile, which is not installed; pip install 'segnl[tiff]'" in error.detail  # noqa: PT017
        assert importlib.util.find_spec("tifffile") is None


def test_a_tiff_of_five_bands_says_so(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, bytes(7 * 11 * 5), t277=5)
    expected = r"needs tifffile, which is not installed|image of .*5.*, but model\.input\.channels is 3"
    with pytest.raises(FileError, match=expected):
        read_image(path)
    with pytest.raises(FileError, match=r"a TIFF that only tifffile reads, such as one of more than 4 bands"):
        image_hw(path)


def test_labels_of_a_tiff_whose_0_is_white_are_not_inverted(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, IDS.tobytes(), t262=0)
    stored_or_refused(read_label, path, IDS)
    write_tiff(path, np.packbits(IDS > 2, axis=1).tobytes(), t262=0, t258=1)
    stored_or_refused(read_label, path, IDS > 2)
    stored_or_refused(read_image, path, np.repeat((IDS > 2)[..., None] * 255, 3, axis=2))


@pytest.mark.parametrize("is_one_strip_missing", [False, True])
def test_planes_of_16_bits_are_not_read_as_8(tmp_path, is_one_strip_missing):
    path, size = tmp_path / "a.tif", 7 * 11 * 2
    strips = tuple(8 + size * i for i in range(3 - is_one_strip_missing))
    planes = np.ascontiguousarray(np.moveaxis(DEEP, 2, 0)).tobytes()
    write_tiff(path, planes, t258=(16, 16, 16), t262=2, t273=strips, t277=3, t279=(size,) * len(strips), t284=2)
    expected = np.rint(DEEP * (255 / 4095)).astype(np.uint8)
    if is_one_strip_missing:
        with pytest.raises(FileError, match=r"needs tifffile|planes, tiles or strips are missing"):
            read_image(path, ImageFormat(value_range=(0, 4095)))
    else:
        stored_or_refused(lambda path: read_image(path, ImageFormat(value_range=(0, 4095))), path, expected)


def test_the_hole_of_a_sparse_tiff_is_not_filled_with_its_header(tmp_path):
    write_tiff(tmp_path / "a.tif", IDS.tobytes(), t273=(0, 8 + 44), t278=4, t279=(0, 33))
    with_hole = np.concatenate([np.zeros((4, 11), np.uint8), IDS[4:]])
    stored_or_refused(read_label, tmp_path / "a.tif", with_hole)


def test_a_fourth_band_of_a_tiff_with_no_meaning_is_not_dropped(tmp_path):
    bands = np.dstack([PIXELS, PIXELS[..., 0]])
    write_tiff(tmp_path / "a.tif", bands.tobytes(), t258=(8,) * 4, t262=2, t277=4, t338=0)
    stored_or_refused(lambda path: read_image(path, ImageFormat(num_bands=4)), tmp_path / "a.tif", bands)
    with pytest.raises(FileError, match=r"needs tifffile|image of 4 bands, but model\.input\.channels is 3"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["TIFF", "JPEG", "WEBP", "JPEG2000"])
def test_a_label_in_lossy_compression_is_refused(tmp_path, name):
    Image.fromarray(IDS).save(tmp_path / "a.png", name, **({"compression": "jpeg"} if name == "TIFF" else {}))
    for read in (read_label, read_colours):
        with pytest.raises(FileError, match=f"a label as {name}.*, which may change the values"):
            read(tmp_path / "a.png")


def test_nan_is_refused_naming_the_pixel(tmp_path):
    values = IDS.astype(np.float32)
    values[3, 8] = np.nan
    write_tiff(tmp_path / "a.tif", values.tobytes(), t258=32, t339=3)
    with pytest.raises(FileError, match=r"pixel \(row 3, column 8\) holds NaN"):
        read_image(tmp_path / "a.tif", ImageFormat(value_range=(0, 5)))


@pytest.mark.parametrize(("num_bands", "width"), [(2, 11), (4, 11), (4, 4), (6, 6)])
@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_bands_of_a_multispectral_tiff_are_found_by_its_tags(tmp_path, num_bands, width, layout):
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    bands = np.random.default_rng(0).integers(0, 256, (7, width, num_bands), dtype=np.uint8)
    planes = bands if layout == "contig" else np.moveaxis(bands, 2, 0)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(planes, photometric="minisblack", planarconfig=layout)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", ImageFormat(num_bands=num_bands)), bands)
    with tifffile.TiffWriter(tmp_path / "a.tif", append=True) as file:
        file.write(255 - planes, photometric="minisblack", planarconfig=layout)
    with pytest.raises(FileError, match="holds 2 pages or frames"):
        read_image(tmp_path / "a.tif", ImageFormat(num_bands=num_bands))


def test_boolean_bands_and_no_pixels_are_one_line(tmp_path):
    write_tiff(tmp_path / "a.tif", bytes(7 * 2 * 4), t258=1, t262=2, t277=4, t338=0)
    stored_or_refused(read_image, tmp_path / "a.tif", np.zeros((7, 11, 3)))
    write_tiff(tmp_path / "a.tif", b"", t256=0, t258=(8,) * 4, t262=2, t277=4, t338=0)
    with pytest.raises(FileError):
        read_image(tmp_path / "a.tif")


def test_a_tiff_whose_description_announces_more_planes_than_it_has_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    sizes = 'DimensionOrder="XYCZT" Type="uint8" SizeX="11" SizeY="7" SizeC="5" SizeZ="1" SizeT="1"'
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    pixels = f'<Image ID="Image:0"><Pixels ID="Pixels:0" {sizes}><TiffData/></Pixels></Image>'
    description = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}">{pixels}</OME>'
    tifffile.imwrite(tmp_path / "a.tif", IDS, description=description, metadata=None)
    with pytest.raises(FileError, match="planes, tiles or strips are missing"):
        read_image(tmp_path / "a.tif", ImageFormat(num_bands=5))


def test_a_decoder_s_error_without_text_is_named_by_its_class(tmp_path, monkeypatch):
    Image.fromarray(IDS).save(tmp_path / "a.png")

    def fail(_):
        raise AssertionError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(FileError, match=r"cannot be decoded \(AssertionError\)"):
        read_label(tmp_path / "a.png")


def test_a_png_has_the_pixels_that_pil_decodes_and_prints_nothing(tmp_path, monkeypatch, capfd):
    decoded = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(args) or decode(*args))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    draws = np.random.default_rng(1)
    variants = [{}, {"compress_level": 0}, {"dpi": (72, 72)}, {"exif": rotated}, {"transparency": (1, 2, 3)}]
    for options in variants:
        pixels = draws.integers(0, 256, (7, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png", **options)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    assert len(decoded) == 3  # not those with an orientation or a transparent colour
    assert capfd.readouterr().err == ""


def test_a_png_whose_stream_ends_before_its_last_row_is_refused(tmp_path):
    rows = [b"\1" * 11] * 5
    for height, read in ((7, read_label), (7, read_image), (5, read_label)):
        data = bytearray(png(8, 0, rows, 11))
        data[20:24] = struct.pack(">I", height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / "a.png").write_bytes(data)
        if height == 5:
            assert read(tmp_path / "a.png").tolist() == [[1] * 11] * 5
        else:
            with pytest.raises(FileError, match=r"cannot be decoded \(rows are missing\)"):
                read(tmp_path / "a.png")


@pytest.mark.parametrize("before", ["a chunk", "another header"])
def test_a_png_whose_header_is_not_its_only_first_chunk_is_refused_before_it_is_unpacked(tmp_path, before):
    data = png(8, 0, [b"\0" * 11] * 5, 11)
    kind, content = (b"tEXt", bytes(20)) if before == "a chunk" else (b"IHDR", struct.pack(">II", 9, 9) + data[24:29])
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "a.png").write_bytes(data[:8] + chunk + data[8:])
    for read in (read_label, read_image):
        with pytest.raises(FileError, match="its header is not the first chunk"):
            read(tmp_path / "a.png")


def test_a_png_of_more_transparent_colours_than_a_palette_has_is_one_line(tmp_path):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert("P").save(file, "PNG")
    data, content = file.getvalue(), b"tRNS" + b"\xff" * 300
    at = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", 300) + content + struct.pack(">I", zlib.crc32(content))
    (tmp_path / "a.png").write_bytes(data[:at] + chunk + data[at:])
    with pytest.raises(FileError, match="palette index out of range"):
        read_image(tmp_path / "a.png")


def test_a_tiff_of_pages_without_end_is_refused_at_once(tmp_path):
    pages, place = [b"II*\0" + struct.pack("<I", 8)], 8
    tags = [(254, 1), (256, 7), (257, 5), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 5), (279, 35)]
    for _ in range(20_000):
        place += 2 + 12 * len(tags) + 4
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        pages.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", place))
    (tmp_path / "a.tif").write_bytes(b"".join(pages)[:-4] + bytes(4))
    begin = time.monotonic()
    with pytest.raises(FileError, match="more than 1,000 pages"):
        read_label(tmp_path / "a.tif")
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("hw", [(1, 1), (5, 3), (7, 11), (9, 2)])
@pytest.mark.parametrize(("bits", "colour", "num_bytes"), [(1, 0, 1), (8, 3, 1), (8, 6, 4), (16, 2, 6)])
def test_the_rows_of_an_interlaced_png_are_counted(tmp_path, hw, bits, colour, num_bytes):
    sizes = [(len(range(y, hw[0], down)), len(range(x, hw[1], right))) for x, y, right, down in _ADAM7]
    rows = [bytes(columns * num_bytes if bits > 1 else -(-columns // 8)) for n, columns in sizes for _ in range(n)]
    rows = [row for row in rows if row]
    for kept, is_whole in ((rows, True), (rows[:-1], False)):
        data = bytearray(png(bits, colour, kept, hw[1]))
        data[20:24], data[28] = struct.pack(">I", hw[0]), 1
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        if colour == 3:
            data[33:33] = struct.pack(">I", 3) + b"PLTE\0\0\0" + struct.pack(">I", zlib.crc32(b"PLTE\0\0\0"))
        (tmp_path / "a.png").write_bytes(data)
        with nullcontext() if is_whole else pytest.raises(FileError, match="cannot be decoded"):
            read_image(tmp_path / "a.png", ImageFormat((0, 65_535), num_bands=4 if colour == 6 else 3))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:-70] + bytes([data[-70] ^ 1]) + data[-69:], "cannot be decoded"),  # a checksum is wrong
        (lambda data: data[: len(data) // 2], "cannot be decoded"),
        (lambda data: data[:-12], None),  # without its last chunk PIL decodes it
    ],
)
def test_a_damaged_png_is_judged_by_pil(tmp_path, capfd, change, error):
    path = tmp_path / "a.png"
    path.write_bytes(change(png(8, 2, [row.tobytes() for row in PIXELS], 11)))
    if error is None:
        np.testing.assert_array_equal(read_image(path), PIXELS)
    else:
        with pytest.raises(FileError, match=error):
            read_image(path)
    assert capfd.readouterr().err == ""


def test_a_bmp_of_one_byte_a_pixel_and_two_greys_is_refused_since_pillow_reads_bits(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2, (7, 11), dtype=np.uint8)
    for colours, is_right in ((range(256), True), ((0, 255), False), ((0, 254), True)):
        label = Image.fromarray(ids).convert("P")
        label.putpalette([level for level in colours for _ in range(3)])
        label.save(tmp_path / "a.bmp")
        if is_right:
            np.testing.assert_array_equal(read_label(tmp_path / "a.bmp"), ids)
            continue
        for read in (read_label, read_image):
            with pytest.raises(FileError, match="BMP of 8 bits and a grey palette, misread by Pillow; save it as PNG"):
                read(tmp_path / "a.bmp")
    Image.fromarray(ids.astype(bool)).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_label(tmp_path / "a.bmp"), ids)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colours_of_an_image_are_refused_as_a_fourth_band_is(mode, tmp_path):
    pixels = np.arange(77, dtype=np.uint8).reshape(7, 11)
    image = Image.fromarray(pixels if mode != "RGB" else np.repeat(pixels[..., None], 3, 2)).convert(mode)
    image.save(tmp_path / "a.png", transparency=(5, 5, 5) if mode == "RGB" else 5)
    with pytest.raises(FileError, match=r"whose last band holds 0\.\.255; expected RGB or grey"):
        read_image(tmp_path / "a.png")
    if mode != "RGB":
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), np.asarray(Image.open(tmp_path / "a.png")))


def test_a_tiff_whose_order_of_bands_is_unknown_is_refused(tmp_path):
    """tifffile would read other memory, each time another one."""
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    pytest.importorskip("imagecodecs", reason="the extra `tiff` is not installed")
    bits = np.zeros((23, 31, 3), bool)
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="miniswhite", planarconfig="contig", tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["PlanarConfiguration"].overwrite(27)
    with pytest.raises(FileError, match="number or order of its bands"):
        read_image(tmp_path / "a.tif")
