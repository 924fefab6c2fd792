"""How many images a device holds at once."""

import pytest
import torch

from fcn import memory
from fcn.config import Config
from fcn.model.fcn8s import FCN8s, build_model
from fcn.training.step import BatchGradient

CPU = torch.device("cpu")


def settings(**changes: object) -> Config:
    slim = {"weights": "none", "width": 1 / 32, "fc_width": 8, "image_size": (32, 64), "batch_size": 16}
    return Config.model_validate(slim | changes)


@pytest.mark.parametrize(
    ("room", "images"),
    [(10_000, 9), (1_450, 1), (1_380, 1), (900, 1), (100, 1)],  # even where not one may fit, one is tried
)
def test_two_probes_say_how_many_images_fit(room: int, images: int) -> None:
    """500 bytes are there anyhow, and each image takes 1,000: 9 of them 9,500, the share that may be used of 10,000."""
    probed = []

    def peak_of(count: int) -> int:
        probed.append(count)
        return 500 + 1_000 * count

    assert memory.largest_batch(peak_of, room) == images
    assert probed == [1, 2]


def test_the_next_run_of_a_process_starts_from_what_fitted() -> None:
    config = settings()
    assert memory.initial_micro_batch(config, CPU) == 16
    memory.record_limit(config, CPU, 4)
    assert memory.initial_micro_batch(config, CPU) == 4
    assert memory.initial_micro_batch(settings(batch_size=2), CPU) == 2
    assert memory.initial_micro_batch(settings(micro_batch=3), CPU) == 3
    assert memory.initial_micro_batch(settings(image_size=(16, 32)), CPU) == 16, "other images take other memory"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_predicted_micro_batch_runs_without_running_out_of_memory() -> None:
    device = torch.device("cuda", 0)
    config = settings(width=1.0, fc_width=1024, image_size=(160, 576), batch_size=512)
    model: FCN8s = build_model(config, 2).to(device)
    gradient = BatchGradient(model, model, config, device, None, 512)
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, 12e9 / total))
    try:
        gradient.fit(160, 576, to_allocate=0)
        predicted = gradient.micro_batch
        assert 1 < predicted < 512
        images = torch.zeros(predicted, 3, 160, 576, device=device)
        target = torch.zeros(predicted, 160, 576, dtype=torch.int64, device=device)
        gradient.take(images, target, [0] * predicted)
        assert gradient.micro_batch == predicted, "it was halved"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
