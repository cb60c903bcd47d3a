"""A step at full size, without a GPU and without values: its peak is what was predicted, and it does nothing twice."""

import pytest

from benchmarks.full_size import GIB, Case, metered
from magictailor.memory import FASTEST, MemoryPlan


@pytest.mark.parametrize(
    ("case", "plan", "gib"),
    [
        (Case("sd15", (3, 3)), FASTEST, 8.0),
        (Case("sd15", (2, 1), resolution=640), MemoryPlan("balanced", 2, True), 4.5),
        (Case("sd15", (1, 1), rank=128), MemoryPlan("smallest", 1, True, True, True), 2.2),
        (Case("sdxl", (1,)), MemoryPlan("balanced", 0, True), 10.2),
    ],
)
def test_the_peak_is_as_predicted(case, plan, gib):
    found = metered(case, plan)
    assert -0.03 <= found.predicted / found.peak - 1 <= 0.10, (found.predicted / GIB, found.peak / GIB)
    assert found.peak <= gib * GIB
    warm_up, ds_bal = found.waits
    assert warm_up == 1
    # how many pictures are held is not known before where references have unequally many
    assert ds_bal == (1 if len(set(case.pictures)) == 1 else 2)


def test_all_at_once_computes_nothing_twice():
    warm_up, ds_bal = metered(Case("sd15", (3, 3)), FASTEST).flops
    # counted by hand of the same step, attention's backward pass as the fused kernel makes it
    assert warm_up <= 1.05 * 17.69e12
    assert ds_bal <= 1.05 * 20.15e12
