import json
import pickle
import random
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest

from segnl.core.errors import ConfigError
from segnl.data import transforms as module
from segnl.data.base import DataConfig
from segnl.data.find import DATASETS
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Sample
from segnl.data.transforms import PhotometricDistortion, ScaledCrop, TrainTransform, transform_entry
from segnl.runs.recipe import compose, load_recipe

PAD = (124, 116, 104)


def transform(seed=0, **settings):
    plain = {"name": "x", "root": "x", "crop_hw": (7, 11), "scale": (1.0, 1.0), "flip": False, "distort": False}
    return TrainTransform(DataConfig.model_validate_json(json.dumps(plain | settings)), PAD, seed)


def sample(hw, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
    return Sample(image, (image[..., 0] % 3).astype(np.uint8), "a")


def smooth(hw):
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns) % 256], -1).astype(np.uint8)
    return Sample(image, (rows // 5 % 3).astype(np.uint8), "a")


def test_nested_transforms_are_built_once(monkeypatch):
    calls = []
    plain = module.build_transform
    monkeypatch.setattr(module, "build_transform", lambda entry, cfg: calls.append(entry["name"]) or plain(entry, cfg))
    entry = {"HorizontalFlip": {}}
    for _ in range(20):
        entry = {"OneOf": {"transforms": [entry]}}
    module.transform_entry(entry)
    assert len(calls) == 21


def test_at_scale_1_a_crop_is_a_window_of_the_image_and_its_label():
    source = sample((29, 31))
    windows = {source.image[y : y + 7, x : x + 11].tobytes(): (y, x) for y in range(23) for x in range(21)}
    places = set()
    make = transform()
    for index in range(60):
        crop = make(source, 0, index)
        y, x = windows[crop.image.tobytes()]
        np.testing.assert_array_equal(crop.label, source.label[y : y + 7, x : x + 11])
        places.add((y, x))
    assert len(places) > 40
    assert {y for y, _ in places} >= {0, 22}, "the first and the last row can be reached"


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.6, 2.0])
def test_a_crop_is_a_window_of_the_whole_image_resized(factor):
    source = smooth((61, 83))
    scaled = round(61 * factor), round(83 * factor)
    image = cv2.resize(source.image, scaled[::-1]).astype(int)
    label = cv2.resize(source.label, scaled[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    crop = transform(scale=(factor, factor), crop_hw=(23, 37))(source, 0, 1)
    gap = [
        (np.abs(image[y : y + 23, x : x + 37] - crop.image).max(), np.mean(label[y : y + 23, x : x + 37] != crop.label))
        for y in range(scaled[0] - 22)
        for x in range(scaled[1] - 36)
    ]
    worst, wrong = min(gap)
    assert worst <= 2  # both interpolate in fixed point
    assert wrong < 0.03  # a centre that falls between two pixels may go to either


@pytest.mark.parametrize("factor", [0.05, 0.37, 0.73, 1.0, 1.61, 16.0])
def test_a_window_has_the_values_that_opencv_interpolates_from_three_channels(factor):
    source = sample((61, 83))
    scaled = [round(61 * factor), round(83 * factor)]
    window_hw = [min(23, scaled[0]), min(37, scaled[1])]
    down, right = 61 / scaled[0], 83 / scaled[1]
    step = ScaledCrop(DataConfig(name="x", root=Path("x"), crop_hw=(23, 37)))
    for share in (0.0, 0.4, 1.0):  # the first, an inner and the last window
        top, left = (round(share * (s - w)) for s, w in zip(scaled, window_hw, strict=True))
        matrix = np.array([[right, 0, (left + 0.5) * right - 0.5], [0, down, (top + 0.5) * down - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(source.image, matrix, window_hw[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        window = step.apply(source.image, ([top, left], window_hw, [down, right]))
        np.testing.assert_array_equal(window, expected)


def test_an_image_smaller_than_the_crop_is_padded_with_the_mean_and_void():
    source = sample((5, 8))
    crop = transform(distort=True, flip=True)(source, 3, 4)
    assert crop.image.shape == (7, 11, 3)
    assert (crop.label[5:] == 255).all()
    assert (crop.label[:, 8:] == 255).all()
    assert (crop.image[5:] == PAD).all()
    assert (crop.image[:, 8:] == PAD).all()
    assert crop.label[:5, :8].max() <= 2
    plain = transform()(source, 0, 0)
    np.testing.assert_array_equal(plain.image[:5, :8], source.image)


@pytest.mark.parametrize("hw", [(1, 1), (1, 200), (7, 11), (3, 500)])
def test_any_size_gives_the_crop_size(hw):
    make = transform(scale=(0.1, 3.0), flip=True, distort=True)
    for index in range(8):
        crop = make(sample(hw), 0, index)
        assert crop.image.shape == (7, 11, 3)
        assert crop.label.shape == (7, 11)
        assert (crop.image.dtype, crop.label.dtype) == (np.uint8, np.uint8)


def test_image_and_label_are_mirrored_together_about_half_the_time():
    source = sample((7, 11))
    flipped = 0
    make = transform(flip=True)
    for index in range(200):
        crop = make(source, 0, index)
        is_mirrored = not np.array_equal(crop.image, source.image)
        expected = Sample(source.image[:, ::-1], source.label[:, ::-1], "a") if is_mirrored else source
        np.testing.assert_array_equal(crop.image, expected.image)
        np.testing.assert_array_equal(crop.label, expected.label)
        flipped += is_mirrored
    assert 70 < flipped < 130  # four standard deviations of a fair coin


def test_a_crop_depends_on_seed_epoch_and_index_alone():
    source = sample((40, 50))
    make = transform(scale=(0.5, 2.0), flip=True, distort=True)
    first = make(source, 2, 5)
    for other in (make(source, 2, 6), make(source, 3, 5), transform(seed=1, scale=(0.5, 2.0))(source, 2, 5)):
        assert not np.array_equal(first.image, other.image)
    random.seed(7)
    np.random.seed(7)
    again = pickle.loads(pickle.dumps(make))(source, 2, 5)
    np.testing.assert_array_equal(again.image, first.image)
    np.testing.assert_array_equal(again.label, first.label)


def test_scale_and_place_are_independent():
    # One seed for every transform of a Compose, albumentations' own way, correlates them perfectly.
    make = transform(scale=(0.5, 2.0), flip=True, crop_hw=(1, 1))
    label = np.zeros((100, 100), np.uint8)
    drawn = []
    for index in range(300):
        out = make(Sample(np.tile(np.arange(100, dtype=np.uint8)[:, None, None], (1, 100, 3)), label, "a"), 0, index)
        scaled = 100 / make._compose.transforms[0].params["window"][2][0]
        drawn.append((scaled, out.image[0, 0, 0], make._compose.transforms[1].params != {}))
    table = np.corrcoef(np.array(drawn, dtype=float).T)
    assert np.abs(table[np.triu_indices(3, 1)]).max() < 0.2  # 3.5 standard deviations


def test_short_side_px_makes_factor_1_mean_that_length():
    make = transform(short_side_px=20, scale=(1.0, 1.0), crop_hw=(64, 64))
    crop = make(sample((40, 60)), 0, 0)
    assert (crop.label != 255).sum() == 20 * 30


def test_a_crop_full_of_one_class_is_drawn_again():
    label = np.zeros((20, 60), np.uint8)
    label[:, 25:35] = 1  # few windows of 10 columns hold both classes
    source = Sample(np.zeros((20, 60, 3), np.uint8), label, "a")

    def num_varied(limit):
        make = transform(crop_hw=(10, 10), crop_max_class=limit)
        return sum(np.bincount(make(source, 0, i).label.ravel()).max() <= 75 for i in range(60))

    assert num_varied(None) < 25
    assert num_varied(0.75) > 45  # ten tries of 0.2 each find one in nine cases of ten


def test_an_all_void_image_still_gives_a_crop():
    source = Sample(np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 255, np.uint8), "a")
    assert (transform(crop_max_class=0.75)(source, 0, 0).label == 255).all()


def test_distortion_agrees_with_a_loop_over_pixels():
    image = sample((5, 7)).image
    none = {"brightness": 0.0, "contrast": 1.0, "is_contrast_first": True, "saturation": 1.0, "hue": 0}
    step = PhotometricDistortion()
    np.testing.assert_array_equal(step.apply(image, **none), image)
    for is_first in (True, False):
        out = step.apply(image, **none | {"brightness": 20.5, "contrast": 1.3, "is_contrast_first": is_first})
        for value, got in zip(image.ravel().tolist(), out.ravel().tolist(), strict=True):
            lit = min(255.0, value + 20.5) if is_first else round(min(255.0, value + 20.5))
            assert got == round(min(255.0, lit * 1.3))
    for brightness in (-31.5, -0.4, 7.5, 31.9):
        expected = np.clip(np.rint(image + brightness), 0, 255)
        np.testing.assert_array_equal(step.apply(image, **none | {"brightness": brightness}), expected)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] - 18) % 180
    hsv[..., 1] = np.minimum(255, np.rint(hsv[..., 1] * 0.5))
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(step.apply(image, **none | {"saturation": 0.5, "hue": -18}), expected)


def test_distortion_draws_stay_in_their_ranges():
    step = PhotometricDistortion()
    step.set_random_seed(0)
    draws = [step.get_params() for _ in range(400)]
    for key, low, high, rest in (
        ("brightness", -32, 32, 0),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -18, 18, 0),
    ):
        values = np.array([draw[key] for draw in draws], dtype=float)
        assert low <= values.min() < low * 0.9 + high * 0.1
        assert low * 0.1 + high * 0.9 < values.max() <= high
        assert 140 < (values == rest).sum() < 260


def test_transforms_change_neither_their_input_nor_the_global_random_state():
    source = sample((20, 30))
    before, state = source.image.copy(), (random.getstate(), np.random.get_state()[1].tobytes())
    transform(scale=(0.5, 2.0), flip=True, distort=True)(source, 0, 0)
    np.testing.assert_array_equal(source.image, before)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == state


# ---- data.augment ----


def test_the_fixed_transforms_as_a_list_give_the_same_crops():
    fixed = transform(scale=(0.5, 2.0), flip=True, distort=True)
    listed = transform(
        scale=(0.5, 2.0), augment=["ScaledCrop", {"HorizontalFlip": {"p": 0.5}}, {"name": "PhotometricDistortion"}]
    )
    for index in range(20):
        one, other = fixed(sample((29, 31)), 1, index), listed(sample((29, 31)), 1, index)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


MOVING = [
    [{"Rotate": {"limit": [30, 30], "p": 1}}],
    [{"Affine": {"scale": [0.5, 0.7], "translate_percent": [0.2, 0.3], "p": 1}}],
    [{"Perspective": {"p": 1}}],
    [{"ElasticTransform": {"p": 1, "alpha": 40}}],
    [{"GridDistortion": {"p": 1}}],
    [{"Transpose": {"p": 1}}, {"RandomScale": {"scale_limit": 0.5, "p": 1}}],
    [{"OneOf": {"transforms": [{"VerticalFlip": {"p": 1}}, {"SafeRotate": {"limit": [40, 40], "p": 1}}], "p": 1}}],
]


@pytest.mark.parametrize("augment", MOVING, ids=lambda augment: next(iter(augment[0])))
def test_a_transform_that_moves_the_image_moves_the_label_and_fills_it_with_ignored(augment):
    # Large squares: the interpolated image keeps the label's values but for the pixels beside an edge.
    label = np.kron(np.arange(12).reshape(3, 4) % 3, np.ones((20, 20))).astype(np.uint8)
    image = np.repeat((label[..., None] + 1) * 60, 3, axis=2).astype(np.uint8)
    make = transform(augment=augment, crop_hw=(60, 80))
    for index in range(5):
        crop = make(Sample(image, label, "a"), 0, index)
        assert set(np.unique(crop.label)) <= {0, 1, 2, 255}
        inside = crop.label != 255
        expected = (crop.label[inside].astype(int) + 1) * 60
        assert np.mean(np.abs(crop.image[inside][:, 0].astype(int) - expected) > 30) < 0.1
        outside = crop.image[~inside]
        mixed = ~((outside == 0).all(1) | (outside == PAD).all(1))
        assert mixed.sum() < 2 * (60 + 80), "the image is filled there, but for the pixels along its border"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_transform_depends_on_the_order_of_class_ids():
    label = np.kron(np.random.default_rng(0).integers(0, 3, (6, 8)), np.ones((10, 10))).astype(np.uint8)
    label[:5] = 255
    image = np.repeat((label[..., None] + 1) * 60, 3, axis=2).astype(np.uint8)
    renamed = np.arange(256, dtype=np.uint8)
    renamed[:3] = 2, 3, 1
    num_tried = 0
    # MaskDropout removes connected areas that are not 0; the others ask for boxes, volumes or more images.
    apart = {"MaskDropout", "BBoxSafeRandomCrop", "CoarseDropout3D", "CubicSymmetry", "Mosaic", "OverlayElements"}
    dual = {name for name, value in vars(A).items() if isinstance(value, type) and issubclass(value, A.DualTransform)}
    for name in dual - apart - {"RandomCropNearBBox"}:
        arguments = {"x_max": 60, "y_max": 50} if name == "Crop" else {}
        try:
            augment = [transform_entry({name: {"p": 1} | arguments})]
        except ValueError:  # a base class, refused, or with arguments that have no default
            continue
        make = transform(augment=augment, crop_hw=(60, 80))
        for index in range(2):
            crop, of_renamed = (make(Sample(image, ids, "a"), 0, index).label for ids in (label, renamed[label]))
            np.testing.assert_array_equal(renamed[crop], of_renamed, err_msg=name)
        num_tried += 1
    assert num_tried > 25


@pytest.mark.parametrize("hw", [(3, 500), (7, 11), (29, 31)])
@pytest.mark.parametrize("augment", [[], ["ScaledCrop"], [{"Resize": {"height": 20, "width": 9}}]])
def test_crops_of_any_list_have_the_crop_size(augment, hw):
    crop = transform(augment=augment)(sample(hw), 0, 0)
    assert (crop.image.shape, crop.label.shape) == ((7, 11, 3), (7, 11))


def test_transforms_of_one_class_draw_independently_also_inside_one_of():
    flips = [{"HorizontalFlip": {"p": 0.5}}, {"HorizontalFlip": {"p": 0.5}}]
    source = sample((7, 11))
    for augment in (flips, [{"Sequential": {"transforms": flips, "p": 1}}]):
        make = transform(augment=augment)
        flipped = [not np.array_equal(make(source, 0, index).image, source.image) for index in range(100)]
        assert 30 < sum(flipped) < 70  # with one seed, both flip or neither does


def test_one_of_chooses_by_seed_epoch_and_index_alone():
    choice = [{"OneOf": {"transforms": [{"VerticalFlip": {"p": 1}}, {"RandomRotate90": {"p": 1}}], "p": 0.9}}]
    source = sample((9, 9))
    crops = [transform(augment=choice, crop_hw=(9, 9))(source, 0, index).image.tobytes() for index in range(12)]
    make = transform(augment=choice, crop_hw=(9, 9))
    again = [pickle.loads(pickle.dumps(make))(source, 0, index).image.tobytes() for index in reversed(range(12))]
    assert crops == again[::-1]
    assert len(set(crops)) > 3


AUGMENT = ["ScaledCrop", {"Rotate": {"limit": 20, "p": 0.7}}, {"GaussNoise": {"p": 0.5}}, {"CoarseDropout": {"p": 0.5}}]


def test_listed_transforms_give_the_same_batches_with_any_number_of_workers_and_after_a_resume(tiny_data):
    cfg = DataConfig.model_validate_json(
        json.dumps({"name": "folder", "root": str(tiny_data), "crop_hw": [33, 41], "augment": AUGMENT})
    )
    folder = DATASETS.find("folder")
    data = folder(folder.Config(**cfg.model_dump(), ignore_ids=(9,)), "train")

    def batches(workers, first_step=0):
        plan = BatchPlan(seed=3, batch_size=2, first_step=first_step, max_steps=5)
        loaded = train_batches(data, TrainTransform(cfg, PAD, 3), plan, workers=workers, timeout_s=60)
        return [batch.image.numpy().tobytes() + batch.label.numpy().tobytes() for batch in loaded]

    first = batches(0)
    assert len(set(first)) == 5
    assert batches(2) == first
    assert batches(3, first_step=2) == first[2:]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{HorizontalFlp: {p: 0.5}}", "data.augment.0: unknown transform 'HorizontalFlp'; did you mean 'HorizontalFl"),
        ("{Rotate: {limt: 3}}", "data.augment.0: transform Rotate: unknown argument 'limt'; did you mean 'limit'?"),
        ("{HorizontalFlip: {p: 5}}", "transform HorizontalFlip: p: Input should be less than or equal to 1"),
        ("{Rotate: {mask_interpolation: 1}}", "mask_interpolation: class ids cannot be interpolated"),
        ("{Rotate: 10}", "expected a transform such as {HorizontalFlip: {p: 0.5}}"),
        ("3", "data.augment.0: holds 3; expected a transform such as"),
        ("OneOf", "transform OneOf: transforms: expected a list of transforms"),
        ("{OneOf: {transforms: [{Rotat: {}}]}}", "unknown transform 'Rotat'; did you mean 'Rotate'?"),
        ("ToTensorV2", "the model normalises them; leave it out"),
        ("FrequencyMasking", "transform FrequencyMasking: fills the label with class 0; write XYMasking"),
        ("Morphological", "lets the class with the larger or smaller id grow in the label; leave it out"),
        ("Compose", "unknown transform 'Compose'"),
        ("a.", "unknown transform 'a.'"),
        ('"../x"', "unknown transform '../x'"),
        ("{ScaledCrop: {scale: [1, 2]}}", "set data.scale, data.short_side_px and data.crop_max_class instead"),
        ("mylab_nowhere.rain", "cannot import mylab_nowhere.rain"),
    ],
)
def test_an_error_in_augment_is_one_line(entry, says, tiny_config):
    with pytest.raises(ConfigError) as err:
        load_recipe(tiny_config, [f"data.augment=[{entry}]"])
    assert says in str(err.value)
    assert "\n" not in str(err.value)


USERS_TRANSFORM = """\
import albumentations as A

class Stripe(A.ImageOnlyTransform):
    def __init__(self, width: int = 1, p: float = 0.5):
        super().__init__(p=p)
        self.width = width

    def get_params(self):
        return {"column": self.py_random.randrange(5)}

    def apply(self, img, column, **params):
        img = img.copy()
        img[:, column : column + self.width] = 7
        return img

TRANSFORM = Stripe
"""


def test_a_transform_that_fails_names_the_image():
    make = transform(augment=[{"CenterCrop": {"height": 50, "width": 50}}])
    with pytest.raises(ConfigError, match=r"^data\.augment: cannot transform image a: [^\n]*$"):
        make(sample((20, 30)), 0, 0)


def test_crops_that_are_not_uint8_are_refused(tmp_path, monkeypatch):
    (tmp_path / "mylab_transforms").mkdir()
    (tmp_path / "mylab_transforms" / "half.py").write_text(USERS_TRANSFORM.replace("return img\n", "return img / 2\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    make = transform(augment=[{"mylab_transforms.half": {"p": 1}}])
    with pytest.raises(ConfigError, match=r"makes image a float64 \(7, 11, 3\), .* expected uint8 \(7, 11, 3\)"):
        make(sample((20, 30)), 0, 0)


def test_every_form_of_an_entry_is_one_recipe(tiny_config):
    forms = ("{VerticalFlip: {p: 0.5}}", "{name: VerticalFlip, p: 0.5}")
    one, other = (load_recipe(tiny_config, [f"data.augment=[{form}]"]) for form in forms)
    assert one.to_dict() == other.to_dict() == compose(one.to_dict(), file="again").to_dict()


def test_a_users_transform_is_found_by_its_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "mylab_transforms").mkdir()
    (tmp_path / "mylab_transforms" / "stripe.py").write_text(USERS_TRANSFORM)
    monkeypatch.syspath_prepend(str(tmp_path))
    make = transform(augment=[{"mylab_transforms.stripe": {"width": 2, "p": 1}}])
    crop = make(sample((7, 11)), 0, 0)
    assert (crop.image == 7).all((0, 2)).sum() == 2
    np.testing.assert_array_equal(crop.image, make(sample((7, 11)), 0, 0).image)


def test_a_crop_of_seven_bands_is_that_of_each_band(make_folder):
    data = make_folder(1, scale=(0.5, 2.0), distort=False, crop_hw=(19, 23))
    bands = np.random.default_rng(0).integers(0, 256, (13, 17, 7), dtype=np.uint8)
    label = data.read(0).label
    fill = tuple(range(10, 17))
    whole = TrainTransform(data.cfg, fill, 0)
    for epoch in range(6):
        crop = whole(Sample(bands, label, "x"), epoch, 0)
        for first in (0, 3, 4):
            one = TrainTransform(data.cfg, fill[first : first + 3], 0)(
                Sample(np.ascontiguousarray(bands[..., first : first + 3]), label, "x"), epoch, 0
            )
            assert (crop.image[..., first : first + 3] == one.image).all()
            assert (crop.label == one.label).all()
