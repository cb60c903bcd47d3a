"""What nodes write below themselves while they run."""

import importlib

import pytest
import torch


@pytest.fixture
def module(nodes):
    return importlib.import_module(f"{nodes.__name__}.bridge.host")


@pytest.mark.parametrize(("client", "sent"), [("mine", [("half way", "7", "mine")]), (None, [])])
def test_text_goes_to_the_client_that_queued_alone(module, monkeypatch, client, sent):
    from comfy_execution.utils import CurrentNodeContext

    class Server:
        client_id = client
        told = []

        def send_progress_text(self, *arguments):
            self.told.append(arguments)

    Server.told = []
    monkeypatch.setattr(module.PromptServer, "instance", Server(), raising=False)
    with CurrentNodeContext("prompt", "7"):
        module.show_text("half way")
    assert Server.told == sent


def test_train_says_what_it_learns(nodes, library):
    training = importlib.import_module(f"{nodes.__name__}.bridge.training")
    picture, mask = torch.rand(3, 32, 32), torch.ones(32, 32)
    references = [library.Reference(word, (picture,), (mask,)) for word in ("house", "roof", "door")]
    assert training.learned(references) == "2 components: <v0> = house, <v1> = roof, <v2> = door"
    assert training.learned(references[:2]) == "1 component: <v0> = house, <v1> = roof"
