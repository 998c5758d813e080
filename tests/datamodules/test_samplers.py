from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import HeadsDataModule
from datamodules.samplers import BatchPlan, EvaluationSampler, StepBatchSampler
from utils.errors import InputError


@settings(deadline=None, max_examples=50)
@given(items=st.integers(1, 50), batch=st.sampled_from([1, 2, 4, 8]), steps=st.integers(1, 20), data=st.data())
def test_order_is_independent_of_resuming_and_ranks(items, batch, steps, data):
    plan = BatchPlan(batch, batch * steps)
    whole = list(StepBatchSampler(items, plan, seed=3))
    start = data.draw(st.integers(0, steps))
    assert list(StepBatchSampler(items, plan, seed=3, start=start)) == whole[start:]
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 4) if batch % r == 0]))
    parts = [list(StepBatchSampler(items, plan, seed=3, rank=r, world_size=ranks)) for r in range(ranks)]
    assert [list(chain.from_iterable(part[i] for part in parts)) for i in range(steps)] == whole


def test_each_epoch_is_a_different_permutation():
    stream = np.concatenate(list(StepBatchSampler(10, BatchPlan(5, 5 * 6), seed=0)))
    epochs = stream.reshape(3, 10)
    assert (np.sort(epochs, 1) == np.arange(10)).all()
    assert not (epochs[0] == epochs[1]).all()
    assert list(StepBatchSampler(10, BatchPlan(5, 5 * 6), seed=1)) != list(
        StepBatchSampler(10, BatchPlan(5, 5 * 6), seed=0)
    )


def test_length_is_that_of_the_whole_run_after_resuming():
    assert len(StepBatchSampler(10, BatchPlan(5, 5 * 6), start=4)) == 6


def test_infinite_source_is_read_in_order():
    assert list(StepBatchSampler(None, BatchPlan(4, 4 * 2), start=1)) == [[4, 5, 6, 7]]


def test_batch_size_must_be_divisible_by_ranks():
    with pytest.raises(ValueError, match=r"batch_size 5 .* must be divisible by 2 ranks"):
        StepBatchSampler(10, BatchPlan(5, 5 * 1), world_size=2)


@pytest.mark.parametrize("items", [1, 3, 8, 11])
def test_evaluation_covers_every_item_once(items):
    parts = [list(EvaluationSampler(items, 4, r, 3)) for r in range(3)]
    for batch, first in enumerate(range(0, items, 4)):
        of_all = chain.from_iterable(part[batch] for part in parts if batch < len(part))
        assert list(of_all) == list(range(first, min(first + 4, items)))
    assert [len(EvaluationSampler(items, 4, r, 3)) for r in range(3)] == [len(p) for p in parts]
    assert all(batch for part in parts for batch in part)


def test_an_evaluation_batch_has_an_item_for_each_rank():
    with pytest.raises(InputError, match=r"batch_size 2 .* must be at least 4"):
        EvaluationSampler(8, 2, 0, 4)


def test_batch_slice():
    sampler = EvaluationSampler(11, 4, 1, 2)
    assert [sampler.batch_slice(i) for i in range(3)] == [(4, slice(2, 4)), (4, slice(2, 4)), (3, slice(1, 3))]
    assert list(sampler) == [[2, 3], [6, 7], [9, 10]]


def test_changing_batch_sizes_leave_no_gaps():
    plan = BatchPlan(8, 70, [(20, 4), (41, 2)])
    steps = [plan[i] for i in range(plan.steps)]
    # A change takes effect after the current step: 20 is within the third step, 41 within the seventh.
    assert [size for _, size in steps] == [8, 8, 8, 4, 4, 4, 4, 4] + [2] * 13
    assert [start for start, _ in steps] == list(np.cumsum([0] + [size for _, size in steps])[:-1])
    whole = list(StepBatchSampler(10, plan, seed=1))
    assert (
        np.concatenate(whole).tolist() == np.concatenate(list(StepBatchSampler(10, BatchPlan(2, 70), seed=1))).tolist()
    )
    assert list(StepBatchSampler(10, plan, seed=1, start=5)) == whole[5:]
    ranks = [list(StepBatchSampler(10, plan, seed=1, rank=r, world_size=2)) for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


@given(st.integers(1, 9), st.integers(1, 200), st.lists(st.tuples(st.integers(1, 250), st.integers(1, 9)), max_size=4))
def test_batch_size_changes_at_the_first_step_at_or_after_the_border(batch, total, changes):
    changes = sorted(dict(changes).items())
    plan = BatchPlan(batch, total, changes)
    seen = 0
    for step in range(plan.steps):
        start, size = plan[step]
        expected = [batch, *(size for items, size in changes if items <= start)][-1]
        assert (start, size) == (seen, expected)
        seen += size
    assert abs(seen - total) <= max(size for size in plan.sizes)


def test_changes_at_fractions_of_a_thousand_images_are_whole_images():
    """1000 * 4.03 is slightly more than 4030 in floating point."""
    plan = HeadsDataModule(batch_size=10, total_kimg=5, batch_changes=[(4.03, 20)]).plan
    assert [plan[step] for step in (402, 403, 404)] == [(4020, 10), (4030, 20), (4050, 20)]


@pytest.mark.parametrize("changes", [[(20, 0)], [(20, 4), (20, 2)], [(0, 4)], [(-1, 4)]])
def test_invalid_batch_changes_raise(changes):
    with pytest.raises(InputError, match="batch_changes"):
        BatchPlan(8, 70, changes)
