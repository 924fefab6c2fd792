"""A run: its gradient, its steps, what it reports, and that nothing but its settings decides how it ends."""

import json
import math
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

import fcn
from fcn import Config, InputError, TrainingError
from fcn.data.cache import Cache, open_cache
from fcn.evaluation.scoring import evaluate
from fcn.model import checkpoint
from fcn.model.fcn8s import FCN8s
from fcn.model.precision import autocast
from fcn.training.epoch import EpochTrainer, balanced_weights
from fcn.training.optimizer import build_optimizer, learning_rate
from fcn.training.state import RunState
from fcn.training.step import BatchGradient, is_out_of_memory

CPU = torch.device("cpu")
Reports = list[dict[str, float]]
Invoke = Callable[[list[str]], tuple[int, str]]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@pytest.fixture
def config(cache_dir: Path) -> Config:
    return slim(cache_dir)


def slim(cache_dir: Path, **settings: object) -> Config:
    return Config.model_validate(
        {
            "dataset": "scenes",
            "frames": 20,
            "image_size": (32, 64),
            "weights": "none",
            "width": 1 / 16,
            "fc_width": 16,
            "init": "bilinear",
            "batch_size": 5,
            "learning_rate": 3e-3,
            "epochs": 2,
            "brightness": 0.2,
            "precision": "float32",
            "cache_dir": cache_dir,
        }
        | settings
    )


def changed(config: Config, **settings: object) -> Config:
    return Config.model_validate(config.model_dump() | settings)


def run(config: Config, keep: Path, resume_from: Path | None = None) -> tuple[Reports, dict[str, Tensor]]:
    """Trains; returns the reports and the last weights. keep gets a checkpoint an epoch, by number."""
    reports: Reports = []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        reports.append(metrics)
        shutil.rmtree(keep / f"{metrics['epoch']:.0f}", ignore_errors=True)
        snapshot.copy(resume=True).write(keep / f"{metrics['epoch']:.0f}")

    fcn.train(config, report=report, resume_from=resume_from, device=CPU)
    return reports, load_file(keep / f"{reports[-1]['epoch']:.0f}" / "weights.safetensors")


def measured(reports: Reports) -> Reports:
    """Without the times, which no two runs share."""
    return [{name: value for name, value in report.items() if not name.startswith("time/")} for report in reports]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The gradient of a batch


def batch_of(count: int, void: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images_NCHW = torch.randn(count, 3, 32, 64, generator=generator)
    target_NHW = torch.randint(0, 2, (count, 32, 64), generator=generator)
    # Unevenly: a mean over means of images would differ.
    share = torch.linspace(0, 2 * void, count).view(-1, 1, 1)
    target_NHW[torch.rand(target_NHW.shape, generator=generator) < share] = 255
    return images_NCHW, target_NHW


def gradient_of(model: FCN8s, config: Config, micro_batch: int, weights: Tensor | None = None) -> tuple[float, Tensor]:
    images_NCHW, target_NHW = batch_of(6)
    gradient = BatchGradient(model, model, config, CPU, weights, micro_batch)
    loss = gradient.take(images_NCHW, target_NHW, list(range(6)))
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0])])
def test_micro_batches_give_the_gradient_of_the_whole_batch(config: Config, weights: Tensor | None) -> None:
    model = RunState.start(config, ("background", "road"), CPU).model
    whole_loss, whole = gradient_of(model, config, 6, weights)
    for micro_batch in (1, 4):
        loss, parts = gradient_of(model, config, micro_batch, weights)
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        assert float((parts - whole).norm() / whole.norm()) < 1e-5


def test_the_gradient_is_that_of_the_mean_cross_entropy_over_valid_pixels(config: Config) -> None:
    config = changed(config, dropout=0)
    model = RunState.start(config, ("background", "road"), CPU).model
    weights = torch.tensor([0.5, 2.0])
    loss, found = gradient_of(model, config, 2, weights)
    images_NCHW, target_NHW = batch_of(6)
    model.zero_grad()
    expected = functional.cross_entropy(model(images_NCHW), target_NHW, weights, ignore_index=255)
    expected.backward()  # type: ignore[no-untyped-call]
    whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert float((found - whole).norm() / whole.norm()) < 1e-5


def test_a_batch_of_void_alone_moves_nothing(config: Config) -> None:
    model = RunState.start(config, ("background", "road"), CPU).model
    gradient = BatchGradient(model, model, config, CPU, None, 2)
    loss = gradient.take(torch.randn(2, 3, 32, 64), torch.full((2, 32, 64), 255), [1, 2])
    assert float(loss) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


class SmallMemory:
    """A network on a device that holds a few images at once."""

    def __init__(self, model: FCN8s, images: int) -> None:
        self.model, self.images = model, images

    def __call__(self, images_NCHW: Tensor, keep: tuple[Tensor, Tensor] | None) -> Tensor:
        if len(images_NCHW) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(images_NCHW, keep)  # type: ignore[no-any-return]


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(config: Config) -> None:
    model = RunState.start(config, ("background", "road"), CPU).model
    _, whole = gradient_of(model, config, 6)
    gradient = BatchGradient(model, SmallMemory(model, 2), config, CPU, None, 6)
    gradient.take(*batch_of(6), list(range(6)))
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert gradient.micro_batch == 1  # 6, 3, 1
    assert float((found - whole).norm() / whole.norm()) < 1e-5


def test_one_image_that_does_not_fit_ends_the_run_with_a_sentence(config: Config) -> None:
    model = RunState.start(config, ("background", "road"), CPU).model
    gradient = BatchGradient(model, SmallMemory(model, 0), config, CPU, None, 5)
    with pytest.raises(TrainingError, match="with one image of 32x64 at a time"):
        gradient.take(*batch_of(6), list(range(6)))


def test_a_cpu_that_has_no_room_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert is_out_of_memory(caught.value)


def test_balanced_weights_are_the_inverse_of_each_classs_share(config: Config) -> None:
    cache = open_cache(config)
    labels = torch.tensor(cache.labels[list(cache.dataset.splits["train"])])
    share = float((labels == 1).sum() / (labels != 255).sum())
    expected = torch.tensor([1 / (1 - share), 1 / share]) / 2
    torch.testing.assert_close(balanced_weights(cache), expected)


# Steps


@pytest.mark.parametrize("l2_on", ["decoder", "all"])
def test_l2_adds_s_times_w_to_the_gradient_of_kernels_alone(config: Config, l2_on: str) -> None:
    config = changed(config, optimizer="sgd", momentum=0, l2=0.1, l2_on=l2_on, learning_rate=0.5)
    model = RunState.start(config, ("background", "road"), CPU).model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data += 0.01
        parameter.grad = torch.full_like(parameter, 0.02)
    build_optimizer(model, config).step()
    for name, parameter in model.named_parameters():
        w = before[name] + 0.01
        decays = name.endswith("weight") and (l2_on == "all" or name.startswith(("score", "up")))
        torch.testing.assert_close(parameter.detach(), w - 0.5 * (0.02 + 0.1 * w * decays))


def test_adams_l2_goes_through_its_moments_as_in_the_source(config: Config) -> None:
    config = changed(config, l2=0.1, learning_rate=0.01)
    model = RunState.start(config, ("background", "road"), CPU).model
    before = model.score_fc7.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, config).step()
    # Adam's first step has the length of the learning rate, whatever the gradient's: s * w alone moves it.
    step = before - model.score_fc7.weight.detach()
    torch.testing.assert_close(step, 0.01 * before.sign(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [
        ("constant", 1.0, 1.0),
        ("cosine", 0.5, 0.5 * (1 + math.cos(math.pi * 79 / 80))),
        ("polynomial", 0.5**0.9, (1 / 80) ** 0.9),
    ],
)
def test_learning_rates_rise_step_by_step_and_follow_their_schedule(schedule: str, middle: float, last: float) -> None:
    config = Config.model_validate({"schedule": schedule, "warmup_epochs": 2, "epochs": 10, "learning_rate": 0.1})
    rates = [learning_rate(config, step, 10) for step in range(100)]
    assert rates[:20] == pytest.approx([0.1 * (step + 1) / 20 for step in range(20)])
    assert rates[20] == pytest.approx(0.1)
    assert (rates[60], rates[99]) == pytest.approx((0.1 * middle, 0.1 * last))


def test_frozen_layers_keep_their_weights(config: Config, tmp_path: Path) -> None:
    config = changed(config, freeze="pool4", epochs=1)
    first = RunState.start(config, ("background", "road"), CPU).model.state_dict()
    _, last = run(config, tmp_path)
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith("features.") and int(name.split(".")[1]) < 24}


# A run


def test_prepare_says_what_is_there_and_train_reports_what_it_announced(config: Config, tmp_path: Path) -> None:
    prepared = fcn.prepare(config)
    assert "20 frames at 32x64" in prepared.summary
    assert "background, road" in prepared.summary
    assert fcn.prepare(config).data == prepared.data
    other = fcn.prepare(changed(config, split_seed=config.split_seed + 1)).data
    assert {name for name in other if other[name] != prepared.data[name]} >= {"split_fingerprint", "val_sequences"}
    assert other["fingerprint"] == prepared.data["fingerprint"], "the same pixels"
    reports, _ = run(config, tmp_path)
    assert [report["epoch"] for report in reports] == [1, 2]
    for report in reports:
        assert set(report) == set(prepared.metrics)
        assert all(type(value) is float and math.isfinite(value) for value in report.values()), report
    loaded = checkpoint.load(tmp_path / "2")
    assert loaded.metrics["val/mean_iou"] == reports[-1]["val/mean_iou"]
    assert len(list((tmp_path / "2" / "images").glob("*.png"))) == 3
    trained, held_out = set(loaded.sequences["train"]), set(loaded.sequences["val"])
    assert trained
    assert held_out
    assert not trained & held_out


def test_a_checkpoint_scores_what_was_reported(config: Config, tmp_path: Path) -> None:
    reports, _ = run(config, tmp_path)
    model = checkpoint.build(checkpoint.load(tmp_path / "2"))
    with autocast(config, CPU):
        again = evaluate(model, open_cache(config), "val", config, CPU, "val/")
    assert again == pytest.approx({name: reports[-1][name] for name in again}, abs=1e-7)


def test_the_score_does_not_depend_on_the_batches_it_is_counted_in(config: Config) -> None:
    model = RunState.start(config, ("background", "road"), CPU).model.eval()
    cache = open_cache(config)
    whole = evaluate(model, cache, "val", config, CPU)
    parts = evaluate(model, cache, "val", changed(config, batch_size=2), CPU, micro_batch=1)
    assert parts == pytest.approx(whole, abs=1e-4)


def test_the_same_settings_give_the_same_run_and_another_seed_another(config: Config, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second", "other")]
    for folder in folders:
        folder.mkdir()
    first, first_weights = run(config, folders[0])
    run(changed(config, seed=3, batch_size=2, epochs=1), folders[2])
    # Whatever ran before in the process, and whatever its random numbers are.
    torch.manual_seed(99)
    second, second_weights = run(config, folders[1])
    assert measured(first) == measured(second)
    assert equal(first_weights, second_weights)
    assert not equal(first_weights, run(changed(config, seed=4), folders[2])[1])


def test_a_run_leaves_no_setting_and_no_file_behind(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.backends.mkldnn.enabled,
        )

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = state()
    fcn.train(changed(config, epochs=1, precision="bfloat16"), report=lambda *_: None, device=CPU)
    assert state() == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumed_from_any_epoch_ends_with_the_weights_of_the_unbroken_one(config: Config, tmp_path: Path) -> None:
    config = changed(config, epochs=3, schedule="cosine", warmup_epochs=0.5, scale_jitter=0.2, clip_norm=1.0)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    whole.mkdir()
    resumed.mkdir()
    reports, weights = run(config, whole)
    for epoch in (1, 2):
        shutil.rmtree(resumed)
        resumed.mkdir()
        again, again_weights = run(config, resumed, resume_from=whole / f"{epoch}")
        assert equal(weights, again_weights)
        assert measured(again) == measured(reports[epoch:])


def test_resuming_with_another_network_is_refused(config: Config, tmp_path: Path) -> None:
    run(changed(config, epochs=1), tmp_path)
    for settings, name in (
        ({"fc_width": 8}, "fc_width = 16, got 8"),
        ({"skip_scaling": "at_once"}, "skip_scaling = none, got at_once"),
        ({"standardise": "image"}, "standardise = none, got image"),
        ({"optimizer": "sgd"}, "optimizer = adam"),
    ):
        with pytest.raises(InputError, match=name):
            fcn.train(changed(config, **settings), report=lambda *_: None, resume_from=tmp_path / "1", device=CPU)


def test_a_run_goes_on_with_another_learning_rate_and_l2(config: Config, tmp_path: Path) -> None:
    run(changed(config, epochs=1), tmp_path)
    config = changed(config, learning_rate=1e-4, l2=0.5, l2_on="all")
    reports, _ = run(config, tmp_path, resume_from=tmp_path / "1")
    assert [report["train/learning_rate"] for report in reports] == [1e-4]


def test_a_finished_run_that_is_resumed_ends_at_once(config: Config, tmp_path: Path) -> None:
    config = changed(config, epochs=1)
    run(config, tmp_path)
    reports: Reports = []
    fcn.train(config, report=lambda metrics, _: reports.append(metrics), resume_from=tmp_path / "1", device=CPU)
    assert reports == []


def test_the_seconds_of_the_epochs_are_those_of_the_wall_clock(config: Config) -> None:
    started, reports, at = time.perf_counter(), [], []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        at.append(time.perf_counter())
        reports.append(metrics)
        while time.perf_counter() < at[-1] + 0.2:  # a checkpoint that takes long to write
            pass

    fcn.train(changed(config, epochs=3), report=report, device=CPU)
    found = [metrics["time/epoch_seconds"] for metrics in reports]
    clock = [now - before for before, now in zip([started, *at], at, strict=False)]
    assert found == pytest.approx(clock, abs=0.02)
    assert min(found[1:]) > 0.2
    for metrics in reports:
        parts = ("data", "compute", "evaluation", "checkpoint")
        assert sum(metrics[f"time/{part}_seconds"] for part in parts) <= metrics["time/epoch_seconds"]


def test_the_losses_of_the_batches_are_those_of_which_the_epochs_loss_is_the_mean(config: Config) -> None:
    losses: dict[int, list[float]] = {}
    reports: Reports = []
    fcn.train(config, report=lambda m, _: reports.append(m), device=CPU, batch_losses=losses.__setitem__)
    steps = -(-len(open_cache(config).dataset.splits["train"]) // config.batch_size)
    assert {epoch: len(found) for epoch, found in losses.items()} == {1: steps, 2: steps}
    for metrics, found in zip(reports, losses.values(), strict=True):
        assert metrics["train/loss"] == pytest.approx(sum(found) / steps)
    assert len(set(losses[1])) == steps


def test_the_losses_of_an_epoch_that_failed_are_told_to_the_one_that_is_not_finite(config: Config) -> None:
    losses: dict[int, list[float]] = {}
    config = changed(config, optimizer="sgd", learning_rate=10, l2=0, batch_size=1, epochs=50)
    with pytest.raises(TrainingError) as caught:
        fcn.train(config, report=lambda *_: None, device=CPU, batch_losses=losses.__setitem__)
    found = losses[max(losses)]
    assert f"epoch {max(losses)}, step {len(found)}: loss is {found[-1]}" in str(caught.value)
    assert [math.isfinite(loss) for loss in found] == [True] * (len(found) - 1) + [False]


def test_report_may_end_the_run(config: Config, tmp_path: Path) -> None:
    reports: Reports = []

    def stop(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        reports.append(metrics)
        raise SystemExit

    with pytest.raises(SystemExit):
        fcn.train(config, report=stop, device=CPU)
    assert len(reports) == 1


def test_a_run_stops_early_after_epochs_without_a_better_score(config: Config, tmp_path: Path) -> None:
    # So small a step changes no mask: the first epoch stays the best.
    config = changed(config, epochs=9, early_stop_epochs=2, learning_rate=1e-12)
    reports, _ = run(config, tmp_path)
    assert len(reports) == 3


def test_a_loss_that_is_not_finite_names_epoch_step_and_learning_rate(config: Config, tmp_path: Path) -> None:
    config = changed(config, optimizer="sgd", learning_rate=10, l2=0, epochs=50)
    with pytest.raises(TrainingError, match=r"epoch \d+(, step \d+)?: .*loss is (nan|inf).*learning_rate") as caught:
        run(config, tmp_path)
    failed = int(str(caught.value).split()[1].rstrip(",:"))
    # Every checkpoint before it is good.
    for epoch in range(1, failed):
        weights = load_file(tmp_path / f"{epoch}" / "weights.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (tmp_path / f"{failed}").exists()


def test_bfloat16_trains_like_float32(config: Config, tmp_path: Path) -> None:
    config = changed(config, epochs=1, learning_rate=1e-3)
    (tmp_path / "b").mkdir()
    exact, _ = run(config, tmp_path)
    rounded, _ = run(changed(config, precision="bfloat16"), tmp_path / "b")
    assert rounded[0]["train/loss"] == pytest.approx(exact[0]["train/loss"], rel=0.05)
    assert checkpoint.load(tmp_path / "b" / "1").scored_on["precision"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiling_changes_no_result_and_its_time_is_reported_apart(config: Config, tmp_path: Path) -> None:
    # A last batch that is shorter: compiled for as well, before the first epoch.
    config = changed(config, batch_size=4, learning_rate=1e-3)
    assert len(open_cache(config).dataset.splits["train"]) % 4 > 0
    (tmp_path / "compiled").mkdir()
    plain, plain_weights = run(config, tmp_path)
    compiled, weights = run(changed(config, compile=True), tmp_path / "compiled")
    assert [report["train/loss"] for report in compiled] == pytest.approx(
        [report["train/loss"] for report in plain], rel=1e-4
    )
    for name, tensor in plain_weights.items():
        assert torch.allclose(tensor, weights[name], atol=1e-3), name
    first, second = (report["time/compile_seconds"] for report in compiled)
    assert first > 1
    assert second == 0
    assert compiled[0]["time/compute_seconds"] < first / 2, "what compiling took is in no other time"
    assert "time/compile_seconds" in fcn.prepare(changed(config, compile=True)).metrics
    assert "time/compile_seconds" not in plain[0]


def test_a_run_learns_the_road(cache_dir: Path, tmp_path: Path) -> None:
    config = slim(cache_dir, frames=40, width=0.125, fc_width=32, epochs=8, dropout=0.1)
    reports, _ = run(config, tmp_path)
    best = max(report["val/iou_road"] for report in reports)
    assert reports[-1]["train/loss"] < reports[0]["train/loss"] / 2
    assert best > 0.5, [report["val/iou_road"] for report in reports]


# Ranks


def _rank(rank: int, world_size: int, config: Config, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    reports: Reports = []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert (snapshot is None) == (rank > 0)
        reports.append(metrics)
        if snapshot is not None:
            snapshot.copy(resume=True).write(folder / f"{metrics['epoch']:.0f}")

    fcn.train(config, report=report, device=CPU)
    (folder / f"rank-{rank}.json").write_text(json.dumps(measured(reports)))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_report_the_same_metrics_as_one(config: Config, tmp_path: Path) -> None:
    # A last batch of one image: the second rank's share of it is empty.
    size = len(open_cache(config).dataset.splits["train"]) - 1
    # SGD: Adam's first steps turn the rounding of a gradient near zero into a step of full length.
    config = changed(config, batch_size=size, optimizer="sgd", learning_rate=0.01)
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    reports, weights = run(config, alone)
    spawn(_rank, (2, config, together), nprocs=2)  # type: ignore[no-untyped-call]
    found = [json.loads((together / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    for one, two in zip(measured(reports), found[0], strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-3)
    two_weights = load_file(together / "2" / "weights.safetensors")
    for name, tensor in weights.items():
        distance = float((tensor - two_weights[name]).norm() / (tensor.norm() + 1e-3))
        assert distance < 1e-5, (name, distance)


# The package and its command


@pytest.mark.slow
def test_importing_every_module_leaves_the_contract_callable() -> None:
    for module in pkgutil.walk_packages(fcn.__path__, "fcn."):
        if module.name != "fcn.__main__":
            import_module(module.name)
    assert all(callable(getattr(fcn, name)) for name in ("Config", "prepare", "train", "export"))


def command(output: Path, config: Config, *more: str) -> list[str]:
    settings = config.model_dump(mode="json", exclude_defaults=True)
    pairs = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    return [sys.executable, "-m", "fcn", "train", "--output", str(output), "--device", "cpu", *pairs, *more]


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fcn.__file__).parents[1])}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_and_resumed_command_ends_with_the_weights_of_an_unbroken_one(config: Config, tmp_path: Path) -> None:
    config = changed(config, epochs=6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole, config), env=quiet(), check=True, capture_output=True)
    process = subprocess.Popen(command(killed, config), env=quiet(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (killed / "last").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.load(killed / "last").epoch < 6, "the kill came too late to show anything"
    again = subprocess.run(
        [sys.executable, "-m", "fcn", "train", "--output", str(killed), "--device", "cpu", "--resume"],
        env=quiet(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "best: epoch" in again.stdout
    assert equal(load_file(whole / "last" / "weights.safetensors"), load_file(killed / "last" / "weights.safetensors"))
    assert [json.loads(line)["epoch"] for line in (killed / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]
    for run_folder in (whole, killed):
        assert sorted(path.name for path in run_folder.iterdir()) == [
            "best", "curves.png", "last", "metrics.jsonl"
        ]  # fmt: skip


def test_the_command_names_every_wrong_setting_and_starts_nothing(invoke: Invoke, tmp_path: Path) -> None:
    status, text = invoke(["--output", str(tmp_path / "run"), "--set", "learning_rate"])
    assert (status, "KEY=VALUE" in text) == (2, True)
    status, text = invoke(["--output", str(tmp_path / "run"), "--set=learning_rat=1", "--set=dropout=2"])
    assert status == 2
    assert "did you mean learning_rate?" in text
    assert "dropout: input should be less than 1, got 2" in text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_the_command_trains_into_a_folder_and_refuses_to_train_over_it(
    invoke: Invoke, config: Config, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    arguments = command(output, changed(config, epochs=1))[4:]
    status, text = invoke(arguments)
    assert status == 0, text
    assert "epoch 1/1" in text
    assert "device: cpu (" in text
    assert "; computes in float32\n" in text
    (metrics,) = (json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines())
    assert f"  {metrics['time/epoch_seconds']:.1f} s\n" in text
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    status, text = invoke(arguments)
    assert (status, "add --resume" in text) == (2, True)


def test_a_preset_gives_what_nothing_else_gives_and_the_checkpoint_notes_it_and_the_values(
    invoke: Invoke, config: Config, tmp_path: Path
) -> None:
    output, file = tmp_path / "run", tmp_path / "run.toml"
    slim = config.model_dump(mode="json", exclude_defaults=True) | {"epochs": 1, "precision": "float32"}
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in slim.items() if name != "batch_size"))
    arguments = ["--output", str(output), "--device", "cpu", "--config", str(file)]
    status, text = invoke([*arguments, "--set", "preset=batch15", "--set", "l2=0.01"])
    assert status == 0, text
    used = checkpoint.load(output / "last").config
    assert (used.preset, used.batch_size, used.l2, used.learning_rate) == ("batch15", 15, 0.01, 3e-3)
    # The checkpoint has a value for every setting; a preset that is asked for now goes before them.
    status, text = invoke([*arguments, "--resume", "--set=preset=batch5", "--set=epochs=2"])
    assert status == 0, text
    used = checkpoint.load(output / "last").config
    assert (used.preset, used.batch_size, used.l2, used.learning_rate, used.epochs) == ("batch5", 5, 0, 3e-3, 2)
    status, text = invoke(["--output", str(tmp_path / "none"), "--set", "preset=batch6"])
    assert (status, text) == (2, "error: preset: input should be 'batch5' or 'batch15', got 'batch6'\n")


def test_the_epoch_trainer_weighs_no_class_unless_asked(config: Config) -> None:
    cache: Cache = open_cache(config)
    losses = []
    for setting in ("none", "balanced"):
        wanted = changed(config, class_weights=setting, dropout=0)
        state = RunState.start(wanted, cache.dataset.classes, CPU)
        losses.append(EpochTrainer(state, cache, wanted, CPU).run()["train/loss"])
    assert losses[0] != losses[1]


# Fidelity


@pytest.mark.parametrize("first", [{"train_fraction": 0.25}, {"image_size": (16, 32)}])
def test_a_run_that_goes_on_at_another_fidelity_keeps_weights_moments_and_schedule(
    config: Config, first: dict[str, object], tmp_path: Path
) -> None:
    settings = {"epochs": 4, "schedule": "cosine", "warmup_epochs": 1.5}
    whole, part = changed(config, **settings), changed(config, **settings, **first)
    reports: Reports = []

    def stop_after_two(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        reports.append(metrics)
        if metrics["epoch"] == 2:
            snapshot.copy(resume=True).write(tmp_path / "two")
            raise SystemExit

    with pytest.raises(SystemExit):
        fcn.train(part, report=stop_after_two, device=CPU)
    later, _ = run(whole, tmp_path / "later", resume_from=tmp_path / "two")
    assert [report["epoch"] for report in [*reports, *later]] == [1, 2, 3, 4]
    steps = {
        name: -(-len(open_cache(c).dataset.splits["train"]) // 5) for name, c in (("part", part), ("whole", whole))
    }
    expected = [learning_rate(part, epoch * steps["part"] - 1, steps["part"]) for epoch in (1, 2)]
    expected += [learning_rate(whole, epoch * steps["whole"] - 1, steps["whole"]) for epoch in (3, 4)]
    assert [report["train/learning_rate"] for report in [*reports, *later]] == pytest.approx(expected)
    saved = checkpoint.load_trainer_state(tmp_path / "later" / "3", CPU)
    made = {float(state["step"]) for state in saved["optimizer"].values()}
    assert made == {2.0 * steps["part"] + steps["whole"]}
    assert checkpoint.load(tmp_path / "later" / "3").config == whole
    assert checkpoint.load(tmp_path / "two").config == part


def test_the_learning_rate_between_two_epochs_is_the_same_whatever_their_steps(config: Config) -> None:
    config = changed(config, epochs=8, schedule="polynomial", warmup_epochs=2)
    # The end of the first epoch, in warm-up, and the beginnings of the third and the sixth.
    for few, many in ((3, 399), (8, 800), (20, 2000)):
        assert learning_rate(config, few, 4) == pytest.approx(learning_rate(config, many, 400))


def test_patience_begins_again_at_another_fidelity(config: Config, tmp_path: Path) -> None:
    run(changed(config, epochs=1), tmp_path)
    state = RunState.resume(config, ("background", "road"), CPU, tmp_path / "1")
    assert state.best_score > 0
    for settings in ({"image_size": (16, 32)}, {"train_fraction": 0.5}):
        state = RunState.resume(changed(config, **settings), ("background", "road"), CPU, tmp_path / "1")
        assert (state.best_score, state.epochs_without_better) == (-math.inf, 0)
