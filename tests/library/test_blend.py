"""Two tailorings as one: the sum of their LoRAs at any rank, and a file like any other."""

import dataclasses

import pytest
import torch

from magictailor.blend import added, blended
from magictailor.errors import InputError
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring
from magictailor.tailoring import Tailoring, Token

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_attentions_0_proj_in"


def tailoring(seed, rank, label, layers=(LAYER, CONV)):
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, generator=generator)

    lora = {}
    for layer in layers:
        kernel = (1, 1) if layer == CONV else ()
        lora[f"{layer}.lora_down.weight"] = random(rank, 32, *kernel)
        lora[f"{layer}.lora_up.weight"] = random(24, rank, *kernel)
        lora[f"{layer}.alpha"] = torch.tensor(float(seed))
    tokens = tuple(
        Token(f"<{label}:v{n}>", word, {"clip_l": random(1, 768)}) for n, word in enumerate(("house", "roof"))
    )
    return Tailoring("sd1", lora, tokens, None, None)


def change(tailoring, layer):
    """What a LoRA adds to a layer's weight."""
    up, down, alpha = (tailoring.lora[f"{layer}.{name}"] for name in ("lora_up.weight", "lora_down.weight", "alpha"))
    return up.flatten(1) @ down.flatten(1) * (alpha / len(down))


ONE, OTHER = tailoring(1, 3, "a"), tailoring(2, 5, "b", (LAYER,))


def test_all_ranks_together_lose_nothing(tmp_path):
    both, kept = blended([ONE, OTHER], [0.5, -2.0])
    assert kept == pytest.approx(1.0) and both.rank == 8
    assert torch.allclose(change(both, LAYER), 0.5 * change(ONE, LAYER) - 2.0 * change(OTHER, LAYER), atol=1e-4)
    assert torch.allclose(change(both, CONV), 0.5 * change(ONE, CONV), atol=1e-4)
    assert both.lora[f"{CONV}.lora_up.weight"].shape == (24, 8, 1, 1)
    save_tailoring(both, tmp_path / "both.safetensors")
    loaded = load_tailoring(tmp_path / "both.safetensors")
    assert [t.name for t in loaded.tokens] == ["<a:v0>", "<a:v1>", "<b:v0>", "<b:v1>"]
    assert all(torch.equal(loaded.lora[key], both.lora[key]) for key in both.lora)


def test_a_lower_rank_is_the_nearest_there_is():
    both, kept = blended([ONE, OTHER], [1.0, 1.0], rank=4)
    whole = change(ONE, LAYER) + change(OTHER, LAYER)
    left, values, right = torch.linalg.svd(whole.double(), full_matrices=False)
    nearest = left[:, :4] * values[:4] @ right[:4]
    assert torch.allclose(change(both, LAYER), nearest.float(), atol=1e-4)
    assert 0 < kept < 1 and both.rank == 4


def test_the_share_that_is_kept_is_of_the_squared_weights():
    up, down = torch.diag(torch.tensor([3.0, 4.0])), torch.eye(2)
    *_, kept, whole = added([(up, down)], 1)
    assert (kept, whole) == (pytest.approx(16.0), pytest.approx(25.0))


@pytest.mark.parametrize(
    ("given", "strengths", "told"),
    [
        ([ONE, OTHER], [1.0], "strengths: there are 1 for 2"),
        ([ONE, tailoring(2, 5, "a")], [1.0, 1.0], "tailorings: .*each token needs a name of its own"),
        ([ONE, dataclasses.replace(OTHER, family_name="sd2")], [1.0, 1.0], "tailoring: "),
    ],
)
def test_what_cannot_be_one_is_refused(given, strengths, told):
    with pytest.raises(InputError, match=told):
        blended(given, strengths)
