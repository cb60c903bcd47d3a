"""Which node shows which hyper-parameter, and what the presets set."""

from typing import Any

from ...magictailor.config import defaults

# what artists turn; MagicTailor Settings shows the rest
ON_TRAIN = (
    "phase1_train_steps",
    "phase2_train_steps",
    "phase1_learning_rate",
    "phase2_learning_rate",
    "resolution",
    "seed",
    "lora_rank",
    "memory",
)
AS_ON_TRAIN = "as on Train"
# values other than the defaults, which are the paper's
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # its scheduler puts the first phase's rate back after one step of the second
    "released program": {"phase1_learning_rate": 1e-4, "phase2_learning_rate": 1e-4},
    "toy town": {
        "phase1_train_steps": 250,
        "phase2_train_steps": 150,
        "phase1_learning_rate": 5e-4,
        "phase2_learning_rate": 5e-4,
        "resolution": 64,
        "lora_rank": 16,
        "lambda_attention": 0.3,
    },
}


def preset_values(preset: str) -> dict[str, Any]:
    """Every hyper-parameter that MagicTailor Settings shows with a preset, in this order: those of Train come first."""
    of_train = {name: value for name, value in PRESETS[preset].items() if name in ON_TRAIN}
    # memory stands where an earlier version had gradient_checkpointing: saved workflows hold widget values by position
    others = {name: value for name, value in defaults().items() if name not in ON_TRAIN or name == "memory"}
    return of_train | others | {"memory": AS_ON_TRAIN} | PRESETS[preset]
