"""A slot's process between two trials."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from tuner.worker.isolation import is_tainted_by, isolated


def _nothing(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
    return output * 0


def _leave_a_mess(folder: Path) -> None:
    random.random()
    np.random.rand()
    torch.rand(3)
    os.environ["LEFT_BEHIND"] = "1"
    os.environ["HOME"] = "/nowhere"
    os.chdir(folder)
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.set_grad_enabled(False)
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    torch.set_float32_matmul_precision("medium")
    register_module_forward_hook(_nothing)  # type: ignore[arg-type]


def _measured() -> dict[str, object]:
    """What a trial that sets nothing of its own would see."""
    layer = torch.nn.Linear(4, 1)
    output = layer(torch.ones(1, 4))
    return {
        "output": output.tolist(),
        "dtype": output.dtype,
        "grad": output.requires_grad,
        "random": (random.random(), float(np.random.rand()), float(torch.rand(()))),
        "environment": (os.environ.get("LEFT_BEHIND"), os.environ["HOME"]),
        "folder": Path.cwd(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    }


def test_a_trial_after_one_that_left_a_mess_sees_what_it_sees_alone(tmp_path: Path) -> None:
    with isolated(seed=7):
        alone = _measured()
    with isolated(seed=3):
        _leave_a_mess(tmp_path)
    with isolated(seed=7):
        after = _measured()
    assert after == alone


def _stopped_in_a_mess(folder: Path) -> None:
    with isolated(seed=1):
        _leave_a_mess(folder)
        raise SystemExit


def test_the_process_is_put_back_when_a_trial_raises(tmp_path: Path) -> None:
    before = Path.cwd()
    with pytest.raises(SystemExit):
        _stopped_in_a_mess(tmp_path)
    assert Path.cwd() == before
    assert torch.get_default_dtype() == torch.float32
    assert "LEFT_BEHIND" not in os.environ


def test_memory_that_ran_out_spoils_a_process_also_as_a_cause() -> None:
    error = RuntimeError("one image doesn't fit")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_tainted_by(error)
    assert is_tainted_by(RuntimeError("CUDA error: device-side assert triggered"))
    assert is_tainted_by(MemoryError())


def test_a_usual_failure_spoils_nothing() -> None:
    assert not is_tainted_by(ValueError("learning_rate is too large"))
    assert not is_tainted_by(None)


def test_a_slot_does_not_import_torchs_compiler() -> None:
    """It takes two seconds, which the first trial of every slot would wait for."""
    code = """
import sys
from tuner.worker.isolation import isolated
with isolated(0):
    pass
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trial_without_torch_brings_none_into_its_process(tmp_path: Path) -> None:
    code = f"""
import sys
from tests.workloads import replay
from tuner.worker.messages import Action, Assignment, Decision, End
from tuner.storage.storage import Storage
from tests.studies import study_spec
from tuner.worker.trial import run_trial
from tuner.spec.workload import uses_torch
spec = study_spec()
assert not uses_torch(spec.workload)
sent = []
def send(message):
    sent.append(message)
    return Decision(Action.CONTINUE, keep=True)
run_trial(
    Assignment(1, {{"x": 0.5}}, 0.0), spec, Storage({str(tmp_path)!r}), device=None, rank=0,
    send=send, send_from_rank=send,
)
assert [report.epoch for report in sent[:-1]] == [1, 2, 3]
assert isinstance(sent[-1], End)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_a_trial_in_a_large_process_pays_nothing_for_what_is_imported_there() -> None:
    code = """
import time
from tuner.worker.isolation import isolated
imported = [[] for _ in range(2_000_000)]  # the collector needs tens of milliseconds to look at each
seconds = []
for seed in range(10):
    began = time.process_time()
    with isolated(seed):
        pass
    seconds.append(time.process_time() - began)
assert min(seconds[1:]) < 0.005, seconds
"""
    subprocess.run([sys.executable, "-c", code], check=True)
