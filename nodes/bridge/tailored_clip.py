"""A CLIP in whose prompts the learned tokens are words."""

from collections.abc import Mapping
from copy import copy

from comfy.sd import CLIP
from comfy.sd1_clip import SDTokenizer
from torch import Tensor

from ...magictailor.errors import InputError
from ...magictailor.tailoring import Tailoring
from ...magictailor.tokens import require_tokens, split_at_tokens


class TailoredTokenizer(SDTokenizer):
    """What makes a text encoder's tokenizer of the host read names of tokens, in front of its own class.

    The host reads the names as it reads its own `embedding:name`, so weights, the length of prompts and every
    other habit of its are the same for both.
    """

    learned: dict[str, Tensor]  # (V, width) by token name

    def tokenize_with_weights(self, text: str, *args, **kwargs):
        """The host's tokens of a prompt.

        Raises:
            InputError: a token's name is not written as it should; names "text", as stock nodes do.
        """
        names = list(self.learned)
        require_tokens(text, names, "text")
        pieces = split_at_tokens(text, names)
        text = "".join(f" {self.embedding_identifier}{_called(names.index(p))} " if p in names else p for p in pieces)
        return super().tokenize_with_weights(text, *args, **kwargs)

    def _try_get_embedding(self, embedding_name: str):
        called, *left = embedding_name.split()
        found = next((row for n, row in enumerate(self.learned.values()) if called == _called(n)), None)
        if found is None:
            return super()._try_get_embedding(embedding_name)
        # between the vectors and what is left, newer hosts hand the name back
        nothing_on_disk = copy(self)
        nothing_on_disk.embedding_directory = []
        answer = super(TailoredTokenizer, nothing_on_disk)._try_get_embedding(embedding_name)
        return (found, *answer[1:-1], " ".join(left))


def _called(number: int) -> str:
    """A token in the place of an embedding's name; no file can be called so, and no weight be read in it."""
    return f"<{number}>"


def known_tokens(clip: CLIP) -> list[str]:
    """Names of the tokens that a CLIP knows."""
    # by text encoder; a tailoring need not have rows for each
    return list(dict.fromkeys(name for tokenizer in vars(clip.tokenizer).values() for name in _learned(tokenizer)))


def tailored_clip(clip: CLIP, tailoring: Tailoring) -> CLIP:
    """A copy of a CLIP that knows the tokens; the given one stays as it is.

    Raises:
        InputError: it knows other tokens of these names already; names "tailoring".
    """
    clip = clip.clone()
    clip.tokenizer = copy(clip.tokenizer)
    # where a text encoder is missing, the host has its tokenizer all the same
    for key in tailoring.tokens[0].rows:
        rows = {token.name: token.rows[key] for token in tailoring.tokens}
        setattr(clip.tokenizer, key, _tailored(getattr(clip.tokenizer, key), rows))
    return clip


def _tailored(tokenizer, rows: Mapping[str, Tensor]):
    known = _learned(tokenizer)
    taken = [name for name in rows if name in known and not rows[name].equal(known[name])]
    if taken:
        raise InputError(
            "tailoring",
            f"has {', '.join(taken)}, and so has a tailoring that was put on this CLIP before; give one of them "
            "a label with Name Tokens",
        )
    given = type(tokenizer)
    tokenizer = copy(tokenizer)
    if not isinstance(tokenizer, TailoredTokenizer):
        tokenizer.__class__ = type(f"Tailored{given.__name__}", (TailoredTokenizer, given), {})
        # without a folder the host does not look for embeddings at all
        tokenizer.embedding_directory = tokenizer.embedding_directory or []
    tokenizer.learned = {**known, **rows}
    return tokenizer


def _learned(tokenizer) -> Mapping[str, Tensor]:
    return tokenizer.learned if isinstance(tokenizer, TailoredTokenizer) else {}
