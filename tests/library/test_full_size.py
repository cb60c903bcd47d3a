"""A step at full size, without a GPU and without values: its peak is what was predicted, and it does nothing twice."""

import dataclasses

import pytest

from benchmarks.full_size import GIB, Case, forward_on_gpu, metered
from benchmarks.shapes import SHAPES, Shape
from magictailor.memory import FASTEST, MemoryPlan


def predicted_and_waited_for_once(case, found, gib):
    assert -0.03 <= found.predicted / found.peak - 1 <= 0.10, (found.predicted / GIB, found.peak / GIB)
    assert found.peak <= gib * GIB
    warm_up, ds_bal = found.waits
    assert warm_up == 1
    # how many pictures are held is not known before where references have unequally many
    assert ds_bal == (1 if len(set(case.pictures)) == 1 else 2)


@pytest.mark.parametrize(
    ("case", "plan", "gib"),
    [
        (Case("sd21", (4, 2), precision="fp16"), MemoryPlan("balanced", 1, True), 5.0),
        (
            Case("sd15", (1, 1), rank=128, precision="no", resolution=640),
            MemoryPlan("smallest", 1, True, True, True),
            2.2,
        ),
        (Case("sdxl", (1,)), MemoryPlan("balanced", 0, True), 10.2),
    ],
    ids=["fp16, in parts", "32 bits, all away", "sdxl"],
)
def test_the_peak_is_as_predicted(case, plan, gib):
    predicted_and_waited_for_once(case, metered(case, plan), gib)


def test_all_at_once_fits_8_gib_and_computes_nothing_twice():
    case = Case("sd15", (3, 3))
    found = metered(case, FASTEST)
    predicted_and_waited_for_once(case, found, 8.0)
    warm_up, ds_bal = found.flops
    # counted by hand of the same step, attention's backward pass as the fused kernel makes it
    assert warm_up <= 1.05 * 17.69e12
    assert ds_bal <= 1.05 * 20.15e12


def shallow(name, **of_network):
    """As wide as the family, with fewer layers of each kind."""
    shape = SHAPES[name]
    if isinstance(shape, Shape):
        return dataclasses.replace(shape, unet=shape.unet | of_network)
    return dataclasses.replace(shape, t5=shape.t5 | {"num_layers": 2}, transformer=shape.transformer | of_network)


@pytest.mark.parametrize(
    "shape",
    [
        shallow("sd15", layers_per_block=1),
        shallow("sd21_v", layers_per_block=1),
        shallow("sdxl", layers_per_block=1, transformer_layers_per_block=1),
        shallow("sd35m", num_layers=3, dual_attention_layers=(0, 1)),
    ],
    ids=lambda shape: shape.family,
)
def test_nothing_of_a_forward_pass_is_left_on_the_cpu(shape):
    prediction = forward_on_gpu(shape)
    assert prediction.answer.device.type == prediction.maps.device.type == "cuda"
