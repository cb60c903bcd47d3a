"""What training, drawing and files ask of a model, whatever network it is.

A family of checkpoints is described by a `Family`, which recognises its own weights and builds a `Backbone` from them:
the frozen networks with a LoRA and one new token per reference. Everything outside this package speaks to a model
through these two alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from .lora_layout import LoraLayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..config import TailorConfig
    from ..memory import Appetite, MemoryPlan, Weights

Tokenizer = Callable[[str], Mapping[str, list[int]]]
"""A text encoder's tokenizer: text -> {"input_ids": [...]}."""


class SamplerDefaults(NamedTuple):
    """How a family is usually drawn with, in ComfyUI's names."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


class Schedule(Protocol):
    """The forward process a loaded model was trained with.

    Attributes:
        prediction_type: "epsilon", "v_prediction", or "flow" (the velocity of a straight path).
    """

    @property
    def prediction_type(self) -> str: ...


@dataclass(frozen=True)
class CheckpointWeights:
    """What training takes from a loaded checkpoint.

    Attributes:
        network: state dict of the network that predicts, in the layout of single-file checkpoints.
        text_encoders: state dict of each text encoder in transformers' layout, by embedding key.
        autoencoder: state dict in the layout of single-file checkpoints, or TAESD's.
        schedule: the forward process, as the user samples with it.
        tokenizers: by embedding key; encoders that share one may leave all keys but the first out.
        text_layer: hidden layer the user samples with ("clip skip"), counted from the end; None: the family's.
    """

    network: Mapping[str, Tensor]
    text_encoders: Mapping[str, Mapping[str, Tensor]]
    autoencoder: Mapping[str, Tensor]
    schedule: Schedule
    tokenizers: Mapping[str, Tokenizer]
    text_layer: int | None = None


@dataclass(frozen=True)
class Family(ABC):
    """A family of checkpoints; a subclass knows one kind of network.

    Attributes:
        name: stored in tailorings.
        title: shown to people.
        resolution: side in pixels of the pictures it was trained on.
        base_model_version: kohya's `ss_base_model_version`.
        architecture: the `modelspec.architecture` of the SAI model metadata standard, without "/lora".
        prediction_type: tells families with the same network apart; None: there is one, whatever its models predict.
        appetite: what a step needs of a device's memory; None: nobody has counted it.
    """

    name: str
    title: str
    resolution: int
    base_model_version: str
    architecture: str
    prediction_type: str | None
    appetite: Appetite | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def embedding_keys(self) -> tuple[str, ...]:
        """Names of its text encoders in embedding files, as ComfyUI reads them."""

    @property
    @abstractmethod
    def lora_layout(self) -> LoraLayout:
        """How its LoRA's tensors are called in files."""

    @property
    @abstractmethod
    def sampler(self) -> SamplerDefaults:
        """How it is usually drawn with."""

    @property
    def text_layer(self) -> int | None:
        """Hidden layer of its text encoders that is shown, counted from the end; None: they differ."""
        return None

    @abstractmethod
    def fits(self, network: Mapping[str, Tensor], prediction_type: str) -> bool:
        """Whether weights, in the layout of `CheckpointWeights.network`, are those of this family."""

    @classmethod
    @abstractmethod
    def refusal(cls, network: Mapping[str, Tensor]) -> str | None:
        """Why no family of this kind can use some weights; None: they are of another kind."""

    @abstractmethod
    def require_encoders(self, found: set[str]) -> None:
        """Refuse a set of text encoders, by embedding key, that is not of this family.

        Raises:
            InputError: names "clip".
        """

    @abstractmethod
    def build(
        self, weights: CheckpointWeights, class_words: Sequence[str], config: TailorConfig, device: torch.device
    ) -> Backbone:
        """The trainable copy of a checkpoint, sharing its tensors where device and dtype allow.

        Args:
            weights: of the loaded checkpoint; never changed.
            class_words: the concept's first, then the components'.
            config: gives the LoRA's rank, the seed of its first values and the precision.

        Raises:
            InputError: parts do not belong to this family; names "model", "clip" or "vae".
        """

    @classmethod
    @abstractmethod
    def open_file(cls, file: CheckpointFile) -> Checkpoint | None:
        """A single-file checkpoint; None if it is of another kind.

        Raises:
            InputError: it is of this kind and cannot be used.
        """

    @classmethod
    @abstractmethod
    def open_folder(cls, folder: Path, tokenizer: Path | None, prediction_type: str | None) -> Checkpoint | None:
        """A folder in diffusers' layout; None if it is of another kind.

        Raises:
            InputError: it is of this kind and cannot be used.
        """

    def metadata(self) -> dict[str, str]:
        """What model managers look at to tell which checkpoints a LoRA fits."""
        return {
            "ss_base_model_version": self.base_model_version,
            "modelspec.architecture": f"{self.architecture}/lora",
        }


@dataclass(frozen=True)
class CheckpointFile:
    """A single file as it was read.

    Attributes:
        name: of the file.
        state: all its tensors.
        tokenizer: folder with the text encoders' vocabulary; None: a cached one.
        prediction_type: given by the user; None: to be recognised.
    """

    name: str
    state: Mapping[str, Tensor]
    tokenizer: Path | None
    prediction_type: str | None


class Checkpoint(Protocol):
    """A checkpoint on disk."""

    def model(self, class_words: Sequence[str], config: TailorConfig, device: torch.device) -> Backbone:
        """With fresh LoRA and tokens, see `Family.build`."""
        ...

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Latents (B, C, h, w) as the autoencoder gives them -> pictures (B, 3, H, W) in [0, 1], in float32."""
        ...


class Prediction(NamedTuple):
    """What a network answers.

    Attributes:
        answer: (B, C, h, w), in the number format it computes in.
        maps: attention on the watched words, (B, h', w') float32; None if none were watched.
    """

    answer: Tensor
    maps: Tensor | None


P = TypeVar("P", bound="Prompts")


class Prompts(Protocol):
    """What text encoders tell a network about B prompts."""

    def detached(self: P) -> P:
        """The same values as leaves that collect gradients, see `backward`."""
        ...

    def backward(self: P, leaves: P) -> None:
        """Carry what `detached` leaves have collected on into the text encoders."""
        ...


class Backbone(Protocol):
    """A frozen checkpoint with a LoRA and one new token per reference, which are trained.

    Latents, unless it is said otherwise, are as the network sees them: (B, C, h, w) float32, scaled.
    """

    @property
    def family(self) -> Family: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> torch.dtype:
        """What its frozen weights and its computation are in; what is trained is in float32."""
        ...

    @property
    def plan(self) -> MemoryPlan:
        """How it is arranged."""
        ...

    @property
    def text_layer(self) -> int | None:
        """As in `CheckpointWeights`, or the family's."""
        ...

    def weights(self) -> Weights:
        """Bytes of the frozen weights, in the number format they are used in."""
        ...

    def arrange(self, plan: MemoryPlan) -> None:
        """Bring the frozen weights to where a plan has them; before that they are as they were given.

        What was sent away stays away.
        """
        ...

    def watch_again(self, watch: Tensor) -> None:
        """Before the backward pass of a prediction that was not the last: what it watched.

        Gradient checkpointing repeats layers there.
        """
        ...

    def lora(self) -> dict[str, nn.Parameter]:
        """The LoRA's tensors by peft's names, `<path>.lora_A.<adapter>.weight` and `<path>.lora_B.<adapter>.weight`."""
        ...

    def token_rows(self) -> dict[str, nn.Parameter]:
        """The trained vectors (N * V, width) of each text encoder, by embedding key: V of each token in turn."""
        ...

    def name_tokens(self, names: Sequence[str]) -> None:
        """Call the tokens otherwise in every prompt from now on, the concept's first."""
        ...

    def token_columns(self) -> Tensor:
        """(N, P) positions of each token among the text keys of "A photo of <vN>", for `predict`.

        P counts the vectors of a token: it gets what its vectors get together. L_attn divides that by its maximum, so
        it is the same as of their mean.
        """
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of pictures of H x W pixels."""
        ...

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Sample latents of pictures, without gradients.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: (B, C, h, w) standard normal; zeros give the middle of the autoencoder's answer.
        """
        ...

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder gives them."""
        ...

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """Timesteps (B,) of a training step, as the family is trained, on the generator's device."""
        ...

    def timestep_at(self, noise_level: float) -> Tensor:
        """The timestep () at a share of the way from clean (0) to noise (1)."""
        ...

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Latents under noise, and what the network should answer to them; both (B, C, h, w).

        Args:
            noise: (B, C, h, w) standard normal.
            timesteps: (B,).
        """
        ...

    def reference_prompts(self) -> Prompts:
        """The prompt "A photo of <vN>" of every reference, with gradients into the tokens."""
        ...

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        """B prompts, in which token names stand for what was learned.

        Raises:
            InputError: a prompt is too long; names "prompt".
        """
        ...

    def require_readable(self, text: str) -> None:
        """Refuse a prompt that is too long, or holds a token's name that was not learned.

        Raises:
            InputError: names "prompt".
        """
        ...

    def positions(self, text: str, word: str) -> list[int]:
        """Positions among the text keys that belong to a word, or a token's name, of a prompt; empty: not in it."""
        ...

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        prompts: Prompts,
        *,
        sizes: Tensor,
        owners: Tensor | None = None,
        watch: Tensor | None = None,
        lora: Mapping[str, Tensor] | None = None,
    ) -> Prediction:
        """What the network makes of noisy latents.

        Args:
            noisy: (B, C, h, w).
            timesteps: (B,) or ().
            sizes: (B, 6) of the pictures, see `magictailor.pictures.picture_sizes`; not every family is told them.
            owners: (B,) index of each picture's prompt; None: each has its own.
            watch: (B, P) positions among the text keys; the attention they get is summed over P. What is watched is
                part of the graph until the next call, also where gradient checkpointing repeats a layer.
            lora: tensors that stand in for the LoRA's; None: the trained ones.
        """
        ...

    def scheduler(self) -> Scheduler:
        """Diffusers' scheduler to draw with."""
        ...


class Scheduler(Protocol):
    """What drawing uses of a diffusers scheduler."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> Any: ...
