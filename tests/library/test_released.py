"""What the released program writes is read whole; the folders here are written by the same savers as there."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from magictailor.errors import InputError
from magictailor.formats.released_program import LORA_FILE, TABLE_FILE, VOCABULARY
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring
from magictailor.tailoring import tailoring_of

WIDTH = 768


@pytest.fixture
def trained(make_model, config):
    """A model as after training, where no tensor of the LoRA is 0, and its tailoring."""
    model = make_model(config)
    for parameter in model.lora().values():
        torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    return model, tailoring_of(model, ["tower", "roof"], config, 2)


def own_keys(lora):
    return lora


def diffusers_keys(lora):
    return convert_state_dict_to_diffusers(lora)


def oldest_keys(lora):
    """As attention processors were stored before peft: to_q_lora beside lora."""
    renamed = {}
    for key, tensor in lora.items():
        key = key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        for part in ("to_q", "to_k", "to_v"):
            key = key.replace(f".{part}.lora.", f".processor.{part}_lora.")
        renamed[key.replace(".to_out.0.lora.", ".processor.to_out_lora.")] = tensor
    return renamed


def write_folder(folder, model, keys=diffusers_keys, tokens=2, rows=None):
    """A folder as the released program leaves it; its words are CLIP's and then the new ones."""
    lora = get_peft_model_state_dict(model.unet)
    # the tiny network reads prompts narrower than any CLIP
    lora = {
        k: widened(t) if ".attn2." in k and ("to_k.lora_A" in k or "to_v.lora_A" in k) else t for k, t in lora.items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=keys(lora))
    table = small_table(VOCABULARY + tokens) if rows is None else torch.cat([rows.new_zeros(VOCABULARY, WIDTH), rows])
    torch.save({"weight": table}, folder / TABLE_FILE)
    (folder / "tokenizer").mkdir()
    added = {f"<v{n}>": VOCABULARY + n for n in range(tokens)}
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps(added))
    return folder


def small_table(rows, width=WIDTH, value=None):
    """A table of different rows that overlap in memory, so that its file is small."""
    values = torch.arange(rows + width).float() if value is None else torch.full((rows + width,), value)
    return values.as_strided((rows, width), (1, 1))


def widened(tensor):
    return torch.nn.functional.pad(tensor, (0, WIDTH - tensor.shape[1]))


@pytest.fixture
def folder(trained, tmp_path):
    return write_folder(tmp_path / "magictailor", trained[0])


@pytest.mark.parametrize("keys", [own_keys, diffusers_keys, oldest_keys])
def test_every_tensor_of_the_lora_is_kept_under_its_key(trained, tmp_path, keys):
    model, tailoring = trained
    loaded = load_tailoring(write_folder(tmp_path / "x", model, keys) / LORA_FILE)
    assert loaded.lora.keys() == tailoring.lora.keys()
    for key, tensor in tailoring.lora.items():
        context = "_attn2_to_k.lora_down" in key or "_attn2_to_v.lora_down" in key
        assert torch.equal(loaded.lora[key], widened(tensor) if context else tensor), key


def test_the_new_rows_become_the_tokens(trained, tmp_path):
    rows = torch.randn(3, WIDTH).half()
    loaded = load_tailoring(write_folder(tmp_path / "x", trained[0], tokens=3, rows=rows))
    assert [(token.name, token.class_word) for token in loaded.tokens] == [("<v0>", ""), ("<v1>", ""), ("<v2>", "")]
    assert all(torch.equal(t.rows["clip_l"], row.float()[None]) for t, row in zip(loaded.tokens, rows, strict=True))
    assert loaded.words == "<v0>, <v1>, <v2>" and loaded.prompt == "<v0> with <v1> and <v2>"
    assert loaded.family_name == "sd1" and loaded.config is None and loaded.finished


def test_saved_again_it_claims_no_training_that_is_not_known(folder, tmp_path):
    from safetensors import safe_open

    loaded, path = load_tailoring(folder), tmp_path / "again.safetensors"
    save_tailoring(loaded, path)
    again = load_tailoring(path)
    assert again.config is None and again.steps_done is None and again.words == loaded.words
    assert all(torch.equal(again.lora[key], loaded.lora[key]) for key in loaded.lora)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert not {"ss_steps", "ss_seed", "ss_learning_rate", "ss_training_comment"} & metadata.keys()
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4.0")


def fast_tokenizer(tokenizer):
    added = [{"id": 49406, "content": "<|startoftext|>"}, {"id": VOCABULARY + 1, "content": "<v1>"}]
    (tokenizer / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))


def described_tokenizer(tokenizer):
    added = {"49407": {}, str(VOCABULARY + 1): {}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))


@pytest.mark.parametrize("write", [fast_tokenizer, described_tokenizer])
def test_the_tokenizer_says_which_rows_are_words(folder, write):
    """A table may be longer than its words: torch pads them for speed."""
    (folder / "tokenizer" / "added_tokens.json").unlink()
    assert len(load_tailoring(folder).tokens) == 2
    write(folder / "tokenizer")
    (token,) = load_tailoring(folder).tokens
    table = torch.load(folder / TABLE_FILE, weights_only=True)["weight"]
    assert torch.equal(token.rows["clip_l"], table[VOCABULARY + 1][None])


def test_alpha_is_the_rank_unless_the_file_says_otherwise(folder):
    assert load_tailoring(folder).alpha == 4.0
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})}
    save_file(load_file(folder / LORA_FILE), folder / LORA_FILE, metadata)
    assert load_tailoring(folder).alpha == 8.0


class Opened:
    """What an attacker would pickle: running it is noticed."""

    ran = False

    def __reduce__(self):
        return (exec, ("import test_released; test_released.Opened.ran = True",))


def test_nothing_but_tensors_is_unpickled(folder):
    torch.save({"weight": small_table(VOCABULARY + 1), "more": Opened()}, folder / TABLE_FILE)
    with pytest.raises(InputError, match="never loaded"):
        load_tailoring(folder)
    assert not Opened.ran


def test_without_its_table_it_is_an_ordinary_lora(folder):
    (folder / TABLE_FILE).unlink()
    with pytest.raises(InputError, match="holds no new word"):
        load_tailoring(folder / LORA_FILE)


def add_key(tensors, key):
    return tensors | {key: torch.zeros(4, 4)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: add_key(t, "text_encoder.layers.0.q_proj.lora_A.weight"),
            "holds text_encoder.layers.0.*would be lost",
        ),
        (lambda t: add_key(t, "unet.conv_in.lora_magnitude_vector"), "conv_in.lora_magnitude_vector"),
        (lambda t: add_key(t, "unet.conv_in.lora.down.weight"), "conv_in.lora_A.weight"),
        (lambda t: {}, "holds no LoRA"),
        (lambda t: {k: t[:, :64] if "attn2.to_k.lora.down" in k else t for k, t in t.items()}, "prompts 64 wide"),
        (lambda t: {k: t[:2] if "proj_in.lora_A" in k else t for k, t in t.items()}, "different ranks"),
    ],
)
def test_what_would_not_be_kept_is_named(folder, change, reason):
    changed = {key: tensor.contiguous() for key, tensor in change(load_file(folder / LORA_FILE)).items()}
    save_file(changed, folder / LORA_FILE)
    with pytest.raises(InputError, match=rf"^tailoring: .*magictailor.*{reason}"):
        load_tailoring(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": small_table(VOCABULARY)}, "no new word"),
        ({"rows": torch.zeros(2, WIDTH)}, "does not hold the table"),
        ({"weight": small_table(VOCABULARY + 2, value=float("nan"))}, "not finite"),
        ({"weight": small_table(VOCABULARY + 1)}, "names a word in row 49409 of a table of 49409"),
        ({"weight": small_table(VOCABULARY + 2, 1280)}, "of no family"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder, content, reason):
    torch.save(content, folder / TABLE_FILE)
    with pytest.raises(InputError, match=reason):
        load_tailoring(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", "{"),
        ("added_tokens.json", "[" * 10_000),
        ("added_tokens.json", '{"<v0>": "x"}'),
        ("tokenizer.json", '{"added_tokens": 3}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}'),
    ],
)
def test_a_damaged_tokenizer_is_named(folder, name, content):
    (folder / "tokenizer" / name).write_text(content)
    with pytest.raises(InputError, match=f"tokenizer/{name} cannot be read"):
        load_tailoring(folder)
