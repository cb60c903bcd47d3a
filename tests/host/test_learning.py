"""Training on the host's checkpoint learns: the masked loss falls and the tokens look at their masks."""

import pytest
import torch

RESOLUTION = 128
DRAWS = 2


@pytest.fixture
def training(nodes, library, loaded_checkpoint, taesd, pair_folder):
    # the paper's 0.01 for attention works over hundreds of steps; here there are seven
    config = library.config.TailorConfig(
        phase1_train_steps=5,
        phase2_train_steps=2,
        resolution=RESOLUTION,
        lora_rank=8,
        phase1_learning_rate=3e-3,
        phase2_learning_rate=1e-3,
        lambda_attention=2.0,
        flip_probability=0.0,
    )
    # one picture of each is enough to see it, and a CPU can carry it
    references = [
        library.Reference(part.class_word, part.images[:1], part.masks[:1]) for part in library.load_pair(pair_folder)
    ]
    weights = nodes.bridge.backbones.checkpoint_weights(*loaded_checkpoint[:2], taesd)
    words = [reference.class_word for reference in references]
    model = library.backbones.build(weights, words, config, torch.device("cpu"))
    return library.Training(model, references, config)


def measured(library, training, draws):
    """Mean masked diffusion loss, and the share of the tokens' attention that lies inside their masks."""
    maps, model = [], training.model
    mean_map = model.capture.mean_map
    model.capture.mean_map = lambda size: maps.append(mean_map(size)) or maps[-1]
    with torch.no_grad():
        losses = [training.losses(1, d).diffusion.mean().item() for d in draws]
    model.capture.mean_map = mean_map
    shares = []
    for attention in maps:
        masks = library.pictures.shrink(training.pictures.masks, attention.shape[-2:])[:, 0]
        shares.append(((attention * masks).sum((1, 2)) / attention.sum((1, 2))).mean().item())
    return sum(losses) / len(losses), sum(shares) / len(shares)


def test_the_masked_loss_falls_and_attention_moves_onto_the_masks(library, training):
    draws = [training.draw(1000 + n) for n in range(DRAWS)]
    loss, share = measured(library, training, draws)
    for _ in range(training.config.total_steps):
        training.step()
    loss_after, share_after = measured(library, training, draws)
    print(f"masked loss {loss:.4f} -> {loss_after:.4f}, attention inside the masks {share:.3f} -> {share_after:.3f}")
    assert loss_after < 0.9 * loss
    assert share_after > share + 0.02
