import multiprocessing
import os
import pickle
import signal
import time
from operator import itemgetter

import numpy as np
import pytest
import torch

from segnl.core import limits
from segnl.core.errors import DataError, MachineError
from segnl.data import loader
from segnl.data.loader import BatchKeys, BatchPlan, eval_samples, train_batches
from segnl.data.sample import collate
from segnl.data.transforms import TrainTransform


def batches(data, *, workers=0, transform=None, timeout_s=900.0, **steps):
    transform = transform or TrainTransform(data.cfg, (124, 116, 104), 3)
    plan = BatchPlan(**{"seed": 3, "batch_size": 4, "first_step": 0, "max_steps": 6, **steps})
    return list(train_batches(data, transform, plan, workers=workers, timeout_s=timeout_s))


def same(a, b):
    return a.sample_ids == b.sample_ids and torch.equal(a.image, b.image) and torch.equal(a.label, b.label)


class Sleepy:
    """A transform that hangs, or kills its own process, at one index of the first epoch."""

    def __init__(self, inner, index, act):
        self.inner, self.index, self.act = inner, index, act

    def __call__(self, sample, epoch, index):
        if (epoch, index) == (1, self.index):
            if self.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3)
        return self.inner(sample, epoch, index)


def test_batches_have_the_declared_shapes_and_types(make_folder):
    (batch,) = batches(make_folder(5), max_steps=1)
    assert (batch.image.shape, batch.image.dtype) == ((4, 3, 7, 11), torch.uint8)
    assert (batch.label.shape, batch.label.dtype) == ((4, 7, 11), torch.uint8)
    assert batch.image.is_contiguous()
    assert len(batch.sample_ids) == 4


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_and_any_resume_gives_the_same_batches(make_folder):
    data = make_folder(5, flip=True, distort=True)
    whole = batches(data)
    for workers in (2, 3):
        assert all(same(a, b) for a, b in zip(whole, batches(data, workers=workers), strict=True))
    resumed = batches(data, workers=1, first_step=4)
    assert all(same(a, b) for a, b in zip(whole[4:], resumed, strict=True))
    assert not torch.equal(whole[0].image, whole[1].image)


def test_a_batch_stays_as_it_was_when_its_shared_memory_is_used_again(make_folder):
    data = make_folder(5)
    max_steps = 3 * (loader.PREFETCH + 1) + 1
    expected = batches(data, max_steps=max_steps)
    for rank, world in ((0, 1), (2, 3)):
        kept = batches(data, workers=1, max_steps=max_steps, rank=rank, world=world)
        for whole, batch in zip(expected, kept, strict=True):
            assert batch.sample_ids == whole.sample_ids[rank::world]
            assert torch.equal(batch.image, whole.image[rank::world])
            assert torch.equal(batch.label, whole.label[rank::world])


def test_every_epoch_holds_every_image_once_in_another_order():
    keys = [key for step in BatchKeys(7, BatchPlan(0, 3, 0, 14)) for key in step]
    epochs = [[index for epoch, index in keys if epoch == e] for e in range(6)]
    assert [sorted(order) for order in epochs] == [list(range(7))] * 6
    assert len({tuple(order) for order in epochs}) > 1
    assert list(BatchKeys(7, BatchPlan(1, 3, 0, 14))) != list(BatchKeys(7, BatchPlan(0, 3, 0, 14)))


def test_ranks_share_a_batch_without_overlap():
    whole = list(BatchKeys(7, BatchPlan(0, 5, 2, 9)))
    ranks = [list(BatchKeys(7, BatchPlan(0, 5, 2, 9, rank, 2))) for rank in (0, 1)]
    for step, (first, second) in enumerate(zip(*ranks, strict=True)):
        assert (first, second) == (whole[step][::2], whole[step][1::2])
    with pytest.raises(ValueError, match="batch_size 1 for 2 ranks"):
        next(train_batches(None, None, BatchPlan(0, 1, 0, 1, world=2), workers=0, timeout_s=1))


def test_a_data_set_of_one_image_fills_a_batch_with_different_crops(make_folder):
    (batch,) = batches(make_folder(1), max_steps=1)
    assert batch.sample_ids == ["street_0"] * 4
    assert not torch.equal(batch.image[0], batch.image[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_one_line_with_file_index_and_epoch(make_folder, workers):
    data = make_folder(5)
    data.image_path(2).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        batches(data, workers=workers)
    epoch = next(epoch for step in BatchKeys(5, BatchPlan(3, 4, 0, 6)) for epoch, index in step if index == 2)
    expected = f"{data.image_path(2)}: the file is empty; download or export it again (index 2, epoch {epoch})"
    assert str(caught.value) == expected
    with pytest.raises(DataError, match=r"street_2\.png: the file is empty; .* \(index 2\)$"):
        list(eval_samples(data, workers=workers))


def test_a_killed_worker_is_a_machine_error_within_seconds(make_folder, monkeypatch):
    assert loader._POLL_S <= 5
    monkeypatch.setattr(loader, "_POLL_S", 0.5)
    data = make_folder(5)
    inner = TrainTransform(data.cfg, (124, 116, 104), 3)
    with pytest.raises(MachineError, match=r"data worker( \d+)?: was killed, .*lower data\.workers"):
        batches(data, workers=2, transform=Sleepy(inner, 2, "die"), max_steps=4)


def test_a_worker_killed_during_a_training_step_does_not_interrupt_it(make_folder, monkeypatch):
    monkeypatch.setattr(loader, "_POLL_S", 0.5)
    data = make_folder(5)
    transform = TrainTransform(data.cfg, (124, 116, 104), 3)
    stream = train_batches(data, transform, BatchPlan(3, 4, 0, 1000), workers=1, timeout_s=900.0)
    next(stream)
    for worker in multiprocessing.active_children():
        worker.kill()
    time.sleep(0.3)  # a step; torch's own SIGCHLD handler would raise here
    with pytest.raises(MachineError, match="was killed"):
        list(stream)


@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError, EOFError])
def test_a_worker_that_dies_while_it_sends_a_batch_is_a_machine_error(error):
    def arrivals():
        raise error(104, "gone")
        yield

    with pytest.raises(MachineError, match="was killed"):
        loader._next(arrivals(), 1.0)


def test_a_hung_worker_is_a_machine_error_after_its_timeout(make_folder):
    data = make_folder(5)
    inner = TrainTransform(data.cfg, (124, 116, 104), 3)
    with pytest.raises(MachineError, match=r"sent nothing for 0\.6 s; .*data\.worker_timeout_s"):
        batches(data, workers=1, transform=Sleepy(inner, 2, "hang"), max_steps=4, timeout_s=0.6)


def test_too_little_shared_memory_is_said_before_workers_start(make_folder, monkeypatch):
    monkeypatch.setattr(limits, "free_shared_memory", lambda: 2 * 3 * 4 * 4 * 7 * 11 - 1)  # 2 workers, 3 batches each
    monkeypatch.setattr(loader, "DataLoader", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(MachineError, match=r"/dev/shm: 0\.0 MiB of shared memory are free, but 2 data\.workers need"):
        batches(make_folder(5), workers=2)


def test_shared_memory_that_others_fill_is_said_at_the_first_poll(make_folder, monkeypatch):
    monkeypatch.setattr(loader, "_POLL_S", 0.2)
    data = make_folder(5)
    free = iter([2**30, 100])  # enough at the start
    monkeypatch.setattr(limits, "free_shared_memory", lambda: next(free))
    transform = Sleepy(TrainTransform(data.cfg, (124, 116, 104), 3), 0, "sleep")
    with pytest.raises(MachineError, match=r"shared memory are free, but 2 data\.workers need .* for 1 batches"):
        batches(data, workers=2, transform=transform)


def test_a_slow_worker_is_waited_for_beyond_one_poll(make_folder, monkeypatch):
    monkeypatch.setattr(loader, "_POLL_S", 0.2)
    data = make_folder(3)
    slow = SlowStart(TrainTransform(data.cfg, (124, 116, 104), 3))
    assert len(batches(data, workers=1, transform=slow, max_steps=1)) == 1


class SlowStart:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, sample, epoch, index):
        time.sleep(0.3)
        return self.inner(sample, epoch, index)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_samples_are_at_their_own_size_and_only_those_asked_for(make_folder, workers):
    data = make_folder(5)
    samples = list(eval_samples(data, workers=workers))
    assert [index for index, _ in samples] == [0, 1, 2, 3, 4]
    for index, sample in samples:
        expected = data.read(index)
        assert sample.id == expected.id
        np.testing.assert_array_equal(sample.image, expected.image)
        np.testing.assert_array_equal(sample.label, expected.label)
    assert [index for index, _ in eval_samples(data, workers=workers, indices=[4, 1])] == [4, 1]
    assert list(eval_samples(data, workers=workers, indices=[])) == []


def test_loading_leaves_torchs_random_state_alone(make_folder):
    data = make_folder(3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(data, max_steps=1)
    batches(data, max_steps=1, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_everything_sent_to_a_spawned_worker_can_be_pickled(make_folder):
    data = make_folder(2)
    store = loader._SharedBatches(1, (4, 3, 7, 11)).store
    crops = loader._Batches(data, TrainTransform(data.cfg, (124, 116, 104), 3), collate)
    images = loader._Batches(data, loader._tensors, itemgetter(0))
    again, *_ = pickle.loads(pickle.dumps((crops, images, store, loader._unchanged, loader._start_worker)))
    assert same(again[[(0, 1)]], crops[[(0, 1)]])
