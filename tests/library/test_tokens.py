import dataclasses

import pytest
import torch
from tiny import END, START, TINY, hidden_states, tiny_parts, tokenizer

from magictailor.backbones.clip import prompt_ids
from magictailor.backbones.stable_diffusion.conditioning import EncodedPrompts, PromptEncoder
from magictailor.backbones.token_rows import ExtendedEmbedding
from magictailor.errors import InputError
from magictailor.tokens import in_words, positions_of, require_tokens, split_at_tokens


def test_whoever_has_not_learned_the_tokens_reads_their_words():
    assert in_words("<v0>'s <anna:v1> and <v2x>, <sks>", ["tower", "roof"]) == "tower's roof and <v2x>, <sks>"
    with pytest.raises(InputError, match="prompt: holds <v2>, but there are only tower, roof"):
        in_words("<v2>", ["tower", "roof"])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<v0> with <v1>", ["<v0>", " with ", "<v1>"]),
        ("a (<v0>), <v0>'s <v10>", ["a (", "<v0>", "), ", "<v0>", "'s <v10>"]),
        ("no token", ["no token"]),
        ("<v0><v1>", ["<v0>", "<v1>"]),
    ],
)
def test_a_text_is_cut_at_known_tokens_only(text, pieces):
    assert split_at_tokens(text, ["<v0>", "<v1>"]) == pieces
    assert "".join(pieces) == text


@pytest.mark.parametrize("name", ["<V0>", "< v0>", "<v0 >", "<v5>", "<v00>", "<v 1>", "＜v0＞", "<v10>"])
def test_a_name_that_is_not_quite_a_tokens_is_refused(name):
    for text in (name, f"(a photo of {name}:1.2) with <v1>"):
        with pytest.raises(InputError, match=f"^prompt: holds {name}, but what is learned is <v0>, <v1>, written"):
            require_tokens(text, ["<v0>", "<v1>"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<v0> with (<v1>:1.2)",
        "v0 < v1",
        "<lora:v0:1>",
        "<video>",
        "<v>",
        "{<v0>|<v1>}",
        "<v0-old>",
        "\u300a<v0>\u300b",
    ],
)
def test_other_texts_are_let_through(text):
    require_tokens(text, ["<v0>", "<v1>"])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("&lt;v0&gt;", "&lt;v0&gt;"),
        (r"\<v0\>", r"<v0\>"),
        ("<\u200bv0>", "<U+200Bv0>"),
        ("\u2039v0\u203a", "\u2039v0\u203a"),
        ("\u27e8anna:v0\u27e9", "\u27e8anna:v0\u27e9"),
        ("<v0", "<v0"),
    ],
)
def test_a_name_that_was_pasted_from_elsewhere_is_refused(written, shown):
    with pytest.raises(InputError) as caught:
        require_tokens(f"a photo of {written} with <v1>", ["<v0>", "<v1>"])
    assert str(caught.value).startswith(f"prompt: holds {shown}, but")


def test_a_model_refuses_a_prompt_with_such_a_name():
    _, encoder, _ = tiny_parts()
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["roof", "tower"])
    prompts.require_readable("<v0> with <v1>")
    with pytest.raises(InputError, match="^prompt: holds <V0>, <v2>, but"):
        prompts.require_readable("<v2> with <V0>")


def test_without_tokens_nothing_is_cut():
    assert split_at_tokens("<v0>", []) == ["<v0>"]


def test_a_tokens_name_becomes_its_id_and_the_prompt_is_padded():
    ids = prompt_ids(tokenizer, "A photo of <v0>", {"<v0>": [100]}, pad_token=7)
    assert ids[0] == START and ids[4:6] == [100, END]
    assert len(ids) == 77 and set(ids[6:]) == {7}


def test_a_prompt_too_long_for_clip_is_refused_not_cut():
    prompt_ids(tokenizer, "word " * 75, {}, pad_token=7)
    with pytest.raises(InputError, match="^prompt: .*76 pieces"):
        prompt_ids(tokenizer, "word " * 76, {}, pad_token=7)


@pytest.mark.parametrize(
    ("pieces", "prompt", "positions"),
    [([5], [1, 5, 2, 5], [1, 3]), ([5, 2], [5, 5, 2, 5], [1, 2]), ([9], [1, 5], []), ([], [1, 5], [])],
)
def test_a_word_is_found_piece_by_piece_wherever_it_stands(pieces, prompt, positions):
    assert positions_of(pieces, prompt) == positions


def test_the_training_prompts_are_a_photo_of_each_token():
    _, encoder, _ = tiny_parts()
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["roof", "tower"])
    assert prompts.columns.tolist() == [[4], [4]]
    assert torch.equal(prompts().hidden, prompts.encode(["A photo of <v0>", "A photo of <v1>"]).hidden)
    assert prompts.positions("<v0> with <v1> and <v0>", "<v0>") == [1, 5]
    assert prompts.positions("<v0> on a beach", "beach") == [4]


@pytest.mark.parametrize("pooled", [None, torch.randn(2, 64_000)])
def test_gradients_of_a_prompt_seen_by_several_pictures_are_added_in_one_order(pooled):
    """Else the same seed would not give the same weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    leaves = EncodedPrompts(torch.randn(2, 77, 768), pooled).detached()
    owners, upstream = torch.tensor([0, 1, 0, 1, 1, 1]), None
    seen = []
    for _ in range(100):
        chosen = [t for t in vars(leaves[owners]).values() if t is not None]
        upstream = upstream or [torch.randn_like(t) for t in chosen]
        known = [t for t in vars(leaves).values() if t is not None]
        seen.append(torch.autograd.grad(chosen, known, upstream))
    torch.set_num_threads(threads)
    assert torch.equal(chosen[0], leaves.hidden[owners])
    for gradients in seen[1:]:
        assert all(torch.equal(one, first) for one, first in zip(gradients, seen[0], strict=True))


def test_new_rows_stand_after_the_table_and_only_they_are_trained():
    table, rows = torch.randn(5, 3), torch.randn(2, 3)
    embedding = ExtendedEmbedding(table, rows)
    out = embedding(torch.tensor([[4, 5, 6, 0]]))
    assert torch.equal(out[0], torch.stack([table[4], rows[0], rows[1], table[0]]))
    out[0, 1].sum().backward()
    assert embedding.rows.grad.tolist() == [[1.0] * 3, [0.0] * 3]
    assert embedding.weight.grad is None


def test_a_token_starts_as_the_first_sub_token_of_its_class_word():
    _, encoder, _ = tiny_parts()
    table = encoder.get_input_embeddings().weight.clone()
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["red roof", "tower"])
    first = tokenizer("red")["input_ids"][1]
    assert torch.equal(prompts.rows("clip_l")[0], table[first])
    assert torch.equal(prompts.rows("clip_l")[1], table[tokenizer("tower")["input_ids"][1]])


def test_a_fresh_token_reads_like_its_class_word():
    _, encoder, _ = tiny_parts()
    ids = prompt_ids(tokenizer, "A photo of tower", {}, END)
    expected = hidden_states(encoder, torch.tensor([ids]), -1, normalised=True)
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["tower"])
    assert torch.equal(prompts().hidden, expected)


def test_the_users_layer_replaces_the_familys():
    _, encoder, _ = tiny_parts()
    ids = prompt_ids(tokenizer, "A photo of tower", {}, END)
    second_last = hidden_states(encoder, torch.tensor([ids]), -2, normalised=True)
    prompts = PromptEncoder({"clip_l": encoder}, TINY, tokenizer, ["tower"], layer=-2)
    assert torch.equal(prompts().hidden, second_last)
    raw = dataclasses.replace(
        TINY, text_encoders=(dataclasses.replace(TINY.text_encoders[0], layer=-2, normalised=False),)
    )
    assert not torch.allclose(PromptEncoder({"clip_l": encoder}, raw, tokenizer, ["tower"])().hidden, second_last)
