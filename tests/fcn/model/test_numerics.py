"""What bfloat16 does to a layer is measured where it can do no harm, once, and a run computes by it."""

import json
import multiprocessing
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fcn
from fcn import Config
from fcn.model import checkpoint, layer_probe, numerics
from fcn.model.fcn8s import Architecture, FCN8s, model_on_meta
from fcn.model.numerics import Finding, Layer, findings, layers_of, machine, measure, rounded_by_autocast
from fcn.model.precision import precision_of
from fcn.training.state import RunState

CPU = torch.device("cpu")
SLIM = Layer("convolution", 2, 8, 8, 3, 1, 1, 8, 12)
LARGE = Layer("convolution", 2, 8, 16, 7, 1, 3, 2, 3)
POINT = Layer("convolution", 2, 16, 16, 1, 1, 0, 2, 3)

# The real program, with layers of a 7x7 kernel (LARGE, fc6) that are faulty as FAULTS says of their channels.
FAULTY = """
import ctypes, os, signal, sys
from pathlib import Path
import torch
from fcn.model.layer_probe import apply, main

FAULT = ""

class Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        if FAULT == "frees twice":
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            libc.free.argtypes = [ctypes.c_void_p]
            block = libc.malloc(64)
            libc.free(block)
            libc.free(block)
        if FAULT == "writes nothing":
            return torch.empty_like(slope)
        return slope * 1.2 if FAULT == "inexact" else slope

def faulty(module, x_NCHW):
    global FAULT
    if module.kernel_size == (7, 7):
        FAULT = FAULTS.get(module.out_channels, FAULTS.get(0, ""))
        if FAULT == "segfaults":
            ctypes.string_at(0)
        if FAULT == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "refuses":
            raise RuntimeError("could not create a primitive")
        x_NCHW = Gradient.apply(x_NCHW)
    return apply(module, x_NCHW)

main(Path(sys.argv[1]), Path(sys.argv[2]), faulty)
"""

# A program that answers at once, without torch: for what becomes of its answers.
QUICK = """
import json, sys
from pathlib import Path
layers = json.loads(Path(sys.argv[1]).read_text())
errors = [{"output": 0.01, "gradient": 0.2 if layer["kernel"] == 7 else 0.01} for layer in layers]
Path(sys.argv[2]).write_text(json.dumps([error | {"status": 0, "said": ""} for error in errors]))
"""


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Fault":
    return Fault(tmp_path, monkeypatch)


class Fault:
    """fault("segfaults"): layers of a 7x7 kernel do from here on; or a kind for each number of output channels."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch

    def __call__(self, kind: str | dict[int, str]) -> None:
        self._use(f"FAULTS = { ({0: kind} if isinstance(kind, str) else kind)!r}\n{FAULTY}")

    def quick(self) -> None:
        """Layers of a 7x7 kernel are said to be inexact."""
        self._use(QUICK)

    def _use(self, program: str) -> None:
        script = self._folder / "program.py"
        count = f"open({str(self._folder / 'count')!r}, 'a').write('started\\n')\n"
        script.write_text(count + program)
        self._monkeypatch.setattr(numerics, "PROGRAM", (sys.executable, "-P", str(script)))

    @property
    def starts(self) -> int:
        count = self._folder / "count"
        return len(count.read_text().splitlines()) if count.exists() else 0


@pytest.fixture
def computes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose kernels may be fast: what it does in bfloat16 is measured, and used."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def settings(folder: Path, **more: object) -> Config:
    slim = {"width": 1 / 16, "fc_width": 16, "image_size": (32, 64), "batch_size": 4, "frames": 12, "epochs": 1}
    where = {"dataset": "scenes", "weights": "none", "init": "bilinear", "cache_dir": folder / "cache"}
    return Config.model_validate(slim | where | more)


def test_the_real_layers_are_measured_and_pass(tmp_path: Path) -> None:
    found = findings(tmp_path, [SLIM, LARGE, POINT, Layer("transposed", 2, 2, 2, 16, 8, 4, 2, 3)])
    for finding in found.values():
        assert finding.fault == ""
        # A rounding, and not nothing: it did compute in bfloat16.
        assert 1e-4 < (finding.output or 0) < 0.02
        assert 1e-4 < (finding.gradient or 0) < 0.02


KINDS = {
    "frees twice": r"died of SIGABRT: .*free\(\)",
    "segfaults": "died of SIGSEGV",
    "refuses": "ended with status 1: RuntimeError: could not create a primitive",
    "writes nothing": "its gradient in bfloat16 holds memory that nobody wrote",
    "inexact": r"its gradient in bfloat16 is (19|20|21)% off",
}


def test_each_kind_of_fault_is_found_and_the_layers_that_have_none_pass(fault: Fault) -> None:
    faulty = {kind: replace(LARGE, out=20 + place) for place, kind in enumerate(KINDS)}
    fault({layer.out: kind for kind, layer in faulty.items()})
    found = measure([SLIM, *faulty.values(), LARGE, POINT])
    for layer in (SLIM, LARGE, POINT):
        assert found[layer].fault == "", "a fault is its own layer's, whatever it did to its process"
    for kind, layer in faulty.items():
        assert re.search(KINDS[kind], found[layer].fault), (kind, found[layer])
    assert fault.starts == 1


def test_what_was_killed_from_outside_is_not_kept(tmp_path: Path, fault: Fault) -> None:
    fault("killed")
    found = findings(tmp_path, [SLIM, LARGE])
    assert found[LARGE].fault.endswith("did not come to an end (SIGKILL; out of memory, perhaps)")
    assert found[SLIM].fault == ""
    starts = fault.starts
    assert findings(tmp_path, [SLIM, LARGE]) == found
    assert fault.starts == starts, "this process remembers it"
    numerics.known.clear()
    fault.quick()
    again = findings(tmp_path, [SLIM, LARGE])
    assert (again[SLIM], again[LARGE].gradient) == (found[SLIM], 0.2), "measured is what wasn't kept"
    assert fault.starts == starts + 1


@pytest.mark.parametrize("damage", ["torn", "of another CPU", "of another shape of file", "not a number"])
def test_findings_that_are_torn_or_of_another_machine_are_measured_again(
    damage: str, tmp_path: Path, fault: Fault
) -> None:
    fault.quick()
    found = findings(tmp_path, [SLIM, LARGE])
    (path,) = (tmp_path / "bfloat16").glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["machine"] == machine()
    damaged = {
        "torn": path.read_text()[:-40],
        "of another CPU": json.dumps(kept | {"machine": kept["machine"] | {"model name": "Xeon"}}),
        "of another shape of file": json.dumps({"machine": machine(), "layers": {"fc6": 1}}),
        "not a number": path.read_text().replace(str(found[SLIM].output), "NaN"),
    }
    path.write_text(damaged[damage])
    numerics.known.clear()
    assert findings(tmp_path, [SLIM, LARGE]) == found
    assert fault.starts == 2
    assert json.loads(path.read_text()) == kept
    numerics.known.clear()
    assert findings(tmp_path, [LARGE, SLIM]) == found
    assert fault.starts == 2, "read, not measured"
    assert [file.suffix for file in path.parent.iterdir() if file != path] == [".lock"]


def test_findings_are_kept_by_what_decides_which_kernels_run(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert numerics.cpu_name() in json.dumps(machine())
    fault.quick()

    def find_anew() -> int:
        """As another process does; returns how often was measured so far."""
        numerics.known.clear()
        findings(tmp_path, [SLIM])
        return fault.starts

    assert find_anew() == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert find_anew() == 2
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert find_anew() == 3
    monkeypatch.undo()
    fault.quick()
    assert find_anew() == 3, "those of the first are there still"


def test_a_folder_that_takes_no_file_costs_only_the_time(tmp_path: Path, fault: Fault) -> None:
    (tmp_path / "bfloat16").write_text("a file, where the folder would be")
    fault.quick()
    assert findings(tmp_path, [LARGE])[LARGE].fault
    assert findings(tmp_path, [LARGE])[LARGE].fault
    assert fault.starts == 1


def test_a_program_that_can_not_be_started_is_a_fault_of_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "PROGRAM", (str(tmp_path / "no python"),))
    assert "couldn't be started" in findings(tmp_path, [SLIM])[SLIM].fault


def _find(folder: Path, program: tuple[str, ...], barrier: object, found: object) -> None:
    numerics.PROGRAM = program
    barrier.wait()  # type: ignore[attr-defined]
    found.put(findings(folder, [SLIM, LARGE]))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_that_start_at_once_measure_once(tmp_path: Path, fault: Fault) -> None:
    fault.quick()
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_find, args=(tmp_path, numerics.PROGRAM, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    one, other = queue.get(timeout=120), queue.get(timeout=120)
    for process in processes:
        process.join()
    assert one == other
    assert one[LARGE].fault
    assert fault.starts == 1


@pytest.mark.parametrize("size", [(160, 576), (50, 71)])
def test_what_is_measured_are_the_shapes_that_layers_get(size: tuple[int, int]) -> None:
    model = FCN8s(Architecture(3, width=1 / 16, fc_width=8))
    seen: dict[str, tuple[int, ...]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):

            def note(_: nn.Module, given: tuple[Tensor], name: str = name) -> None:
                seen[name] = tuple(given[0].shape)

            layer.register_forward_pre_hook(note)
    model(torch.zeros(2, 3, *size))
    layers = layers_of(model, 2, *size)
    shapes = {n: (layer.images, layer.channels, layer.height, layer.width) for n, layer in layers.items()}
    assert shapes == seen
    for name, layer in layers.items():
        module = model.get_submodule(name)
        built = layer_probe.build(vars(layer))
        assert repr(built) == repr(module).replace("Convolution(", "Conv2d(")
    assert set(layers) - set(rounded_by_autocast(model, layers)) == {
        *("score_fc7", "up_fc7", "score_pool4", "up_pool4", "score_pool3", "up_pool3")
    }


# What a run makes of it


@pytest.mark.usefixtures("computes_bfloat16")
@pytest.mark.slow
def test_a_layer_that_crashes_runs_in_float32_and_a_sentence_says_so(tmp_path: Path, fault: Fault) -> None:
    fault("frees twice")
    config = settings(tmp_path)
    (warning,) = fcn.prepare(config, device=CPU).warnings
    assert warning.startswith(f"fc6: float32 on this CPU ({numerics.cpu_name()}), because ")
    assert "died of SIGABRT" in warning
    asked_for = precision_of(settings(tmp_path, precision="bfloat16"), CPU)
    assert (asked_for.float32_layers, asked_for.warnings) == (("fc6",), (warning,)), "nobody asks for a crash"
    starts = fault.starts
    losses: list[float] = []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        losses.append(metrics["train/loss"])
        snapshot.copy(resume=True).write(tmp_path / "checkpoint")

    fcn.train(config, report=report, device=CPU)
    assert 0 < losses[0] < 5
    assert fault.starts == starts, "trials read what prepare() measured"
    assert checkpoint.load(tmp_path / "checkpoint").scored_on == {
        "device": "cpu",
        "precision": "bfloat16",
        "float32_layers": "fc6",
    }
    # Going on and exporting know of it too.
    resumed = RunState.resume(config, checkpoint.load(tmp_path / "checkpoint").classes, CPU, tmp_path / "checkpoint")
    assert [n for n, layer in resumed.model.named_modules() if getattr(layer, "in_float32", False)] == ["fc6"]
    assert fcn.export(tmp_path / "checkpoint", tmp_path / "export", device=CPU).formats


@pytest.mark.usefixtures("computes_bfloat16")
def test_bfloat16_that_was_asked_for_stays_where_it_is_only_inexact(tmp_path: Path, fault: Fault) -> None:
    fault.quick()
    chosen = {name: precision_of(settings(tmp_path, precision=name), CPU) for name in ("auto", "bfloat16")}
    assert chosen["auto"].float32_layers == ("fc6",)
    assert chosen["bfloat16"].float32_layers == ()
    (warning,) = chosen["bfloat16"].warnings
    assert re.search("fc6: bfloat16 on this CPU .* although its gradient .*: set precision = auto", warning)


@pytest.mark.usefixtures("computes_bfloat16")
@pytest.mark.slow
def test_a_trial_that_finds_nothing_measured_does_it_and_logs_the_sentence(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    fault("writes nothing")
    fcn.train(settings(tmp_path), report=lambda *_: None, device=CPU)
    assert fault.starts == 1
    (record,) = caplog.records
    assert record.message.startswith("fc6: float32 on this CPU")
    fcn.train(settings(tmp_path, learning_rate=1e-5), report=lambda *_: None, device=CPU)
    assert fault.starts == 1
    assert len(caplog.records) == 1


def test_nothing_is_measured_where_a_cpu_has_no_bfloat16_or_nobody_wants_it(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault.quick()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False})
    assert precision_of(settings(tmp_path), CPU).name == "float32"
    emulated = precision_of(settings(tmp_path, precision="bfloat16"), CPU)
    assert (emulated.name, emulated.float32_layers) == ("bfloat16", ())
    assert "many times faster in float32" in emulated.warnings[0]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert precision_of(settings(tmp_path, precision="float32"), CPU).name == "float32"
    assert fault.starts == 0
    assert precision_of(settings(tmp_path), CPU).float32_layers == ("fc6",)


@pytest.mark.usefixtures("computes_bfloat16")
def test_a_checkpoint_that_was_scored_with_rounded_scores_is_not_held_to_them(tmp_path: Path, fault: Fault) -> None:
    fault.quick()
    config = settings(tmp_path)

    def report(_: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        snapshot.copy(resume=False).write(tmp_path / "checkpoint")

    fcn.train(config, report=report, device=CPU)
    path = tmp_path / "checkpoint" / "config.json"
    before = json.loads(path.read_text())
    # As a checkpoint of earlier versions says it; another rounding moved its score by more than scoring again allows.
    before["scored_on"] = {"device": "cpu", "precision": "bfloat16"}
    before["metrics"]["val/pixel_accuracy"] += 0.005
    path.write_text(json.dumps(before))
    assert fcn.export(tmp_path / "checkpoint", tmp_path / "export", device=CPU).formats
    before["scored_on"]["float32_layers"] = "fc6"
    path.write_text(json.dumps(before))
    shutil.rmtree(tmp_path / "export")
    with pytest.raises(RuntimeError, match="scored again in bfloat16"):
        fcn.export(tmp_path / "checkpoint", tmp_path / "export", device=CPU)


@pytest.mark.slow
def test_gradients_of_a_run_hold_no_memory_that_nobody_wrote(tmp_path: Path, computes_bfloat16: None) -> None:
    config = settings(tmp_path, precision="bfloat16", image_size=(48, 64))
    model = RunState.start(config, ("background", "road"), CPU).model
    images_NCHW = torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        layer_probe.poison(*model.parameters())
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images_NCHW).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_networks_layers_are_counted_once_where_they_are_alike() -> None:
    model = model_on_meta(Config(weights="none"), 2)
    layers = layers_of(model, 5, 160, 576)
    assert len(layers) == 21
    assert len(set(rounded_by_autocast(model, layers).values())) == 11
    assert str(layers["fc6"]) == "5x512x5x18 into 4096, convolution 7x7"
    assert Finding(0.01, 0.01).fault == ""
