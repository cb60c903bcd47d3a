"""Tokens of several vectors, and what they start from."""

import pytest
import torch
from tiny import TINY, tiny_model, tiny_parts, tiny_reference, tokenizer

from magictailor.backbones.stable_diffusion.conditioning import PromptEncoder
from magictailor.backbones.token_rows import starting_rows
from magictailor.config import TailorConfig
from magictailor.errors import InputError
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring
from magictailor.tailoring import put_into, tailoring_of
from magictailor.training import train

TABLE = torch.arange(12.0).view(6, 2)


@pytest.mark.parametrize(
    ("vectors", "mean", "expected"),
    [
        (1, False, [TABLE[2], TABLE[4]]),
        (1, True, [TABLE[[2, 5, 3]].mean(0), TABLE[4]]),
        (2, False, [TABLE[2], TABLE[5], TABLE[4], TABLE[4]]),
        (2, True, [TABLE[[2, 5, 3]].mean(0)] * 2 + [TABLE[4]] * 2),
        (4, False, [TABLE[2], TABLE[5], TABLE[3], TABLE[2], *[TABLE[4]] * 4]),
    ],
)
def test_a_token_starts_from_the_pieces_of_its_word(vectors, mean, expected):
    assert torch.equal(starting_rows(TABLE, [[2, 5, 3], [4]], vectors, mean), torch.stack(expected))


def test_every_vector_stands_in_the_prompt_and_is_watched():
    _, encoder, _ = tiny_parts()
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["roof", "tower"], vectors=3)
    size = len(encoder.get_input_embeddings().weight)
    (ids,) = prompts.ids(["<v1> with <v0>"])["clip_l"].tolist()
    assert ids[1:4] == [size + 3, size + 4, size + 5] and ids[-1] != ids[5] and ids[5:8] == [size, size + 1, size + 2]
    assert prompts.positions("<v1> with <v0>", "<v1>") == [1, 2, 3]
    # "A photo of" stands before them
    assert prompts.columns.tolist() == [[4, 5, 6]] * 2


def test_several_vectors_are_learned_saved_and_put_back(tmp_path, monkeypatch):
    # the tiny network is of no family that files can name
    monkeypatch.setattr("magictailor.tailoring.require_family", lambda *_: None)
    config = TailorConfig(
        phase1_train_steps=1, phase2_train_steps=1, resolution=64, lora_rank=2, vectors_per_token=3,
        phase1_learning_rate=1e-2, phase2_learning_rate=1e-2,
    )  # fmt: skip
    model = tiny_model(config)
    before = model.token_rows()["clip_l"].detach().clone()
    references = [tiny_reference("tower", 1, 0), tiny_reference("roof", 1, 1)]
    learned = train(model, references, config).tailoring
    assert (model.token_rows()["clip_l"].detach() != before).any(1).all()
    assert [tuple(token.rows["clip_l"].shape[:1]) for token in learned.tokens] == [(3,), (3,)]
    save_tailoring(learned.labelled("anna"), tmp_path / "three.safetensors")
    loaded = load_tailoring(tmp_path / "three.safetensors")
    assert loaded.vectors_per_token == 3 and loaded.config == config
    again = tiny_model(config)
    put_into(again, loaded)
    assert torch.equal(again.token_rows()["clip_l"], model.token_rows()["clip_l"])
    # it calls its tokens as the tailoring does
    mine, theirs = again.encode_prompts(["<anna:v0>"]), model.encode_prompts(["<v0>"])
    assert torch.equal(mine.hidden, theirs.hidden)
    again.require_readable("<anna:v1>")
    with pytest.raises(InputError, match="^prompt: holds <v1>"):
        again.require_readable("<v1>")
    with pytest.raises(InputError, match="^tailoring: has words of other numbers of vectors"):
        put_into(tiny_model(TailorConfig(lora_rank=2)), loaded)
    assert torch.equal(
        tailoring_of(again, ["tower", "roof"], config, 2).tokens[1].rows["clip_l"], learned.tokens[1].rows["clip_l"]
    )
