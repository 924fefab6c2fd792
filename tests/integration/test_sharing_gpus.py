"""Trials share a GPU once their memory use is known. The GPU is a simulated one that Ray is started with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.study_process import events, ray_cluster, running, show
from tests.studies import write_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own test cluster leaves files open
]


@pytest.fixture
def one_gpu() -> Iterator[str]:
    """The address of a Ray that believes it has a GPU."""
    with ray_cluster(num_cpus=2, num_gpus=1) as cluster:
        yield str(cluster.address)


def test_trials_run_alone_until_three_have_shown_their_memory_and_then_share_the_gpu(
    one_gpu: str, tmp_path: Path, storage: Path
) -> None:
    file = write_study(
        tmp_path / "shared.toml",
        workload="tests.workloads.torch_replay",
        budget={"trials": 6},
        scheduler={"name": "none"},
        resources={"cpus_per_worker": 0.25},
        # The last three can't go on until all of them run.
        space={"together": {"type": "choice", "choices": [1, 3]}},
        first_trials=[{"x": 0.1 * n, "together": 1 if n <= 3 else 3} for n in range(1, 7)],
        fixed={"epochs": 2, "gpu_share": 0.3, "log": tmp_path / "log"},
    )
    with running("run", file, "--storage", storage, "--address", one_gpu) as study:
        assert study.wait() == 0, study.output
    assert [trial["state"] for trial in show(storage, "shared")["trials"]] == ["finished"] * 6
    assert "the first 3 trials used at most 30% of a GPU's memory: from now on 3 share one" in study.output
    together, most = 0, {True: 0, False: 0}
    for event in events(storage / "shared"):
        together += {"start": 1, "end": -1}.get(event["event"], 0)
        alone = event.get("trial", 0) <= 3
        most[alone] = max(most[alone], together)
    assert most == {True: 1, False: 3}
