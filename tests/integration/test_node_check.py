"""A study on a Ray some of whose nodes can't run its trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from tests.integration.study_process import events, ray_cluster, running, show
from tests.studies import study_spec, write_study
from tests.waiting import wait_for
from tests.workloads.replay import NO_DATA_HERE
from tuner.checks import nodes as checks
from tuner.events.event import NodeLost
from tuner.storage.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),  # Ray's own test cluster leaves files open
]

WITHOUT_DATA = {"num_cpus": 1, "env_vars": {NO_DATA_HERE: "1"}}


def test_a_node_without_the_data_gets_no_trials_whenever_it_comes(tmp_path: Path, storage: Path) -> None:
    file = write_study(
        tmp_path / "left.toml",
        budget={"trials": 6},
        scheduler={"name": "none"},
        fixed={"epochs": 3, "step_seconds": 0.5},
    )
    folder = storage / "left"

    def left_out() -> int:
        return sum(event["event"] == "left_out" for event in events(folder))

    with ray_cluster(num_cpus=0) as nodes:
        where = ("--storage", storage, "--address", nodes.address)
        with running("run", file, *where) as alone:
            for line in alone.lines():
                if "waiting for nodes" in line:
                    nodes.add_node(**WITHOUT_DATA)
            assert alone.wait() == 2, alone.output
        assert "error: no node can run trials: " in alone.output, alone.output
        assert "frames are needed, got none" in alone.output
        assert "Traceback" not in alone.output
        found = show(storage, "left")
        assert (found["state"], found["trials"]) == ("interrupted", [])
        nodes.add_node(num_cpus=1)
        with running("resume", "left", *where) as study:
            wait_for(lambda: any(event["event"] == "report" for event in events(folder)))
            assert left_out() == 2, "once in each run"
            nodes.add_node(**WITHOUT_DATA)
            wait_for(lambda: left_out() == 3, 60)
            assert study.wait() == 0, study.output
        assert study.left_behind() == []
    found = show(storage, "left")
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 6, study.output
    assert all(len(trial["nodes"]) == 1 for trial in found["trials"])
    assert "gets no trials: fixed.missing_data: frames are needed" in study.output


def test_a_node_that_lacks_what_only_the_driver_s_shell_has_gets_no_trials(tmp_path: Path, storage: Path) -> None:
    file = write_study(tmp_path / "own.toml", budget={"trials": 1})
    with (
        ray_cluster(**WITHOUT_DATA) as node,
        running("run", file, "--storage", storage, "--address", node.address) as study,
    ):
        assert study.wait() == 2, study.output
    assert "error: no node can run trials: " in study.output
    assert "frames are needed, got none" in study.output
    assert show(storage, "own")["trials"] == []


def test_a_node_that_is_gone_before_its_check_has_ended_is_lost_and_says_nothing_against_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_cluster(num_cpus=0) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, namespace="tuner")
        try:
            node = cluster.add_node(num_cpus=1)
            nodes = checks.Nodes(study_spec(), Storage(str(tmp_path)) / "gone", None)
            assert nodes.poll() == []
            assert len(nodes.being_checked) == 1
            # From here on the cluster is looked at only when a check has ended.
            monkeypatch.setattr(checks, "_POLL_SECONDS", 3600.0)
            cluster.remove_node(node, allow_graceful=False)
            [lost] = wait_for(nodes.poll)
        finally:
            ray.shutdown()
    assert isinstance(lost, NodeLost)
    assert not nodes.none_left
    assert nodes.being_checked == []
