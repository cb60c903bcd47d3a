"""Tokens in prompts as people write them: read by the host as it reads the embeddings that were saved from them."""

import dataclasses
import re

import pytest
import torch

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def tailorings(library):
    """Of nobody's training: one with one vector a token, and one whose component has three."""
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, generator=generator)

    def tailoring(*vectors):
        lora = {f"{LAYER}.lora_down.weight": random(2, 320), f"{LAYER}.lora_up.weight": random(320, 2)}
        lora[f"{LAYER}.alpha"] = torch.tensor(2.0)
        tokens = tuple(
            library.tailoring.Token(f"<v{n}>", word, {"clip_l": random(count, 768) * 0.01})
            for n, (word, count) in enumerate(zip(("house", "roof"), vectors, strict=True))
        )
        return library.tailoring.Tailoring("sd1", lora, tokens, None, None)

    return tailoring(1, 1), tailoring(1, 3)


@pytest.fixture(scope="module")
def named(nodes, tailorings):
    """What Name Tokens makes of them: words of one's own, a label."""
    with torch.inference_mode():
        own = nodes.MagicTailorNameTokens.execute(tailorings[0], "sks_house, sks_roof", "").args
        second = nodes.MagicTailorNameTokens.execute(tailorings[1], "", "anna").args
    assert own[1:] == ("sks_house = house, sks_roof = roof", "sks_house with sks_roof")
    assert second[1:] == ("<anna:v0> = house, <anna:v1> = roof", "<anna:v0> with <anna:v1>")
    return own[0], second[0]


@pytest.fixture(scope="module")
def applied(nodes, loaded_checkpoint, named):
    """One CLIP that knows both."""
    model, clip, _ = loaded_checkpoint
    with torch.inference_mode():
        for tailoring in named:
            model, clip = nodes.MagicTailorApply.execute(model, clip, tailoring, 1.0).args
    return clip


@pytest.fixture(scope="module")
def embeddings(nodes, named):
    """Names of the tokens -> names of their embeddings, as Save Tailoring hands them out."""
    names = {}
    with torch.inference_mode():
        for number, tailoring in enumerate(named):
            _, saved, prompt = nodes.MagicTailorSave.execute(tailoring, f"brought{number}").args
            assert prompt == f"embedding:{saved[0]} with embedding:{saved[1]}"
            names |= {token.name: name for token, name in zip(tailoring.tokens, saved, strict=True)}
    assert list(names.values()) == ["brought0_sks_house", "brought0_sks_roof", "brought1_anna_v0", "brought1_anna_v1"]
    return names


def encoded(clip, text):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)


STANDS_FOR = re.compile(r"\b[ABCD]\b")
# A, B are words of one's own, C, D labelled tokens; a stock prompt needs spaces around an embedding
PROMPTS = {
    "two tailorings": "A with B beside C with D",
    "BREAK": "a photo of A BREAK C with B , sunlit",
    "AND": "A AND C :0.5 AND D",
    "weights": "(A :1.3) and ((B )), ((C :1.2) with D :0.8)",
    "nested parentheses": "a (very (old (A ):1.4) town (at night))",
    "escaped parentheses": r"A \(by the sea\) with \( D \)",
    "commas": "A , B ,, C , D , 8k, (masterpiece, C :1.1), ",
    "line breaks": "A\nwith B\n\nand C",
    "words of three hundred": "word " * 70 + "D " + "far away " * 70 + "A , with B and C " + "end " * 80,
    "Chinese": "一座红色的房子, A , 屋顶是 D ，夕阳",
    "at the start, at the end": "C",
    "many": "A B C D " * 25,
    "a chunk that ends in a token": "x " * 73 + "D y z",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_every_prompt_reads_as_with_the_saved_embeddings(loaded_checkpoint, applied, embeddings, prompt):
    written = dict(zip("ABCD", embeddings, strict=True))
    ours = STANDS_FOR.sub(lambda match: written[match[0]], prompt)
    stock = STANDS_FOR.sub(lambda match: f"embedding:{embeddings[written[match[0]]]}", prompt)
    (mine, pooled), (theirs, their_pooled) = encoded(applied, ours), encoded(loaded_checkpoint[1], stock)
    assert mine.shape == theirs.shape and torch.equal(mine, theirs) and torch.equal(pooled, their_pooled)
    assert not torch.equal(mine, encoded(loaded_checkpoint[1], ours)[0][:, : mine.shape[1]])


def test_a_token_needs_no_space_around_it(applied):
    for tight, loose in (
        ("(sks_house:1.2),<anna:v1>.", "( sks_house :1.2) , <anna:v1> ."),
        ("《<anna:v0>》", "《 <anna:v0> 》"),
        ("<anna:v0><anna:v1>", "<anna:v0> <anna:v1>"),
    ):
        assert torch.equal(encoded(applied, tight)[0], encoded(applied, loose)[0])


@pytest.mark.parametrize("name", [(), ("a name",)], ids=["0.18", "now"])
def test_a_host_is_answered_as_it_answers_itself(monkeypatch, applied, name):
    from comfy.sd1_clip import SDTokenizer

    monkeypatch.setattr(SDTokenizer, "_try_get_embedding", lambda *_: (None, *name, ""))
    found, *middle, left = applied.tokenizer.clip_l._try_get_embedding("<0> at dusk")
    assert found.shape == (1, 768) and tuple(middle) == name and left == "at dusk"


def test_words_that_hold_a_name_are_words(loaded_checkpoint, applied):
    for text in ("sks_houses and my_sks_house", "anna, v0 and sks"):
        assert torch.equal(encoded(applied, text)[0], encoded(loaded_checkpoint[1], text)[0])


@pytest.mark.parametrize("written", ["SKS_house", "<v0>", "<Anna:v0>", "<anna: v0>", "<ben:v0>", "＜anna:v0＞"])
def test_a_name_that_is_not_quite_one_of_these_is_told(applied, written):
    with pytest.raises(ValueError, match=f"^text: holds {written}, but what is learned is sks_house, sks_roof, <anna:"):
        applied.tokenize(f"a photo of ({written}:1.2)")


def test_two_tailorings_with_the_same_names_are_told_apart_or_refused(nodes, loaded_checkpoint, tailorings):
    first, second = tailorings
    with torch.inference_mode():
        model, clip = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], first, 1.0).args
        # the same one again changes nothing
        again = nodes.MagicTailorApply.execute(model, clip, dataclasses.replace(first), 0.5).args[1]
        with pytest.raises(ValueError, match="^Apply Tailoring, tailoring: has <v1>, .* a label with Name Tokens$"):
            tokens = (first.tokens[0], second.tokens[1])
            nodes.MagicTailorApply.execute(model, clip, dataclasses.replace(second, tokens=tokens), 1.0)
    assert torch.equal(encoded(again, "<v0> with <v1>")[0], encoded(clip, "<v0> with <v1>")[0])


def test_what_is_put_on_otherwise_than_it_was_learned_is_told(host, nodes, loaded_checkpoint, tailorings, monkeypatch):
    told = []
    monkeypatch.setattr(nodes.bridge.host, "show_text", told.append)
    (model, clip, _), (first, second) = loaded_checkpoint, tailorings
    skipping = dataclasses.replace(second.labelled("anna"), text_layer=-2)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with torch.inference_mode():
        (skipped,) = host.nodes.CLIPSetLastLayer().set_last_layer(clip, -2)
        tailored = nodes.MagicTailorApply.execute(model, skipped, skipping, 0.75).args
        nodes.MagicTailorApply.execute(model, clip, dataclasses.replace(first, text_layer=-1), 1.0)
        nodes.MagicTailorApply.execute(*tailored, first, 1.0)
        assert told == []
        nodes.MagicTailorApply.execute(model, clip, skipping, 1.0)
        assert told.pop().startswith(
            "This tailoring was learned with layer -2 of the CLIP (clip skip), and this CLIP gives -1."
        )
        nodes.MagicTailorApply.execute(*tailored, skipping.labelled("ben"), 1.0)
        assert told.pop().startswith(
            "This MODEL has this tailoring's LoRA already, at strength 0.75, and now once more."
        )
        settings = (5, 1, 1.0, "euler", "normal", 1.0, 1.0)
        nodes.MagicTailorSampler.execute(tailored[0], clip, skipping, latent, "<anna:v0>", "", *settings)
    assert [line[:14] for line in told.pop().splitlines()] == ["1 steps, cfg 1", "This MODEL has", "This tailoring"]


def test_names_and_several_vectors_are_saved_and_loaded(nodes, named, embeddings):
    with torch.inference_mode():
        loaded = nodes.MagicTailorLoad.execute("brought1.safetensors").args[0]
    assert [(t.name, t.rows["clip_l"].shape) for t in loaded.tokens] == [
        ("<anna:v0>", (1, 768)),
        ("<anna:v1>", (3, 768)),
    ]
    for mine, other in zip(loaded.tokens, named[1].tokens, strict=True):
        assert torch.equal(mine.rows["clip_l"], other.rows["clip_l"])


@pytest.mark.parametrize(
    ("names", "label", "fault"),
    [
        ("one", "", "there are 1 for 2 tokens: <v0> = house, <v1> = roof"),
        ("a(b), c", "", "'a\\(b\\)' cannot be a token's name"),
        ("sks, SKS", "", "sks, SKS are too much alike"),
        ("<sks>, sks", "", "<sks>, sks are too much alike"),
        ("12, 13", "", "'12' cannot be a token's name"),
        ("", "lora", "'<lora:v0>' cannot be a token's name: other programs read lora: as a tag"),
        ("", "my anna", "'<my anna:v0>' cannot be a token's name"),
    ],
)
def test_names_that_cannot_be_used_are_refused(nodes, tailorings, names, label, fault):
    with pytest.raises(ValueError, match=f"^Name Tokens, names: {fault}"):
        nodes.MagicTailorNameTokens.execute(tailorings[0], names, label)


def test_blended_they_change_the_model_as_one_after_the_other(nodes, loaded_checkpoint, named):
    model, clip, _ = loaded_checkpoint
    with torch.inference_mode():
        both, words = nodes.MagicTailorBlend.execute(
            {"tailoring 1": named[0], "tailoring 2": named[1]}, "1, 0.5", 0
        ).args
        one, of_both = nodes.MagicTailorApply.execute(model, clip, both, 1.0).args
        first = nodes.MagicTailorApply.execute(model, clip, named[0], 1.0).args
        second, of_second = nodes.MagicTailorApply.execute(*first, named[1], 0.5).args
        assert words == "sks_house = house, sks_roof = roof, <anna:v0> = house, <anna:v1> = roof"
        key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
        weights = [nodes.bridge.backbones.baked(m, "diffusion_model.")[key] for m in (one, second, model)]
        assert torch.allclose(weights[0], weights[1], atol=1e-5) and not torch.allclose(
            weights[0], weights[2], atol=1e-2
        )
        text = "sks_house with <anna:v1>"
        assert torch.equal(encoded(of_both, text)[0], encoded(of_second, text)[0])
    with pytest.raises(ValueError, match="^MagicTailor Blend, tailorings: .*; give each tailoring a label"):
        nodes.MagicTailorBlend.execute({"tailoring 1": named[0], "tailoring 2": named[0]}, "1, 1", 0)
