"""The clock and the scales: device or process memory, and what has to be awaited or given back before reading them."""

from __future__ import annotations

import ctypes
import gc
import pathlib

import torch


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limit_memory(device: torch.device, gib: float) -> None:
    """Let this process allocate no more of a GPU's memory; beyond it torch.OutOfMemoryError is raised."""
    if device.type != "cuda":
        raise SystemExit("--limit-gib limits a GPU's memory, and this runs on a CPU")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total), device)


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        # the C library keeps freed memory, which would hide what the next mode needs
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else process_status("VmRSS")


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Linux: 5 sets the process's peak of resident memory back to what it holds now (man 5 proc)
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_status("VmHWM")


def process_status(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell {field}")
