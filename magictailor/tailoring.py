"""What training leaves: a LoRA, the tokens, and how they were made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backbones import Backbone, Family, family_named
from .config import TailorConfig
from .errors import InputError
from .formats.small_references import SmallReference
from .reference import Reference
from .tokens import checked_names, file_form, labelled, token_name


@dataclass(frozen=True)
class Token:
    """A learned word.

    Attributes:
        name: `<v0>` for the concept, `<v1>`, `<v2>` ... for the components, unless it was renamed.
        class_word: the ordinary word it was learned as; "" if that is not known.
        rows: its V vectors (V, width) float32 for each text encoder, by embedding key.
    """

    name: str
    class_word: str
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tailoring:
    """A trained concept with its components, on the CPU.

    Attributes:
        family_name: of the checkpoints it works on.
        lora: tensors by the keys of the family's `lora_layout`; another trainer's may have some for text encoders
            (`lora_te...`), or be empty.
        tokens: the concept's first.
        config: it was trained with; None if another program trained it and did not say.
        steps_done: fewer than config.total_steps if training was stopped; None without a config.
        text_layer: hidden layer of the text encoders it was learned with ("clip skip"), counted from the end; None: it
            is not known, or its family's, which differ.
        pictures: small ones of what each token was learned from; none if they are not known.
    """

    family_name: str
    lora: Mapping[str, Tensor]
    tokens: tuple[Token, ...]
    config: TailorConfig | None
    steps_done: int | None
    text_layer: int | None = None
    pictures: tuple[SmallReference, ...] = ()

    @property
    def family(self) -> Family:
        return family_named(self.family_name)

    @property
    def finished(self) -> bool:
        return self.config is None or self.steps_done == self.config.total_steps

    @property
    def rank(self) -> int:
        """Of the LoRA; 0 if there is none."""
        return self.family.lora_layout.rank(self.lora)

    @property
    def alpha(self) -> float:
        """Of the LoRA; its scale is alpha / rank."""
        if not self.lora:
            return 0.0
        layout = self.family.lora_layout
        return layout.scale(self.lora, min(layout.stems(self.lora))) * self.rank

    def renamed(self, names: Sequence[str]) -> Tailoring:
        """The same under other names of its tokens.

        Args:
            names: the concept's first, see `checked_names`.

        Raises:
            InputError: they cannot be names, or their number is not that of the tokens; names "names".
        """
        if len(names) != len(self.tokens):
            raise InputError("names", f"there are {len(names)} for {len(self.tokens)} tokens: {self.words}")
        pairs = zip(self.tokens, checked_names(names), strict=True)
        return replace(self, tokens=tuple(replace(token, name=name) for token, name in pairs))

    def labelled(self, label: str) -> Tailoring:
        """The same with a label in every name, so that it and another one can be in one prompt: `<anna:v0>`.

        Raises:
            InputError: it cannot be a label; names "names".
        """
        return self.renamed([labelled(token.name, label) for token in self.tokens])

    @property
    def vectors_per_token(self) -> int:
        """Of its first token; those of other trainers may differ."""
        return max(map(len, self.tokens[0].rows.values()))

    @property
    def words(self) -> str:
        """Which token stands for what: `<v0> = tower, <v1> = roof`."""
        return ", ".join(" = ".join(filter(None, (token.name, token.class_word))) for token in self.tokens)

    def references(self) -> list[Reference]:
        """What it was learned from, as small pictures with their masks, to compare what is drawn with.

        Raises:
            InputError: it carries none, or they are damaged; names "tailoring".
        """
        if not self.pictures:
            raise InputError("tailoring", "carries no pictures of what it was learned from")
        pairs = zip(self.pictures, self.tokens, strict=True)
        return [small.opened(token.class_word or file_form(token.name)) for small, token in pairs]

    @property
    def prompt(self) -> str:
        """A prompt for the concept with all its components."""
        return composed([token.name for token in self.tokens])


def composed(names: Sequence[str]) -> str:
    """A prompt for a concept with all its components: `<v0> with <v1> and <v2>`.

    Args:
        names: the concept's first.
    """
    concept, *components = names
    return concept + (" with " + " and ".join(components) if components else "")


def tailoring_of(
    model: Backbone,
    class_words: Sequence[str],
    config: TailorConfig,
    steps_done: int,
    pictures: tuple[SmallReference, ...] = (),
) -> Tailoring:
    """Copy what was trained out of a model."""
    return tailoring_from(
        model.family,
        model.lora(),
        model.token_rows(),
        class_words,
        config,
        steps_done,
        text_layer=model.text_layer,
        pictures=pictures,
    )


def tailoring_from(
    family: Family,
    lora: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    class_words: Sequence[str],
    config: TailorConfig,
    steps_done: int,
    text_layer: int | None = None,
    pictures: tuple[SmallReference, ...] = (),
) -> Tailoring:
    """A tailoring of copied tensors.

    Args:
        lora, rows: as `Backbone.lora` and `Backbone.token_rows` name them.
        class_words: the concept's first.
        config, steps_done, text_layer, pictures: as in `Tailoring`.
    """
    vectors = {key: learned.detach().float().cpu().chunk(len(class_words)) for key, learned in rows.items()}
    tokens = tuple(
        Token(token_name(n), word, {key: of_words[n].clone() for key, of_words in vectors.items()})
        for n, word in enumerate(class_words)
    )
    stored = family.lora_layout.stored(lora, config.lora_rank)
    return Tailoring(family.name, stored, tokens, config, steps_done, text_layer, pictures)


@torch.no_grad()
def put_into(model: Backbone, tailoring: Tailoring) -> None:
    """Let a model know a tailoring: the opposite of `tailoring_of`.

    Args:
        model: with a LoRA of the tailoring's rank and as many tokens of as many vectors, which are overwritten; it
            calls them as the tailoring does.

    Raises:
        InputError: the tailoring was trained on another family, with fewer text encoders, or on a network of other
            layers; names "tailoring".
    """
    require_family(tailoring, model.family)
    require_rows(tailoring, model.token_rows())
    layout = tailoring.family.lora_layout
    left = dict(tailoring.lora)
    for name, parameter in model.lora().items():
        stem, ending = layout.names_of(name)
        stored = left.pop(stem + ending, None)
        if stored is None or stored.shape != parameter.shape:
            raise InputError("tailoring", f"has no LoRA for {stem} of this checkpoint; it is for one of another size")
        # the model's own LoRA has a scale of 1
        parameter.copy_(stored * layout.scale(tailoring.lora, stem) if ending == layout.up else stored)
    strange = next((key for key in sorted(left) if not (layout.alpha and key.endswith(layout.alpha))), None)
    if strange is not None:
        raise InputError("tailoring", f"has a LoRA for {strange}, which this checkpoint has not")
    model.name_tokens([token.name for token in tailoring.tokens])
    for key, rows in model.token_rows().items():
        if any(len(token.rows[key]) * len(tailoring.tokens) != len(rows) for token in tailoring.tokens):
            raise InputError("tailoring", "has words of other numbers of vectors than the model was made for")
        rows.copy_(torch.cat([token.rows[key] for token in tailoring.tokens]))


def require_family(tailoring: Tailoring, family: Family) -> None:
    """Refuse a tailoring of another family.

    Raises:
        InputError: names "tailoring".
    """
    if family != tailoring.family:
        raise InputError(
            "tailoring",
            f"was trained on {tailoring.family.title}, but the model is {family.title}; they have to be the same",
        )


def require_rows(tailoring: Tailoring, encoders: Iterable[str]) -> None:
    """Refuse a tailoring whose tokens are unknown to some text encoders.

    Args:
        encoders: embedding keys of those that read the prompt.

    Raises:
        InputError: names "tailoring".
    """
    known = tailoring.tokens[0].rows
    missing = [key for key in sorted(encoders) if key not in known]
    if missing:
        raise InputError("tailoring", f"was trained with {', '.join(known)}, and has no words for {', '.join(missing)}")
