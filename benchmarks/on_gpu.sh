#!/usr/bin/env bash
# All figures of a GPU in one file:  bash benchmarks/on_gpu.sh TABLE [WHEELS]
#
# Needs torch, transformers, peft and accelerate. WHEELS is a folder with wheels of what else is missing, above all
# diffusers (`pip download --no-deps -d WHEELS diffusers`); nothing is fetched. Rows that need a ComfyUI are left out
# where there is none in COMFYUI_PATH or .host/ComfyUI. A row that fails does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/.."
table=$1 wheels=${2:-}
: >"$table"

if [ -n "$wheels" ]; then
    packages=$(mktemp -d)
    python3 -m pip install --quiet --no-index --no-deps --target "$packages" "$wheels"/*.whl || exit
    export PYTHONPATH=$packages
fi
export PYTHONUNBUFFERED=1

row() {
    echo "\$ python -m $*" | tee -a "$table"
    python3 -m "$@" 2>&1 | tee -a "$table" || echo "failed" | tee -a "$table"
}

step=benchmarks.training_step
ours="fastest fast-3 fast-1 balanced balanced-1 small-1 smallest-1"
row $step --shape sd15 --steps 10 --modes textbook $ours
row $step --shape sd21 --steps 10 --modes textbook $ours
row $step --shape sdxl --steps 5 --modes $ours
row $step --shape sd15 --steps 3 --modes $ours --limit-gib 8 --skip-check
row $step --shape sdxl --steps 2 --modes $ours --limit-gib 24
row $step --shape sdxl --steps 2 --modes $ours --limit-gib 16
row $step --shape sdxl --steps 2 --modes $ours --limit-gib 8
row $step --shape sd35m --steps 2 --modes $ours
row benchmarks.conversion --shape sd15
if [ -f "${COMFYUI_PATH:-.host/ComfyUI}/main.py" ]; then
    row benchmarks.node_overhead --shape sd15 --resolution 512 --steps 5
    row benchmarks.sampling --shape sd15 --size 512 --steps 50
fi
