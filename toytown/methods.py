"""MagicTailor, what is left of it when a part is taken away, and other ways to learn the same, on the same model.

All get the same pictures, masks, random draws and number of steps, fewer than the demo's `SETTINGS` so that all of them
are measured in an afternoon. The others are written from their papers in the smallest form: Textual Inversion (Gal et
al. 2022), DreamBooth (Ruiz et al. 2023) with a LoRA, Custom Diffusion (Kumari et al. 2023), Break-A-Scene (Avrahami et
al. 2023). As they are given masks too, their loss counts only inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from magictailor.attention_loss import attention_loss
from magictailor.backbones.stable_diffusion.backbone import UNetBackbone
from magictailor.balancing import masked_error
from magictailor.config import TailorConfig
from magictailor.draws import StepDraws, step_generator
from magictailor.pictures import augment, shrink
from magictailor.reference import Reference
from magictailor.training import Training, train

from .pairs import Pair
from .settings import SETTINGS
from .tailoring import references, trainable

STEPS = 250
BUDGET = {"phase1_train_steps": 150, "phase2_train_steps": STEPS - 150}


@dataclasses.dataclass(frozen=True)
class Ablation:
    """MagicTailor with other settings.

    Attributes:
        changes: of `SETTINGS` and `BUDGET`.
        masked_out: paint everything outside the masks gray, before training.
    """

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masked_out: bool = False

    prompt = "<v0> with <v1>"

    def config_of(self, seed: int) -> TailorConfig:
        """All of its hyper-parameters."""
        return TailorConfig(**{**SETTINGS, **BUDGET, **self.changes, "seed": seed})

    def trained(self, pair: Pair, seed: int) -> UNetBackbone:
        config = self.config_of(seed)
        learned = [gray_outside(r) for r in references(pair)] if self.masked_out else references(pair)
        model = trainable(pair.class_words, config)
        train(model, learned, config)
        return model


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another way to learn: plain diffusion loss inside the masks.

    Attributes:
        trains: names of what is trained: "tokens", "lora", "keys and values".
        learning_rate, token_learning_rate: the latter for the tokens' rows.
        with_noun: write the class word behind the token, as DreamBooth and Custom Diffusion do.
        attention: weight of Break-A-Scene's attention loss; 0 leaves it out.
        union: half of the prompts name both tokens, as Break-A-Scene's do.
        tokens_first: share of the steps in which only the tokens are trained.
    """

    trains: tuple[str, ...]
    learning_rate: float
    token_learning_rate: float = 0.0
    with_noun: bool = False
    attention: float = 0.0
    union: bool = False
    tokens_first: float = 0.0

    def named(self, pair: Pair) -> list[str]:
        """How a prompt names concept and component."""
        return [f"<v{n}> {word}" if self.with_noun else f"<v{n}>" for n, word in enumerate(pair.class_words)]

    def config_of(self, seed: int) -> TailorConfig:
        """What it shares with MagicTailor: the steps, the draws and the LoRA's size."""
        return Ablation().config_of(seed)

    def trained(self, pair: Pair, seed: int) -> UNetBackbone:
        config = self.config_of(seed)
        model = trainable(pair.class_words, config)
        learn(model, references(pair), config, self, self.named(pair))
        return model


Method = Ablation | Rival


def _magictailor(rate: float, token_rate: float, *, masked_out: bool = False, **changes: Any) -> Ablation:
    rates = {"phase1_learning_rate": rate, "phase2_learning_rate": rate, "token_lr_scale": token_rate / rate}
    return Ablation({**rates, **changes}, masked_out)


def _textual_inversion(rate: float) -> Rival:
    return Rival(("tokens",), 0.0, token_learning_rate=rate)


def _dreambooth(rate: float) -> Rival:
    return Rival(("lora",), rate, with_noun=True)


def _custom_diffusion(rate: float, token_rate: float) -> Rival:
    return Rival(("tokens", "keys and values"), rate, token_learning_rate=token_rate, with_noun=True)


def _break_a_scene(rate: float, token_rate: float) -> Rival:
    return Rival(("tokens", "lora"), rate, token_learning_rate=token_rate, attention=0.3, union=True, tokens_first=0.5)


def _candidates(name: str, make: Callable[..., Method], rates: Sequence[tuple[float, ...]]) -> dict[str, Method]:
    return {f"{name} {' '.join(map(str, some))}": make(*some) for some in rates}


_SAME = [(rate, rate) for rate in (3e-4, 5e-4, 1e-3, 2e-3)]
CANDIDATES: dict[str, dict[str, Method]] = {
    name: _candidates(name, make, rates)
    for name, make, rates in (
        ("MagicTailor", _magictailor, [*_SAME, (1e-3, 2e-4), (2e-3, 2e-4)]),
        ("Textual Inversion", _textual_inversion, [(1e-3,), (3e-3,), (1e-2,), (3e-2,)]),
        ("DreamBooth-LoRA", _dreambooth, [(3e-4,), (5e-4,), (1e-3,), (2e-3,)]),
        ("Custom Diffusion", _custom_diffusion, [(3e-4, 1e-3), (3e-4, 1e-2), (1e-3, 3e-3), (1e-3, 1e-2)]),
        ("Break-A-Scene", _break_a_scene, [(5e-4, 3e-3), (5e-4, 1e-2), (1e-3, 3e-3), (1e-3, 1e-2)]),
    )
}
"""Learning rates (of LoRA or matrices, of tokens) each method was tried with, on pairs that are not measured.

METHODS takes the best of each by `benchmarks.tailoring.merit`.
"""

FOUND = (1e-3, 2e-4)  # rates of LoRA and tokens; the ablations keep them

METHODS: dict[str, Method] = {
    "MagicTailor": _magictailor(*FOUND),
    "without DM-Deg": _magictailor(*FOUND, alpha=0.0),
    "fixed degradation": _magictailor(*FOUND, gamma=1000.0),
    "background masked out": _magictailor(*FOUND, alpha=0.0, masked_out=True),
    "without DS-Bal": _magictailor(*FOUND, phase1_train_steps=STEPS, phase2_train_steps=0),
    "without warm-up": _magictailor(*FOUND, phase1_train_steps=0, phase2_train_steps=STEPS),
    "without attention loss": _magictailor(*FOUND, lambda_attention=0.0),
    "Textual Inversion": _textual_inversion(3e-3),
    "DreamBooth-LoRA": _dreambooth(2e-3),
    "Custom Diffusion": _custom_diffusion(3e-4, 1e-2),
    "Break-A-Scene": _break_a_scene(1e-3, 1e-2),
}


def prompt_of(method: Method, pair: Pair, background: str) -> str:
    """The prompt that asks a method for the concept with the component."""
    if isinstance(method, Ablation):
        return f"{method.prompt} {background}"
    concept, component = method.named(pair)
    return f"{concept} with {component} {background}"


def gray_outside(reference: Reference) -> Reference:
    """The reference with everything outside its masks painted gray."""
    images = [image * mask + 0.5 * (1 - mask) for image, mask in zip(reference.images, reference.masks, strict=True)]
    return dataclasses.replace(reference, images=tuple(images))


def learn(
    model: UNetBackbone, learned: Sequence[Reference], config: TailorConfig, rival: Rival, names: Sequence[str]
) -> None:
    """Train a rival for as many steps as MagicTailor gets, on the same draws."""
    training = Training(model, learned, config)
    tokens = list(model.token_rows().values())
    weights: list[nn.Parameter] = []
    if "lora" in rival.trains:
        weights += model.lora().values()
    if "keys and values" in rival.trains:
        weights += cross_attention_weights(model)
    if "tokens" not in rival.trains:
        make_rare(tokens)
    groups = [{"params": weights, "lr": rival.learning_rate}] if weights else []
    if "tokens" in rival.trains:
        groups.append({"params": tokens, "lr": rival.token_learning_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.adam_weight_decay)
    for step in range(1, config.total_steps + 1):
        draws = training.draw(step)
        loss = rival_loss(model, training, draws, rival, names, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step <= rival.tokens_first * config.total_steps:
            for weight in weights:
                weight.grad = None
        nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        optimizer.step()


def rival_loss(
    model: UNetBackbone, training: Training, draws: StepDraws, rival: Rival, names: Sequence[str], step: int
) -> Tensor:
    """Diffusion loss inside the masks and, for Break-A-Scene, the attention loss; (), mean over the pictures."""
    pictures = training.pictures
    images, masks = augment(pictures, draws)
    latents = model.encode(images, draws.latent_noise)
    both = torch.rand(len(images), generator=step_generator(training.config.seed, -step)) < 0.5
    texts = [
        f"A photo of {names[0]} and {names[1]}" if rival.union and union else f"A photo of {names[owner]}"
        for owner, union in zip(pictures.owners.tolist(), both.tolist(), strict=True)
    ]
    columns = [model.positions(t, f"<v{n}>")[0] for t, n in zip(texts, pictures.owners.tolist(), strict=True)]
    noisy, target = model.noised(latents, draws.noise, draws.timesteps)
    predicted, maps = model.predict(
        noisy,
        draws.timesteps,
        model.encode_prompts(texts),
        sizes=pictures.sizes,
        watch=torch.tensor(columns)[:, None],
    )
    loss = masked_error(predicted, target, shrink(masks, latents.shape[-2:])).mean()
    return loss + rival.attention * attention_loss(maps, shrink(masks, maps.shape[-2:])[:, 0]).mean()


def cross_attention_weights(model: UNetBackbone) -> list[nn.Parameter]:
    """The key and value matrices of every cross-attention, made trainable."""
    weights = [
        parameter
        for name, parameter in model.unet.named_parameters()
        if ".attn2.to_k." in name or ".attn2.to_v." in name
        if ".lora_" not in name
    ]
    return [weight.requires_grad_(True) for weight in weights]


@torch.no_grad()
def make_rare(tokens: Sequence[nn.Parameter]) -> None:
    """Start frozen tokens as words that mean nothing: random rows of the same size."""
    for rows in tokens:
        generator = torch.Generator().manual_seed(1)
        rows.copy_(torch.randn(rows.shape, generator=generator) * rows.std())
