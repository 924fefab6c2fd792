"""What a person is told of the device that a run uses."""

import os

import pytest
import torch

from fcn.device import chosen_device, described
from fcn.errors import InputError


def test_a_cpu_is_described_with_its_cores_and_why_it_is_no_gpu() -> None:
    text = described(torch.device("cpu"))
    assert f"{len(os.sched_getaffinity(0))} core" in text
    assert ("there is a GPU" in text) == torch.cuda.is_available()
    if not torch.cuda.is_available():
        assert "no GPU found" in text or "built for CPUs only" in text


def test_fewer_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert described(torch.device("cpu")).startswith(f"cpu ({torch.get_num_threads()} of 64 cores; ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_described_with_its_name_and_memory() -> None:
    text = described(torch.device("cuda:0"))
    assert text.startswith(f"cuda:0 ({torch.cuda.get_device_name(0)}, ")
    assert text.endswith(" GiB)")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_without_a_number_is_the_current_one_and_one_that_is_not_there_is_refused() -> None:
    assert chosen_device("cuda") == torch.device("cuda", torch.cuda.current_device())
    with pytest.raises(InputError, match="must be one of cuda:0 to"):
        chosen_device("cuda:99")
