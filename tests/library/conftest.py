"""Fixtures made of the tiny networks in tiny.py."""

import pytest
import torch
from tiny import TINY, tiny_parts, tiny_reference, tokenizer

from magictailor.backbones.stable_diffusion.backbone import assemble
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.config import TailorConfig


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A network this small is slower on several threads than on one; its sums are rounded alike on equally many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def references():
    return [tiny_reference("tower", 3, 1), tiny_reference("roof", 2, 2)]


@pytest.fixture
def config():
    return TailorConfig(phase1_train_steps=3, phase2_train_steps=4, lora_rank=4, resolution=64)


@pytest.fixture
def parts():
    return tiny_parts


@pytest.fixture
def make_model():
    def make(
        config,
        class_words=("tower", "roof"),
        prediction_type="epsilon",
        memory_format=torch.contiguous_format,
    ):
        unet, encoder, autoencoder = tiny_parts()
        for convolutional in (unet, autoencoder):
            convolutional.to(memory_format=memory_format)
        return assemble(
            family=TINY,
            unet=unet,
            encoders={"clip_l": encoder},
            autoencoder=autoencoder,
            schedule=scaled_linear_schedule(prediction_type),
            tokenizer=tokenizer,
            class_words=class_words,
            config=config,
        )

    return make
