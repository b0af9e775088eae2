import pytest
import torch

from segnl.core.errors import MachineError
from segnl.profiling.peak_memory import MIB, ProfileJob, peak_of, profile, profile_here
from segnl.runs.recipe import load_recipe


def job(config, module="attention", shapes=((1, 16, 33, 41),), overrides=()):
    return ProfileJob(load_recipe(config, overrides).to_dict(), 3, module, shapes)


def test_saved_bytes_of_criss_cross_equal_a_count_by_hand(tiny_config):
    (measured,) = profile_here([job(tiny_config, overrides=["model.head={name: rcca, channels: 16, recurrence: 1}"])])
    n = 33 * 41
    numbers = n * 16  # x, for the gradients of the projections
    numbers += 2 * n * 2  # query and key, 16 / 8 channels
    numbers += n * 16  # value
    numbers += n * (33 + 41)  # weights, with the masked slot
    numbers += (2 + 2 + 16) * 16  # the projections' weights side by side, gamma in those of the values
    assert measured.saved_mib * MIB == 4 * numbers


def test_memory_is_the_same_number_in_this_and_in_another_process(tiny_config):
    (first,), (second,) = profile([job(tiny_config)]), profile_here([job(tiny_config)])
    assert (first.saved_mib, first.peak_mib) == (second.saved_mib, second.peak_mib)
    assert first.peak_mib > first.saved_mib > 0
    assert first.latency_ms > 0
    assert first.passes >= 3


def test_several_jobs_in_one_process_give_each_its_own_bytes(tiny_config):
    small, large = job(tiny_config), job(tiny_config, shapes=((1, 16, 37, 53),))
    both = profile_here([small, large])
    assert [measured.peak_mib for measured in both] == [profile_here([single])[0].peak_mib for single in (small, large)]
    assert both[0].peak_mib < both[1].peak_mib
    assert all(measured.passes >= 3 and measured.latency_ms > 0 for measured in both)


def test_a_matrix_of_all_pairs_would_show_in_the_peak(tiny_config):
    head = "model.head={{name: non_local, channels: 16, pairwise: {}}}"
    n = 33 * 41
    for pairwise in ("dot_product", "concatenation", "embedded_gaussian"):
        (measured,) = profile_here([job(tiny_config, overrides=[head.format(pairwise)])])
        assert measured.peak_mib * MIB < 4 * n * n, pairwise


def test_temporary_buffers_inside_an_operator_count():
    from segnl.profiling.peak_memory import _peak_on_cpu

    x = torch.zeros(1000)

    def step() -> None:
        (x[None, :] + x[:, None]).sum()  # a million floats, freed before the end

    assert _peak_on_cpu(step) == pytest.approx(4e6, rel=0.01)


def test_a_peak_is_the_highest_level_above_the_first():
    def event(ts, total, size):
        return {"ts": ts, "args": {"Total Allocated": total, "Bytes": size}}

    assert peak_of([event(3, 150, -60), event(1, 110, 10), event(2, 210, 100)]) == 110
    assert peak_of([]) == 0


def test_a_process_that_fails_gives_one_line(tiny_config):
    with pytest.raises(MachineError, match=r"could not be measured \(exit 1: .*\); try a smaller"):
        profile([job(tiny_config, shapes=((1, 5, 3, 3),))])
