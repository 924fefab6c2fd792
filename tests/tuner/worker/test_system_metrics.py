"""What a trial says of the device that it trains on, and of what it takes."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.tuner.worker.trial_runner import TrialRunner
from tuner.storage.storage import Storage
from tuner.worker import system_metrics
from tuner.worker.system_metrics import SystemMetrics, device_name


def test_a_sample_says_what_this_process_and_its_host_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "MIN_INTERVAL_SECONDS", 0.2)
    metrics = SystemMetrics(torch.device("cpu"))
    assert metrics.sample() == {}, "a moment ago"
    block, began, cpu_before = bytearray(50_000_000), time.monotonic(), time.process_time()
    while time.monotonic() - began < 0.3:
        block[::4096] = bytes(len(range(0, len(block), 4096)))
    found, passed = metrics.sample(), time.monotonic() - began
    cores = (time.process_time() - cpu_before) / passed
    assert found["process_cpu_cores"] == pytest.approx(cores, rel=0.3, abs=0.05)
    assert found["process_memory_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.2)
    assert 0 < found["cpu_utilization_percentage"] <= 100
    assert 0 < found["system_memory_usage_percentage"] < 100
    assert metrics.sample() == {}
    assert not [name for name in found if "gpu" in name]


def test_reports_of_short_epochs_cost_no_samples_and_others_have_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = TrialRunner(Storage(str(tmp_path)) / "short")
    short.run(epochs=3)
    assert [report.system for report in short.reports] == [{}, {}, {}]
    monkeypatch.setattr(system_metrics, "MIN_INTERVAL_SECONDS", 0.0)
    long = TrialRunner(Storage(str(tmp_path)) / "long")
    long.run(epochs=3)
    assert all(report.system["process_memory_megabytes"] > 0 for report in long.reports)
    other_rank = TrialRunner(Storage(str(tmp_path)) / "rank")
    other_rank.run(epochs=1, rank=1)
    assert [report.system for report in other_rank.reports] == [{}]


def test_a_device_has_a_name_that_a_person_knows() -> None:
    assert device_name(torch.device("cpu")) == "cpu"
    assert device_name(None) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_sample_of_a_gpu_says_what_it_did_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "MIN_INTERVAL_SECONDS", 1.0)
    device = torch.device("cuda", 0)
    metrics, began = SystemMetrics(device), time.monotonic()
    matrix = torch.rand(8192, 8192, device=device)
    while time.monotonic() - began < 3:
        matrix @ matrix
        torch.cuda.synchronize()
    found = metrics.sample()
    assert found["gpu_0_utilization_percentage"] > 50
    assert found["gpu_0_memory_usage_megabytes"] > 500
    assert found["gpu_0_power_usage_watts"] > 50
    assert torch.cuda.get_device_name(device) in (device_name(device) or "")
