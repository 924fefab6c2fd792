"""A study whose data are in a bucket."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import ROOT, events, ray_cluster, running, show, tuner
from tests.workloads.bucket import bucket_uri
from tests.workloads.labelled_frames import upload, write_frames

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]


STUDY = """
workload = "fcn"
scheduler.name = "none"
resources.cpus_per_worker = 1
[objective]
metric = "val/mean_iou"
[budget]
trials = 2
[fixed]
dataset = "folder"
data_dir = "{url}"
classes = "all"
weights = "none"
width = 0.0625
fc_width = 8
image_size = [16, 32]
precision = "float32"
epochs = {epochs}
[space]
learning_rate = {{ type = "float", low = 1e-4, high = 1e-2, log = true }}
"""


def study_file(path: Path, url: str, epochs: int) -> Path:
    path.write_text(STUDY.format(url=url, epochs=epochs))
    return path


def test_a_study_on_a_bucket_s_frames_is_run_exported_and_resumed_on_changed_ones(
    tmp_path: Path, storage: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{bucket}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = write_frames(tmp_path / "frames")
    upload(frames, bucket_uri(bucket, f"{tmp_path.name}/streets"))
    url = f"s3://bucket/{tmp_path.name}/streets"
    file = study_file(tmp_path / "far.toml", url, epochs=2)
    checked = tuner("check", file, "--storage", storage)
    assert f"fetching {url}: 25 files" in checked.output
    first = tuner("run", file, "--storage", storage)
    assert "fetching" not in first.output
    assert [trial["state"] for trial in show(storage, "far")["trials"]] == ["finished"] * 2
    (began,) = [event for event in events(storage / "far") if event["event"] == "run"]
    assert began["data"]["fingerprint"].startswith("folder-")

    command = [sys.executable, "-m", "tuner.best", "far", "--storage", str(storage), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "export.json").read_text())["data_url"] == url

    upload(write_frames(tmp_path / "more", 16, seed=1), bucket_uri(bucket, f"{tmp_path.name}/streets"))
    second = tuner("resume", "far", "--storage", storage, "--set", "budget.trials=3")
    assert re.search(r"warning: the data have changed since the last run of far: their fingerprint was", second.output)
    assert [trial["state"] for trial in show(storage, "far")["trials"]] == ["finished"] * 3


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore")  # Ray's own test cluster leaves files open
def test_a_node_that_can_not_reach_the_data_is_named_and_gets_no_trials(
    tmp_path: Path, storage: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{bucket}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(write_frames(tmp_path / "frames"), bucket_uri(bucket, f"{tmp_path.name}/streets"))
    url = f"s3://bucket/{tmp_path.name}/streets"
    file = study_file(tmp_path / "left.toml", url, epochs=2)

    def node(number: int, **environment: str) -> dict[str, Any]:
        return {"num_cpus": 1, "env_vars": {"XDG_CACHE_HOME": str(tmp_path / f"node{number}"), **environment}}

    with ray_cluster(num_cpus=0) as nodes:
        where = ("--storage", storage, "--address", nodes.address)
        nodes.add_node(**node(1, AWS_ENDPOINT_URL="http://127.0.0.1:1"))
        with running("run", file, *where) as alone:
            assert alone.wait() == 2, alone.output
        assert re.search(rf"no node can run trials: \S+ \([\d.]+\): {url}: can't be read: .*NETWORK", alone.output)
        nodes.add_node(**node(2))
        tuner("resume", "left", *where)
    assert [trial["state"] for trial in show(storage, "left")["trials"]] == ["finished"] * 2
    assert list((tmp_path / "node2").rglob("newest")), "a node has a copy of its own"
