"""A byte-pair vocabulary in CLIP's format in which every word of a caption is one token.

Run as `python -m toytown.vocabulary` to write the tokenizer's folder.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import string

from .captions import words

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = string.ascii_lowercase + string.digits + string.punctuation


def merges() -> list[tuple[str, str]]:
    """Pairs to join, the first of them first, until every word is one piece."""
    pairs: list[tuple[str, str]] = []
    for word in words():
        # a new pair is joined after all older ones, so that it cannot tear an older word apart
        while len(pieces := joined(word, pairs)) > 1:
            pairs.append((pieces[0], pieces[1]))
    return pairs


def joined(word: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The pieces that byte-pair encoding (Sennrich et al. 2016) leaves of a word."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while found := set(itertools.pairwise(pieces)).intersection(pairs):
        first = min(found, key=pairs.index)
        at = next(n for n, pair in enumerate(itertools.pairwise(pieces)) if pair == first)
        pieces[at : at + 2] = ["".join(first)]
    return pieces


def vocabulary() -> dict[str, int]:
    """Ids of all pieces: letters, letters that end a word, what merges make, start and end."""
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *("".join(pair) for pair in merges()), START, END]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def write_tokenizer(folder: pathlib.Path) -> None:
    """Write what `CLIPTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges()), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    described = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": 77,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_tokenizer(pathlib.Path(__file__).resolve().parent / "tokenizer")
