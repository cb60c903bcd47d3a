"""Nonsense in files, folders and values is refused in words, in bounded memory, and nothing is written elsewhere."""

import sys

import pytest

from benchmarks.durability.fuzz import fuzz, targets
from benchmarks.durability.huge import huge

INPUTS = 2000


def test_nonsense_is_refused_in_words(tmp_path):
    rows = [fuzz(target, round(INPUTS * target.share), tmp_path, number=1) for target in targets(tmp_path)]
    assert sum(row.times for row in rows) >= INPUTS
    assert not [str(row) for row in rows if not row.good]


@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory can be set back on Linux alone")
def test_what_claims_to_be_huge_is_read_in_bounded_memory(tmp_path):
    rows = list(huge(tmp_path))
    assert len(rows) > 10 and not [str(row) for row in rows if not row.good]
