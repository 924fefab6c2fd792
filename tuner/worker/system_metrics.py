"""System metrics of a trial and its host: CPU, memory and GPU, sampled by the trial's process at the end of epochs.

Metrics that MLflow knows too have MLflow's names. A sample costs less than a millisecond.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

import psutil

MIN_INTERVAL_SECONDS = 5.0  # between samples; more of them would say little, and cost MLflow as much as metrics


def device_name(device: Any) -> str | None:
    """A torch.device's name for people, such as "NVIDIA H100, GPU 3"; None for None, a trial without torch."""
    if device is None or device.type != "cuda":
        return device and str(device.type)
    import torch

    # torch numbers only the GPUs that the process may use.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = visible.split(",")[device.index or 0] if visible else device.index or 0
    return f"{torch.cuda.get_device_name(device)}, GPU {number}"


class SystemMetrics:
    """Samples the system metrics of one trial."""

    def __init__(self, device: Any):
        """device: the torch.device that it trains on, or None."""
        self._device = device
        self._process = psutil.Process()
        psutil.cpu_percent()  # starts the interval that the next call measures
        self._cpu_seconds, self._sampled_at = time.process_time(), time.monotonic()
        self._gpu_seen = time.time()

    def sample(self) -> dict[str, float]:
        """Metrics by name; empty within MIN_INTERVAL_SECONDS of the previous sample or the trial's start."""
        now, cpu_seconds = time.monotonic(), time.process_time()
        passed = now - self._sampled_at
        if passed < MIN_INTERVAL_SECONDS:
            return {}
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_cores": (cpu_seconds - self._cpu_seconds) / passed,
            "process_memory_megabytes": self._process.memory_info().rss / 1e6,
            **self._gpu(),
        }
        self._cpu_seconds, self._sampled_at = cpu_seconds, now
        return {name: round(value, 3) for name, value in found.items()}

    def _gpu(self) -> dict[str, float]:
        if self._device is None or self._device.type != "cuda":
            return {}
        handle = _nvml_handle(self._device.index or 0)
        if handle is None:
            return {}
        nvml = _nvml()
        found: dict[str, float] = {}
        since, self._gpu_seen = self._gpu_seen, time.time()
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found["gpu_0_memory_usage_megabytes"] = memory.used / 1e6
            found["gpu_0_memory_usage_percentage"] = 100 * memory.used / memory.total
            found["gpu_0_power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            # At the end of an epoch the GPU is idle, so its utilization is averaged since the previous sample. NVIDIA's
            # driver keeps the last 14 seconds.
            _, samples = nvml.nvmlDeviceGetSamples(handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, int(since * 1e6))
            if samples:
                shares = [sample.sampleValue.uiVal for sample in samples]
                found["gpu_0_utilization_percentage"] = sum(shares) / len(shares)
        except nvml.NVMLError:
            pass  # a share of a GPU (MIG) has no such counters
        return found


@functools.cache
def _nvml_handle(index: int) -> Any:
    """NVML's handle of the GPU with this index in torch; None if NVML isn't available."""
    nvml, torch = _nvml(), sys.modules["torch"]
    try:
        nvml.nvmlInit()
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode())
    except (nvml.NVMLError, AttributeError):
        return None


def _nvml() -> Any:
    """NVIDIA's Python bindings, which Ray includes."""
    from ray._private.thirdparty import pynvml

    return pynvml
