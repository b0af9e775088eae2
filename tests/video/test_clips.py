import numpy as np

from segnl.video.clips import COLOURS, FRAMES, VISIBLE, make_clips


def nearest_colours(num: int) -> tuple[np.ndarray, np.ndarray]:
    """The colours at the centres of both objects in their middle frames, `n 2`, and the classes."""
    clips = make_clips(num, "test of clips")
    found = np.empty((num, 2), int)
    for i in range(num):
        for which, start in enumerate((0, FRAMES - VISIBLE)):
            row, column = clips.centres[i, which, 1]
            pixel = clips.frames[i, :, start + 1, row, column].astype(float)
            found[i, which] = np.argmin(((COLOURS - pixel) ** 2).sum(axis=1))
    return found, clips.label


def test_the_class_is_whether_the_colours_agree() -> None:
    colours, label = nearest_colours(300)
    np.testing.assert_array_equal(colours[:, 0] == colours[:, 1], label == 1)


def test_one_moment_alone_says_nothing() -> None:
    colours, label = nearest_colours(3000)
    for which in (0, 1):
        for colour in range(len(COLOURS)):
            shares = [np.mean(colours[label == value, which] == colour) for value in (0, 1)]
            np.testing.assert_allclose(shares, 1 / 3, atol=0.05)  # four standard deviations of 1500 draws


def test_nothing_is_to_be_seen_in_between() -> None:
    frames = make_clips(20, 1).frames.astype(float)
    contrast = frames.max(axis=1).std(axis=(2, 3))  # n t
    assert contrast[:, VISIBLE:-VISIBLE].max() < contrast[:, [0, -1]].min()


def test_clips_are_a_function_of_their_purpose() -> None:
    first, again, other = make_clips(5, 0, "train", 3), make_clips(5, 0, "train", 3), make_clips(5, 0, "train", 4)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.frames != other.frames).any()
