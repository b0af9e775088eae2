from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, DataError
from segnl.data.denoise import DenoiseSettings, denoise_files

SETTINGS = DenoiseSettings(strength=0.1, patch=3, search=5)


def photograph(path: Path, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    channels = {"RGB": 3, "L": 1}[mode]
    clean = np.repeat(np.arange(24) // 8 * 90 + 30, 17 * channels).reshape(24, 17, channels).swapaxes(0, 1)
    pixels = (clean + np.random.default_rng(0).normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0], mode).save(path, **options)
    return path


def test_results_keep_name_format_and_size(tmp_path: Path) -> None:
    images = [
        photograph(tmp_path / "in" / "colour.png"),
        photograph(tmp_path / "in" / "grey.png", "L"),
        photograph(tmp_path / "in" / "photo.jpg", quality=95),
    ]
    before = [path.read_bytes() for path in images]
    denoise_files(images, tmp_path / "out", SETTINGS)
    assert [path.read_bytes() for path in images] == before
    modes = {"colour.png": "RGB", "grey.png": "L", "photo.jpg": "RGB"}
    for name, mode in modes.items():
        with Image.open(tmp_path / "out" / name) as result, Image.open(tmp_path / "in" / name) as source:
            assert (result.mode, result.size, result.format) == (mode, source.size, source.format)
            noise, left = (
                float(np.diff(np.array(image.convert("L"), float), axis=0).std()) for image in (source, result)
            )
            assert left < 0.7 * noise


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif"])
def test_results_are_written_without_loss(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    settings = DenoiseSettings(0.2, patch=3, search=5)
    denoise_files([tmp_path / name], tmp_path / "out", settings)
    with Image.open(tmp_path / "out" / name) as result:
        assert np.array_equal(result, settings.apply(noise))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif"])
def test_orientation_is_kept(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = photograph(tmp_path / "in" / name, exif=exif)
    denoise_files([path], tmp_path / "out", SETTINGS)
    with Image.open(tmp_path / "out" / name) as result:
        assert result.getexif()[274] == 6


def test_an_image_of_16_bits_is_refused_without_a_word_of_recipes(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: image of more than 8 bits a channel; expected 8 bits a channel$"):
        denoise_files([tmp_path / "deep.png"], tmp_path / "out", SETTINGS)


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    path = photograph(tmp_path / "in" / "a.png")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.png: an input, which would be overwritten"):
        denoise_files([path], tmp_path / "in", SETTINGS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(path)
    with pytest.raises(ConfigError, match=r"a\.png: an input, which would be overwritten"):
        denoise_files([path], tmp_path / "out", SETTINGS)
    assert path.read_bytes() == before


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    images = [photograph(tmp_path / folder / "a.png") for folder in ("one", "two")]
    with pytest.raises(ConfigError, match=r"two/a\.png: its result would overwrite that of .*one/a\.png"):
        denoise_files(images, tmp_path / "out", SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DenoiseSettings(0.1, patch=4), r"a\.png: patch: 4; expected an odd"),
        (DenoiseSettings(0.0), r"a\.png: strength: 0.0; expected a number above 0"),
        (DenoiseSettings(0.1, patch=19), r"a\.png: patch: 19; larger than the image of 17 x 24 pixels"),
    ],
)
def test_bad_settings_name_the_image(tmp_path: Path, settings: DenoiseSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        denoise_files([photograph(tmp_path / "in" / "a.png")], tmp_path / "out", settings)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("text")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        denoise_files([path], tmp_path / "out", SETTINGS)


def test_a_tiff_that_tifffile_alone_reads_is_named(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")
    pixels = np.zeros((7, 11, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match="a kind of TIFF that is not written"):
        denoise_files([tmp_path / "a.tif"], tmp_path / "out", SETTINGS)
