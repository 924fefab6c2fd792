"""What a checkpoint is written from: a run at the end of an epoch, and a copy of it that outlives the next epoch.

Copying takes a moment, writing takes seconds: so a checkpoint can be written beside training, or not at all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fcn import memory
from fcn.config import Config
from fcn.data.cache import Cache
from fcn.data.overlays import side_by_side
from fcn.formats.read import Export
from fcn.model import checkpoint
from fcn.model.precision import autocast
from fcn.model.preprocessing import FromPixels
from fcn.model.pretrained import normalisation
from fcn.prediction.predictor import Pixels, Predictor
from fcn.training.state import RunState


class Snapshot:
    """Of a run between two epochs: valid until training continues."""

    def __init__(
        self,
        state: RunState,
        metrics: Mapping[str, float],
        masks: Mapping[int, Tensor],
        cache: Cache,
        config: Config,
        device: torch.device,
    ) -> None:
        """masks: uint8 (H, W), the classes predicted for the frames to show, by the frames' index."""
        self._state, self._metrics, self._masks = state, dict(metrics), dict(masks)
        self._cache, self._config, self._device = cache, config, device

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def micro_batch(self) -> int:
        """Images that the device holds at once."""
        return self._state.micro_batch

    @contextmanager
    def predictor(self) -> Iterator[Predictor]:
        """Overlays of any frames by the network as it is now, in the precision of the run; it is not changed."""
        state, config, dataset = self._state, self._config, self._cache.dataset
        mean, std = normalisation(config).mean, normalisation(config).std
        model = FromPixels(state.model, mean, std).to(self._device)

        def logits(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
            with torch.no_grad(), autocast(config, self._device):
                found: Tensor = model(torch.from_numpy(images_NHWC).to(self._device))
            return found.float().cpu().numpy()

        described = Export(
            directory=Path(),
            classes=dataset.classes,
            image_size=config.image_size,
            mean=tuple(mean),
            std=tuple(std),
            network={},
            config=config.model_dump(mode="json"),
            sequences={split: dataset.sequences(split) for split in dataset.splits},
            frames={split: len(frames) for split, frames in dataset.splits.items()},
            metrics=self._metrics,
            epoch=state.epoch,
        )
        model.eval()
        try:
            yield Predictor(described, logits, "overlay")
        finally:
            state.model.train()

    def copy(self, *, resume: bool) -> "SnapshotCopy":
        """What training is about to change, copied. resume: with what resuming needs, three times as much memory."""
        state = self._state
        weights = dict(state.model.state_dict())
        trainer_state = state.trainer_state(self._config) if resume else None
        copy = _copier(self._device, checkpoint.bytes_of(weights) + checkpoint.bytes_of(trainer_state))
        return SnapshotCopy(
            epoch=state.epoch,
            metrics=self._metrics,
            masks=self._masks,
            weights=_each_tensor(weights, copy),
            trainer_state=_each_tensor(trainer_state, copy),
            copied=_event(self._device),
            cache=self._cache,
            config=self._config,
            device=self._device,
        )


@dataclass(frozen=True)
class SnapshotCopy:
    """Can be written at any time, in any thread, while training continues."""

    epoch: int
    metrics: dict[str, float]
    masks: dict[int, Tensor]  # made anew in each epoch, so not copied
    weights: dict[str, Tensor]
    trainer_state: dict[str, Any] | None
    copied: Any  # on a GPU, the event after which the tensors are whole
    cache: Cache
    config: Config
    device: torch.device

    def write(self, directory: Path) -> None:
        """Makes a whole checkpoint directory. Raises TrainingError where the disk is full."""
        dataset = self.cache.dataset
        checkpoint.save(
            directory,
            weights=self._on_host(self.weights),
            config=self.config,
            device=self.device,
            epoch=self.epoch,
            metrics=self.metrics,
            classes=dataset.classes,
            normalisation=normalisation(self.config),
            sequences={
                split: tuple(dict.fromkeys(dataset.frames[index].sequence for index in frames))
                for split, frames in dataset.splits.items()
            },
            trainer_state=self._on_host(self.trainer_state),
            images=self._images(),
        )

    def write_images(self, directory: Path) -> None:
        """Only the images: directory/NAME.png."""
        for name, image in self._images().items():
            image.save(directory / f"{name}.png")

    def _images(self) -> dict[str, Image.Image]:
        """What the network makes of the same validation frames, by name."""
        dataset, images, labels = self.cache.dataset, self.cache.images, self.cache.labels
        return {
            dataset.frames[index].name.replace("/", "_"): side_by_side(
                images[index], mask.numpy(), labels[index], dataset.classes
            )
            for index, mask in self._on_host(self.masks).items()
        }

    def _on_host(self, value: Any) -> Any:
        if self.copied is None:
            return value
        # Beside the kernels of training, which run on the default stream.
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_event(self.copied)
        with torch.cuda.stream(stream):
            return _each_tensor(value, lambda tensor: tensor.cpu())


def _event(device: torch.device) -> Any:
    """All work queued on the GPU so far is done when it comes; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _copier(device: torch.device, needed: int) -> Callable[[Tensor], Tensor]:
    """On a GPU a copy stays there, which takes a millisecond, if there is room enough for that and for training."""
    if device.type == "cuda" and memory.gpu_memory(device).spare < 2 * needed:
        return lambda tensor: tensor.detach().cpu()
    return lambda tensor: tensor.detach().clone()


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nested dictionary with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    return {key: _each_tensor(part, change) for key, part in value.items()} if isinstance(value, dict) else value
