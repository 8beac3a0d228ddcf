"""The ledger of elastic training tells whether each sample was used once, whatever was done again."""

from itertools import pairwise

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from npdp.base.partition import bounds
from npdp.data.batch import Batch
from npdp.elastic import expected_checksum
from npdp.elastic.ledger import Ledger, checksum

ROWS = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


@given(ROWS, st.integers(0, 9), st.integers(1, 5), st.randoms())
def test_the_checksum_of_rows_does_not_depend_on_their_order_or_parts(rows, epoch, parts, random):
    wanted = checksum(np.array(rows), epoch)
    random.shuffle(rows)
    cuts = bounds(len(rows), parts)
    assert sum(checksum(np.array(rows[start:stop], np.int64), epoch) for start, stop in pairwise(cuts)) == wanted
    assert wanted <= len(rows) * 2**32  # so that a float64 has the sum of a batch exactly


@given(ROWS, ROWS, st.integers(0, 9), st.integers(0, 9))
def test_other_samples_or_the_same_in_another_epoch_have_another_checksum(rows, others, epoch, another):
    assume((sorted(rows), epoch) != (sorted(others), another))
    assert checksum(np.array(rows), epoch) != checksum(np.array(others), another)


def test_samples_whose_numbers_have_the_same_sum_have_another_checksum():
    for row in range(1000):
        assert checksum(np.array([row, row + 3]), 0) != checksum(np.array([row + 1, row + 2]), 0)


def batch(number):
    return Batch(2, 0, 2, number, 1)


def test_a_batch_counts_once_and_each_of_its_losses():
    ledger, rows, first = Ledger(2, 0), np.array([3, 5]), batch(0)
    ledger.add(1.5, first, rows)
    ledger.add(0.5, first, rows)
    ledger.note_sum(ledger.line)
    ledger.commit()
    assert (ledger.samples, ledger.checksum, ledger.mean_loss) == (2, checksum(rows, 0), 2.0)


def test_what_is_done_again_counts_once():
    ledger = Ledger(2, 0)
    for epoch in range(2):
        for number, rows in enumerate((np.array([0, 2]), np.array([1, 3]))):
            for is_last in (False, True):
                ledger.add(float(number + epoch), batch(number), rows)
                if is_last or number:
                    ledger.note_sum(ledger.line)
                if is_last:
                    ledger.commit()
                else:
                    ledger.discard()
        assert ledger.mean_loss == 0.5 + epoch  # of this one alone
        assert (ledger.samples, ledger.checksum) == (4 * (epoch + 1), expected_checksum(4, epoch + 1))
    other = Ledger(2, 0)
    other.load_state_dict(ledger.state_dict())
    assert other.state_dict() == ledger.state_dict()
