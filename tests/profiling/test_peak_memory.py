import pytest
import torch

from segnl.core.errors import MachineError
from segnl.profiling.peak_memory import MIB, Job, footprint, footprints, measure, peak_of
from segnl.runs.recipe import load_recipe


def job(config, part="attention", shapes=((1, 16, 33, 41),), overrides=()):
    return Job(load_recipe(config, overrides).to_dict(), 3, part, shapes)


def test_saved_bytes_of_criss_cross_are_those_of_a_count_by_hand(tiny_config):
    found = footprint(job(tiny_config, overrides=["model.head={name: rcca, channels: 16, recurrence: 1}"]))
    n = 33 * 41
    numbers = n * 16  # x, for the gradients of the projections
    numbers += 2 * n * 2  # query and key, 16 / 8 channels
    numbers += n * 16  # value
    numbers += n * (33 + 41)  # weights, with the masked slot
    numbers += (2 + 2 + 16) * 16  # the projections' weights side by side, gamma in those of the values
    assert found.saved_mib * MIB == 4 * numbers


def test_memory_is_the_same_number_every_time_and_in_a_process_of_its_own(tiny_config):
    first, second = measure(job(tiny_config)), footprint(job(tiny_config))
    assert (first.saved_mib, first.peak_mib) == (second.saved_mib, second.peak_mib)
    assert first.peak_mib > first.saved_mib > 0
    assert first.latency_ms > 0
    assert first.passes >= 3


def test_several_jobs_in_one_process_give_each_its_own_bytes(tiny_config):
    small, large = job(tiny_config), job(tiny_config, shapes=((1, 16, 37, 53),))
    both = footprints([small, large])
    assert [each.peak_mib for each in both] == [footprint(small).peak_mib, footprint(large).peak_mib]
    assert both[0].peak_mib < both[1].peak_mib
    assert all(each.passes >= 3 and each.latency_ms > 0 for each in both)


def test_a_matrix_of_all_pairs_would_show_in_the_peak(tiny_config):
    head = "model.head={{name: non_local, channels: 16, pairwise: {}}}"
    n = 33 * 41
    for pairwise in ("dot_product", "concatenation", "embedded_gaussian"):
        found = footprint(job(tiny_config, overrides=[head.format(pairwise)]))
        assert found.peak_mib * MIB < 4 * n * n, pairwise


def test_the_record_of_the_allocator_sees_what_an_operator_takes_on_the_way():
    from segnl.profiling.peak_memory import _peak_on_cpu

    x = torch.zeros(1000)

    def step() -> None:
        (x[None, :] + x[:, None]).sum()  # a megafloat that is gone at the end

    assert _peak_on_cpu(step) == pytest.approx(4e6, rel=0.01)


def test_a_peak_is_the_highest_level_above_the_first():
    def event(ts, total, size):
        return {"ts": ts, "args": {"Total Allocated": total, "Bytes": size}}

    assert peak_of([event(3, 150, -60), event(1, 110, 10), event(2, 210, 100)]) == 110
    assert peak_of([]) == 0


def test_a_process_that_fails_leaves_one_line(tiny_config):
    with pytest.raises(MachineError, match=r"could not be measured \(exit 1: .*\); try a smaller"):
        measure(job(tiny_config, shapes=((1, 5, 3, 3),)))
