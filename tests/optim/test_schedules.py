import math

import pytest

from segnl.optim.find import SCHEDULES
from segnl.optim.schedules.cosine import CosineConfig
from segnl.optim.schedules.poly import PolyConfig
from segnl.runs.recipe import load_recipe


def test_poly_is_the_published_formula_and_ends_above_end_lr():
    poly = PolyConfig(name="poly", power=0.9, end_lr=1e-4)
    for step in (0, 7, 99):
        expected = 1e-4 + (0.01 - 1e-4) * (1 - step / 100) ** 0.9
        assert poly.learning_rate(step, max_steps=100, lr=0.01) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_half_of_a_wave():
    cosine = CosineConfig(name="cosine")
    for step in (0, 50, 99):
        expected = (1 + math.cos(math.pi * step / 100)) / 2
        assert cosine.learning_rate(step, max_steps=100, lr=1.0) == pytest.approx(expected, rel=1e-12)


def test_warm_up_climbs_in_equal_steps_to_the_base_rate():
    poly = PolyConfig(name="poly", warmup_steps=3)
    rates = [poly.learning_rate(step, max_steps=10, lr=1.0) for step in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_warm_up_longer_than_the_training_stays_a_rate():
    poly = PolyConfig(name="poly", warmup_steps=50)
    assert all(0 < poly.learning_rate(step, max_steps=10, lr=1.0) < 1 for step in range(10))


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_falls_from_1_to_0(name):
    schedule = SCHEDULES.find(name)(name=name)
    factors = [schedule.factor(done / 10) for done in range(11)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert factors == sorted(factors, reverse=True)


def test_anybodys_module_is_a_schedule(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "mylab_schedules").mkdir()
    (tmp_path / "mylab_schedules" / "linear.py").write_text(
        "from segnl.optim.schedules.base import ScheduleConfig\n\n"
        "class LinearConfig(ScheduleConfig):\n"
        "    def factor(self, done):\n"
        "        return 1 - done\n\n"
        "SCHEDULE = LinearConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    schedule = load_recipe(tiny_config, ["schedule={name: mylab_schedules.linear, warmup_steps: 2}"]).schedule
    assert schedule.learning_rate(6, max_steps=10, lr=1.0) == pytest.approx(0.5)
