"""Two real ranks: what fails on one of them neither leaves the other waiting nor puts them out of step."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.modules.module import register_module_forward_pre_hook

import fcn
from fcn import Config, memory
from fcn.data.cache import open_cache

CPU = torch.device("cpu")
WORLD = 2


@dataclass(frozen=True)
class Fault:
    """Memory that runs out on one rank, in one pass through fc6: forward, backward or evaluation."""

    rank: int
    where: str
    first: int  # counted from 1 among the passes of this kind
    last: int  # the last pass that fails; more than there are: memory that stays short


# 14 frames in batches of 8 and 6, of which each rank has half, two at once: passes 1 and 2, then 3 and 4; and so on.
EVER = 1_000
RECOVERS = {
    "first micro-batch": Fault(1, "forward", 1, 1),
    "last micro-batch": Fault(1, "forward", 2, 2),
    "rank 0": Fault(0, "forward", 2, 2),
    "backward": Fault(1, "backward", 2, 2),
    "last step of an epoch": Fault(1, "forward", 4, 4),
    "backward of the last step": Fault(0, "backward", 8, 8),
}
ENDS = {
    "one image": (Fault(1, "forward", 3, EVER), "epoch 1, step 2: rank 1: out of memory on cpu with one image"),
    "evaluation": (Fault(1, "evaluation", 1, 1), "epoch 1: rank 1: CUDA out of memory"),
}


@contextmanager
def short_of_memory(fault: Fault | None, rank: int) -> Iterator[None]:
    passes = 0

    def run_out(_: Tensor | None = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def before(module: nn.Module, given: Any) -> None:
        nonlocal passes
        if fault is None or fault.rank != rank or getattr(module, "kernel_size", None) != (7, 7):
            return
        if torch.is_grad_enabled() == (fault.where == "evaluation"):
            return
        passes += 1
        if fault.first <= passes <= fault.last:
            if fault.where == "backward":
                given[0].register_hook(run_out)
            else:
                run_out()

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def settings(folder: Path, **more: object) -> Config:
    return Config.model_validate(
        {
            "dataset": "scenes",
            "frames": 20,
            "image_size": (32, 64),
            "weights": "none",
            "width": 1 / 16,
            "fc_width": 16,
            "init": "bilinear",
            "batch_size": 8,
            "micro_batch": 2,
            # Adam's first steps turn the rounding of a gradient near zero into a step of full length.
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "epochs": 2,
            "precision": "float32",
            "cache_dir": folder / "pixels",
        }
        | more
    )


def trained(config: Config, folder: Path, name: str, fault: Fault | None, fail: str = "") -> dict[str, Any]:
    """What one run reports on this rank, or how it ends. fail: which part of it fails, "report" or nothing."""
    rank = distributed.get_rank()
    memory.fitted.clear()
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        reports.append({key: value for key, value in metrics.items() if not key.startswith("time/")})
        if snapshot is not None:
            shutil.rmtree(folder / name, ignore_errors=True)
            snapshot.copy(resume=False).write(folder / name)
            if fail == "report":
                raise fcn.TrainingError("the disk is full")

    ended = ""
    with short_of_memory(fault, rank):
        try:
            fcn.train(config, report=report, device=CPU)
        except (fcn.TrainingError, fcn.InputError, torch.OutOfMemoryError) as error:
            ended = f"{type(error).__name__}: {error}"
    return {"reports": reports, "ended": ended}


def every_case(rank: int, folder: Path) -> dict[str, Any]:
    """All of it in one pair of processes: importing torch takes longer than a run."""
    config = settings(folder)
    found = {"nothing": trained(config, folder, "nothing", None)}
    for name, fault in RECOVERS.items():
        found[name] = trained(config, folder, name, fault)
    for name, (fault, _) in ENDS.items():
        found[name] = trained(config, folder, name, fault)
    found["report"] = trained(config, folder, "report", None, fail="report")
    missing = settings(folder, dataset="folder", data_dir=folder / "nowhere") if rank == 1 else config
    found["data"] = trained(missing, folder, "data", None)
    # After all of this the two are still in step.
    found["again"] = trained(config, folder, "again", None)
    return found


def compiled(rank: int, folder: Path) -> dict[str, Any]:
    # Traced and guarded as ever; to write and compile C++ as well takes minutes.
    torch.compile = partial(torch.compile, backend="eager")
    config = settings(folder, batch_size=13, micro_batch=None, compile=True, epochs=1)
    found = {"compiled": trained(config, folder, "compiled", None)}
    plain = config.model_copy(update={"compile": False})
    return found | {"plain": trained(plain, folder, "plain", None)}


def _rank(rank: int, folder: Path, work: Callable[[int, Path], dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    (folder / f"rank-{rank}.json").write_text(json.dumps(work(rank, folder)))
    distributed.destroy_process_group()


def on_two_ranks(folder: Path, work: Callable[[int, Path], dict[str, Any]]) -> list[dict[str, Any]]:
    assert len(open_cache(settings(folder)).dataset.splits["train"]) == 14
    spawn(_rank, (folder, work), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with the last checkpoint of each case, and what each rank has to tell of it."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_two_ranks(folder, every_case)


def distance(one: Path, other: Path) -> float:
    """The largest of any tensor's, relative to its length."""
    tensors, others = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    return max(float((tensors[name] - others[name]).norm() / (tensors[name].norm() + 1e-3)) for name in tensors)


Runs = tuple[Path, list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERS)
def test_memory_that_runs_out_on_one_rank_changes_no_result(name: str, runs: Runs) -> None:
    folder, ranks = runs
    short = RECOVERS[name].rank
    for rank, found in enumerate(ranks):
        assert found[name]["ended"] == ""
        assert len(found[name]["reports"]) == 2
        for plain, report in zip(found["nothing"]["reports"], found[name]["reports"], strict=True):
            micro_batch = report.pop("train/micro_batch")
            assert report == pytest.approx({k: v for k, v in plain.items() if k in report}, rel=1e-4, abs=1e-4)
        assert micro_batch == (1 if rank == short else 2), "it did run out there, and only there"
    assert distance(folder / "nothing", folder / name) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_memory_for_not_one_image_on_one_rank_ends_both_with_its_sentence(name: str, runs: Runs) -> None:
    fault, sentence = ENDS[name]
    other, own = runs[1][1 - fault.rank][name]["ended"], runs[1][fault.rank][name]["ended"]
    assert other.startswith(f"TrainingError: {sentence}")
    assert "out of memory" in own
    assert "rank" not in own


@pytest.mark.slow
def test_a_report_that_fails_on_rank_0_ends_the_other_too(runs: Runs) -> None:
    assert [found["report"]["ended"] for found in runs[1]] == [
        "TrainingError: the disk is full",
        "TrainingError: rank 0: the disk is full",
    ]


@pytest.mark.slow
def test_data_that_one_rank_lacks_is_said_on_both(runs: Runs) -> None:
    own = runs[1][1]["data"]["ended"]
    assert own.startswith("InputError: ")
    assert "nowhere" in own
    assert runs[1][0]["data"]["ended"] == own.replace("InputError: ", "InputError: rank 1: ", 1)


@pytest.mark.slow
def test_ranks_are_in_step_after_one_of_them_failed(runs: Runs) -> None:
    for found in runs[1]:
        assert found["again"] == found["nothing"]
    assert distance(runs[0] / "nothing", runs[0] / "again") == 0


@pytest.mark.slow
def test_ranks_compile_for_different_numbers_of_shapes(tmp_path: Path) -> None:
    # 14 frames in batches of 13 and 1: rank 0 has 7 images and 1, rank 1 has 6 and none.
    ranks = on_two_ranks(tmp_path, compiled)
    for found in ranks:
        assert found["compiled"]["ended"] == ""
        for report, plain in zip(found["compiled"]["reports"], found["plain"]["reports"], strict=True):
            assert report == pytest.approx(plain, rel=1e-3, abs=1e-3)
    assert distance(tmp_path / "plain", tmp_path / "compiled") < 1e-4
