import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.arrays import Pixels
from segnl.core.errors import ConfigError, DataError
from segnl.evaluation import predict_video as module
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import Predictor
from segnl.runs.build import build_data, build_model, device_of
from segnl.runs.recipe import load_recipe

av = pytest.importorskip("av")

HW = (38, 54)
UPRIGHT = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000]


@pytest.fixture
def predictor(tiny_config):
    recipe = load_recipe(tiny_config)
    table = build_data(recipe, "val").table
    return Predictor(build_model(recipe, 3, is_new=True), recipe, table, device_of())


def frames(count: int, hw: tuple[int, int] = HW) -> list[Pixels]:
    """Pictures with a bright left upper corner that moves down."""
    pictures = np.full((count, *hw, 3), 40, np.uint8)
    for i, picture in enumerate(pictures):
        picture[i : i + 9, :15] = (220, 90, 30)
    return list(pictures)


def write_video(
    path: Path, pictures: list[Pixels], *, codec: str = "libx264", times: list[int] | None = None, fast: bool = False
) -> Path:
    """times: of the frames, in 1/600 s; default 25 a second."""
    options = {"movflags": "faststart"} if fast else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p" if stream.width % 2 or stream.height % 2 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (times or range(0, 24 * len(pictures), 24))[i], Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_video(path: Path) -> tuple[list[Pixels], list[Fraction]]:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in decoded], [frame.pts * frame.time_base for frame in decoded]


def test_every_frame_gets_its_masks_and_the_video_its_colours(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames(7))
    image = tmp_path / "still.png"
    Image.fromarray(frames(1)[0]).save(image)
    assert predict_files(predictor, [clip, image], tmp_path / "out") == 8
    names = [f"{i:06d}.png" for i in range(7)]
    for kind in ("ids", "colour"):
        assert sorted(path.name for path in (tmp_path / "out" / kind / "clip").iterdir()) == names
        assert (tmp_path / "out" / kind / "still.png").exists()
    pictures, _ = read_video(clip)
    expected = predictor.class_table.to_mask(predictor.predict(pictures[3]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/ids/clip/000003.png")), expected)
    overlaid, _ = read_video(tmp_path / "out/overlay/clip.mp4")
    assert [picture.shape for picture in overlaid] == [(*HW, 3)] * 7
    drawn = module.overlay(pictures[3], predictor.predict(pictures[3]), predictor.class_table)
    assert np.abs(overlaid[3].astype(int) - drawn).mean() < 25  # halved colours and a lossy codec
    assert [path.name for path in (tmp_path / "out/overlay").iterdir() if path.name.startswith(".")] == []


def test_a_variable_rate_is_kept(predictor, tmp_path):
    times = [0, 24, 30, 300, 330]
    clip = write_video(tmp_path / "clip.mp4", frames(5), times=times)
    predict_files(predictor, [clip], tmp_path / "out")
    assert read_video(tmp_path / "out/overlay/clip.mp4")[1] == [Fraction(time, 600) for time in times]


def test_odd_sides_stay_in_the_masks_and_are_made_even_in_the_video(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mkv", frames(2, (37, 53)), codec="ffv1")
    predict_files(predictor, [clip], tmp_path / "out")
    assert Image.open(tmp_path / "out/ids/clip/000001.png").size == (53, 37)
    assert read_video(tmp_path / "out/overlay/clip.mp4")[0][0].shape == (38, 54, 3)


def test_a_phones_rotation_is_applied(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mov", frames(2))
    content = clip.read_bytes()
    plain = b"".join(value.to_bytes(4, "big") for value in UPRIGHT)
    quarter = [0, 0x10000, 0, 2**32 - 0x10000, 0, 0, HW[0] << 16, 0, 0x40000000]  # clockwise, as a phone writes it
    track = content.index(plain, content.index(b"tkhd"))
    turned = b"".join(value.to_bytes(4, "big") for value in quarter)
    clip.write_bytes(content[:track] + turned + content[track + len(plain) :])
    predict_files(predictor, [clip], tmp_path / "out")
    assert Image.open(tmp_path / "out/ids/clip/000000.png").size == HW
    stored = read_video(clip)[0][0]
    expected = predictor.class_table.to_mask(predictor.predict(np.ascontiguousarray(np.rot90(stored, -1))))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/ids/clip/000000.png")), expected)


def test_a_long_video_does_not_pile_up(predictor, tmp_path, monkeypatch):
    alive, most = 0, 0
    to_mask, write = predictor.class_table.to_mask, module._write_png

    def counted(labels):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return to_mask(labels)

    def written(path, picture):
        nonlocal alive
        write(path, picture)
        alive -= path.parent.parent.name == "ids"

    monkeypatch.setattr(type(predictor.class_table), "to_mask", lambda _table, labels: counted(labels))
    monkeypatch.setattr(module, "_write_png", written)
    clip = write_video(tmp_path / "clip.mp4", frames(60))
    assert predict_files(predictor, [clip], tmp_path / "out") == 60
    assert most <= 6


def test_files_that_are_no_whole_video_are_one_line(predictor, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", frames(5)).read_bytes()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    cases = {
        "empty.mp4": (b"", "the file is empty"),
        "cut.mp4": (whole[: len(whole) // 2], "cannot be read as a video"),  # its index is at its end
        "text.mp4": (b"no video at all" * 100, "cannot be read as a video"),
        "sound.mp4": (buffer.getvalue(), "holds no video stream"),
        "codec.mp4": (whole.replace(b"avc1", b"xvc1"), "codec that PyAV cannot decode"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            predict_files(predictor, [tmp_path / name], tmp_path / "out")
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/overlay/cut.mp4").exists()


def test_a_video_that_breaks_off_is_one_line_and_keeps_the_masks_before(predictor, tmp_path):
    draws = np.random.default_rng(0)
    pictures = [draws.integers(0, 256, (*HW, 3), dtype=np.uint8) for _ in range(30)]
    clip = write_video(tmp_path / "clip.mp4", pictures, fast=True)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(DataError, match=r"clip\.mp4: cannot be decoded after frame \d+ \("):
        predict_files(predictor, [clip], tmp_path / "out")
    assert list((tmp_path / "out/ids/clip").iterdir())
    assert list((tmp_path / "out/overlay").iterdir()) == []


def test_a_video_is_not_replaced_by_its_own_overlay(predictor, tmp_path):
    (tmp_path / "out/overlay").mkdir(parents=True)
    clip = write_video(tmp_path / "out/overlay/clip.mp4", frames(2))
    before = clip.read_bytes()
    with pytest.raises(ConfigError, match=r"clip\.mp4: exists and was not written by segnl predict"):
        predict_files(predictor, [clip], tmp_path / "out")
    assert clip.read_bytes() == before


@pytest.mark.parametrize("address", ["rtsp://camera/1", "http://host/clip.mp4"])
def test_a_stream_is_refused(predictor, tmp_path, address):
    with pytest.raises(ConfigError, match="is the address of a stream; save it as a file first"):
        predict_files(predictor, [Path(address)], tmp_path / "out")


def test_a_webcam_is_refused(predictor, tmp_path):
    with pytest.raises(ConfigError, match="0: is the number of a webcam"):
        predict_files(predictor, [Path("0")], tmp_path / "out")


def test_a_playlist_under_the_name_of_a_video_opens_no_other_file(predictor, tmp_path):
    clip = write_video(tmp_path / "real.mp4", frames(2))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(DataError, match="cannot be read as a video"):
        predict_files(predictor, [tmp_path / "list.mp4"], tmp_path / "out")


def test_a_network_of_several_frames_reads_folders(predictor, tmp_path):
    predictor.model.num_frames = 3
    with pytest.raises(ConfigError, match=r"sees 3 frames at once .*; write the video's frames as images of a folder"):
        module.predict_video(predictor, tmp_path / "clip.mp4", tmp_path / "out", "clip")


def test_a_missing_pyav_names_the_extra(predictor, tmp_path, monkeypatch):
    clip = write_video(tmp_path / "clip.mp4", frames(1))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"segnl\[video\]"):
        predict_files(predictor, [clip], tmp_path / "out")


def test_the_same_command_replaces_its_own_masks_and_video_and_no_frame_of_somebody_else(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames(3))
    predict_files(predictor, [clip], tmp_path / "out")
    predict_files(predictor, [clip], tmp_path / "out")
    (tmp_path / "out/ids/clip/000001.png").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"000001\.png: exists and was not written by segnl predict"):
        predict_files(predictor, [clip], tmp_path / "out")


def test_frames_of_a_longer_video_of_that_name_do_not_stay(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames(4))
    predict_files(predictor, [clip], tmp_path / "out")
    write_video(clip, frames(2))
    predict_files(predictor, [clip], tmp_path / "out")
    for kind in ("ids", "colour"):
        names = sorted(path.name for path in (tmp_path / "out" / kind / "clip").iterdir())
        assert names == ["000000.png", "000001.png"]


def test_images_and_frames_of_one_name_are_refused(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames(1))
    (tmp_path / "in" / "clip").mkdir(parents=True)
    Image.fromarray(frames(1)[0]).save(tmp_path / "in/clip/000000.png")
    with pytest.raises(ConfigError, match=r"clip\.mp4: its masks would lie among those of .*000000\.png"):
        predict_files(predictor, [tmp_path / "in", clip], tmp_path / "out")
    clip.rename(tmp_path / "..mp4")
    with pytest.raises(ConfigError, match="give a plain name"):
        predict_files(predictor, [tmp_path / "..mp4"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_video_is_not_replaced_by_the_overlay_that_predict_wrote(predictor, tmp_path):
    predict_files(predictor, [write_video(tmp_path / "clip.mp4", frames(2))], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"clip\.mp4 would be replaced by its own prediction"):
        predict_files(predictor, [tmp_path / "out/overlay/clip.mp4"], tmp_path / "out")


def test_a_frame_of_another_size_is_refused_before_it_is_predicted(predictor, tmp_path, monkeypatch):
    small, large = (write_video(tmp_path / f"{i}.ts", frames(2, (38 * i, 54 * i))) for i in (1, 3))
    (tmp_path / "clip.ts").write_bytes(small.read_bytes() + large.read_bytes())

    def predict(image: Pixels) -> Pixels:
        assert image.shape == (38, 54, 3)
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(predictor, "predict", predict)
    with pytest.raises(DataError, match="has a frame of 114x162 pixels after 38x54; export it with frames of one"):
        predict_files(predictor, [tmp_path / "clip.ts"], tmp_path / "out")
