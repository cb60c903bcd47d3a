"""A CLIP in whose prompts the learned tokens are words."""

from collections.abc import Mapping
from copy import copy

from comfy.sd import CLIP
from torch import Tensor

from ...magictailor.tailoring import Tailoring
from ...magictailor.tokens import split_at_tokens


class TailoredTokenizer:
    """Stands in for the tokenizer inside the host's: gives a token's embedding where its name stands in the text.

    The host's encoders take a tensor in place of a token id. Weights such as `(<v0>:1.2)` are parsed before this is
    called, so they work as for any other word.

    Args:
        tokenizer: text -> {"input_ids": [..., end]}; every other attribute is passed on to it.
        rows: embedding (width,) by token name.
        start: number of ids before those of the text: 1 for CLIP, 0 for T5.
    """

    def __init__(self, tokenizer, rows: Mapping[str, Tensor], start: int):
        self._tokenizer = tokenizer
        self._rows = dict(rows)
        self._start = start

    def __call__(self, text: str, **options):
        output = dict(self._tokenizer(text, **options))
        pieces = split_at_tokens(text, list(self._rows))
        if len(pieces) > 1 or text in self._rows:
            ids = output["input_ids"]
            words = [word for piece in pieces for word in self._words(piece, options)]
            output["input_ids"] = [*ids[: self._start], *words, ids[-1]]
        return output

    def _words(self, piece: str, options):
        if piece in self._rows:
            return [self._rows[piece]]
        return self._tokenizer(piece, **options)["input_ids"][self._start : -1]

    def __getattr__(self, name: str):
        # copying looks attributes up before __init__ has run
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def tailored_clip(clip: CLIP, tailoring: Tailoring) -> CLIP:
    """A copy of a CLIP that knows the tokens; the given one stays as it is."""
    clip = clip.clone()
    clip.tokenizer = copy(clip.tokenizer)
    # where a text encoder is missing, the host has its tokenizer all the same
    for key in tailoring.tokens[0].rows:
        encoder_tokenizer = copy(getattr(clip.tokenizer, key))
        rows = {token.name: token.rows[key] for token in tailoring.tokens}
        encoder_tokenizer.tokenizer = TailoredTokenizer(
            encoder_tokenizer.tokenizer, rows, encoder_tokenizer.tokens_start
        )
        setattr(clip.tokenizer, key, encoder_tokenizer)
    return clip
