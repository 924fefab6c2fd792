"""The defaults, at full width and size: what most people run, in the environment that the tuner gives to trials."""

import subprocess
import sys
from pathlib import Path

import pytest

# Two programs: the first takes on the environment of trials, which the C library reads when a process begins.
AS_A_TRIAL = "import os, sys; import tuner.driver.cluster; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"

STEP = """
import os, sys
from pathlib import Path
import torch
import fcn
from fcn.inputs.batches import Batches
from fcn.data.cache import open_cache
from fcn.training.epoch import image_seed
from fcn.training.step import BatchGradient
from fcn.training.state import RunState

assert "mmap_threshold" in os.environ["GLIBC_TUNABLES"]
CPU = torch.device("cpu")
config = fcn.Config(dataset="scenes", weights="none", frames=20, epochs=1, masks=0, cache_dir=Path(sys.argv[1]))
assert (config.width, config.fc_width, config.image_size, config.batch_size) == (1.0, 4096, (160, 576), 5)
count = 2  # of the batch: more images take time and show no other kernel
print(fcn.prepare(config, device=CPU))
frames = open_cache(config).dataset.splits["train"]
assert len(frames) >= config.batch_size

state = RunState.start(config, ("background", "road"), CPU)
images_NCHW, target_NHW = next(Batches(open_cache(config), frames, config, CPU).epoch(1, train=True))
assert len(images_NCHW) == config.batch_size
images_NCHW, target_NHW = images_NCHW[:count], target_NHW[:count]
seeds = [image_seed(0, 1, place) for place in range(count)]
gradient = BatchGradient(state.model, state.model, config, CPU, None, state.micro_batch)
loss = float(gradient.take(images_NCHW, target_NHW, seeds))
assert 0.1 < loss < 20, loss
parameters = list(state.model.parameters())
assert all(p.grad.isfinite().all() for p in parameters)

# The truth: a small step down the gradient lowers float32's loss by the step times the gradient's square.
square = sum(float(p.grad.double().square().sum()) for p in parameters)
with torch.no_grad():
    keep = state.model.keep_masks(160, 576, seeds, CPU)

    def exact_loss():
        return float(torch.nn.functional.cross_entropy(state.model(images_NCHW, keep), target_NHW, ignore_index=255))

    before = exact_loss()
    assert abs(loss - before) < 0.02 * before, (loss, before)
    step = 0.01 * before / square
    for p in parameters:
        p.sub_(p.grad, alpha=step)
    fall = (before - exact_loss()) / (step * square)
    assert 0.8 < fall < 1.2, fall
    for p in parameters:
        p.add_(p.grad, alpha=step)
state.optimizer.step()
assert all(p.isfinite().all() for p in parameters)
print("sound")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_default_configuration_makes_a_sound_step_where_trials_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AS_A_TRIAL, "-c", STEP, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.endswith("sound\n")
