"""Reads and writes videos with PyAV, without sound. Frames are uint8 RGB (H, W, 3), rotated as they are displayed."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import numpy.typing as npt

from fcn.errors import InputError

Pixels = npt.NDArray[np.uint8]
FALLBACK_RATE = 25  # frames a second, if a file doesn't give its rate


class VideoReader:
    """The frames of a video in order, each decoded when the iteration reaches it.

    Raises InputError on opening if the file is damaged or holds no video, and during iteration if it is damaged further
    on or has no frame at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._container = av.open(str(path))
        except av.error.EOFError as error:
            raise InputError(self._no_frames()) from error
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{path}: damaged, or no video ({_reason(error)}); fetch the file again") from error
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{path}: must hold a video stream, got none: give a video or an image")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return self._stream.average_rate or Fraction(FALLBACK_RATE)

    @property
    def count(self) -> int | None:
        """Number of frames that the file states; None if it doesn't."""
        return self._stream.frames or None

    def __iter__(self) -> Iterator[Pixels]:
        number = 0
        try:
            for frame in self._container.decode(self._stream):
                number += 1
                stored = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                # Phones store how they were held; frame.rotation and rot90 both count counterclockwise.
                yield np.ascontiguousarray(np.rot90(stored, round(frame.rotation / 90)))
        except av.error.FFmpegError as error:
            where = f"after frame {number}" if number else "before its first frame"
            raise InputError(f"{self.path}: damaged {where} ({_reason(error)}); fetch the file again") from error
        if number == 0:
            raise InputError(self._no_frames())

    def _no_frames(self) -> str:
        return f"{self.path}: a video must have frames, got none: record or fetch it again"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


class VideoWriter:
    """Writes an MP4, in H.264 if PyAV has it. All frames must have the size of the first."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._container = av.open(str(path), "w", format="mp4")
        if "libx264" in av.codecs_available:
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.options = {"crf": "18", "preset": "veryfast"}
        else:
            self._stream = self._container.add_stream("mpeg4", rate=rate)
        self._started = False

    def write(self, frame_HW3: Pixels) -> None:
        if not self._started:
            height, width = frame_HW3.shape[:2]
            self._stream.height, self._stream.width = height, width
            # yuv420p, with colour at half the resolution, plays everywhere but needs an even height and width.
            self._stream.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
            self._started = True
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started and kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
