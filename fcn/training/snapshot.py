"""What a checkpoint is written from: a run's state after an epoch, and a copy of it that stays as training continues.

Copying is fast and writing takes seconds: a copy can be written while the next epoch trains, or be dropped.
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
    """A run's state between two epochs. Valid until training continues."""

    def __init__(
        self,
        state: RunState,
        metrics: Mapping[str, float],
        masks: Mapping[int, Tensor],
        cache: Cache,
        config: Config,
        device: torch.device,
    ) -> None:
        """masks: for each frame to be shown, by its index, the predicted classes, uint8 (H, W)."""
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
        """Predicts overlays of any images with the present network, in the run's precision. Changes nothing."""
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
        """A copy of what the next epoch changes. resume: with the optimizer's state, which resuming needs.

        With the optimizer's state a copy takes up to three times as much memory.
        """
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
    """A copied snapshot, which can be written at any time and from any thread while training continues."""

    epoch: int
    metrics: dict[str, float]
    masks: dict[int, Tensor]  # not copied: each epoch makes new ones
    weights: dict[str, Tensor]
    trainer_state: dict[str, Any] | None
    copied: Any  # on a GPU, the event after which the tensors hold the copy; None on a CPU
    cache: Cache
    config: Config
    device: torch.device

    def write(self, directory: Path) -> None:
        """Writes a complete checkpoint directory. Raises TrainingError if the disk is full."""
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
        """Writes the images only, as directory/NAME.png."""
        for name, image in self._images().items():
            image.save(directory / f"{name}.png")

    def _images(self) -> dict[str, Image.Image]:
        """Images of the predictions for the frames to be shown, by the frame's name."""
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
        # On a stream of its own, so that the copy doesn't wait for training, which uses the default stream.
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_event(self.copied)
        with torch.cuda.stream(stream):
            return _each_tensor(value, lambda tensor: tensor.cpu())


def _event(device: torch.device) -> Any:
    """An event that is reached when all work queued on the GPU so far is done; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _copier(device: torch.device, needed: int) -> Callable[[Tensor], Tensor]:
    """How to copy a tensor: on its device, which takes a millisecond, or to the host if the GPU has too little memory.

    needed: bytes of all tensors. Twice as many must be free, so that training still fits beside the copy.
    """
    if device.type == "cuda" and memory.gpu_memory(device).headroom < 2 * needed:
        return lambda tensor: tensor.detach().cpu()
    return lambda tensor: tensor.detach().clone()


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value, a tensor or nested dictionaries of them, with `change` applied to each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    return {key: _each_tensor(part, change) for key, part in value.items()} if isinstance(value, dict) else value
