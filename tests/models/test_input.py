import pytest
import torch

from segnl.models.input import InputConfig, Normalise


def test_pixels_are_normalised_channel_by_channel() -> None:
    image = torch.randint(0, 256, (2, 3, 7, 11), dtype=torch.uint8)
    out = Normalise(InputConfig(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0)))(image)
    assert out.dtype == torch.float32
    assert out[1, 2, 6, 10] == (float(image[1, 2, 6, 10]) - 3) / 8


def test_normalising_does_not_change_its_input() -> None:
    for image in (torch.full((1, 3, 2, 2), 7.0), torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)):
        Normalise(InputConfig())(image)
        assert (image == 7).all()


def test_bgr_takes_rgb_images_and_the_mean_in_bgr_order() -> None:
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 200.0
    out = Normalise(InputConfig(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), order="bgr"))(red)
    assert out[0, :, 0, 0].tolist() == [-104.0, -117.0, 77.0]


def test_normalising_keeps_the_memory_format() -> None:
    image = torch.zeros(2, 3, 5, 7, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert Normalise(InputConfig())(image).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("hw", [(5, 7), (1, 7), (5, 1), (1, 1)])
def test_the_memory_format_changes_no_bit(hw: tuple[int, int], order: str) -> None:
    image = torch.randint(0, 256, (2, 3, *hw), dtype=torch.uint8)
    normalise = Normalise(InputConfig(order=order))
    for pixels in (image, image.float()):
        in_channels_last = pixels.contiguous(memory_format=torch.channels_last)
        assert torch.equal(normalise(in_channels_last), normalise(pixels.contiguous()))
        assert torch.equal(normalise(in_channels_last[..., :3]), normalise(pixels[..., :3].contiguous()))


def test_normalisation_is_not_in_the_state_dict() -> None:
    assert Normalise(InputConfig()).state_dict() == {}


def test_a_grey_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected `b 3 H W`"):
        Normalise(InputConfig())(torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("std", [0.0, 1e-40])
def test_a_standard_deviation_of_zero_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="greater than"):
        Normalise(InputConfig(std=(1.0, std, 1.0)))
