"""Fixtures made of the tiny networks in tiny.py."""

import pytest
import torch
from tiny import tiny_model, tiny_parts, tiny_reference

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
    return tiny_model
