"""Predicts images and videos in batches; threads decode the next images and write results while the network runs."""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcn import files
from fcn.data.image_files import DecodedImage, decode_image
from fcn.errors import InputError
from fcn.prediction.plan import Job
from fcn.prediction.predictor import Pixels, Predictor

# Decoding and writing PNGs takes longer than a slim network.
THREADS = 4
BATCHES_AHEAD = 2
# Files are an eighth larger than with zlib's default level, and take a third of the time to write.
PNG_LEVEL = 1

# Errors that would meet every other file in the output too.
FAULTS_OF_A_DISK = (*files.DISK_FULL, errno.EROFS, errno.EIO)

Done = Callable[[], None]  # called for each image that was written
Failed = Callable[[str], None]  # called with a sentence that names the file
Remarked = Callable[[Path, str], None]  # called with an image and a remark on how it was read


def predict_images(
    jobs: Iterable[Job], predictor: Predictor, batch_size: int, done: Done, failed: Failed, remarked: Remarked
) -> None:
    """Writes a PNG for each image. One that can't be read or written is passed to failed() and skipped.

    Memory does not grow with the number of images. Raises InputError if no file can be written at all.
    """
    writing: deque[Future[str | None]] = deque()

    def finish_first() -> None:
        problem = writing.popleft().result()
        if problem is None:
            done()
        else:
            failed(problem)

    with ThreadPoolExecutor(THREADS) as pool:
        for batch in _read_ahead(pool, jobs, batch_size, failed, remarked):
            logits_NCHW = predictor.logits([frame for _, frame in batch])
            for (job, frame), logits_CHW in zip(batch, logits_NCHW, strict=True):
                writing.append(pool.submit(_write, predictor, frame, logits_CHW, job.target))
            while len(writing) > BATCHES_AHEAD * batch_size:
                finish_first()
        while writing:
            finish_first()


def predict_video(job: Job, predictor: Predictor, batch_size: int, done: Done, failed: Failed) -> bool:
    """Writes a video's overlays as an MP4, or its masks or probabilities as a folder of PNGs, and returns True.

    A video that can't be read to its end, or not written, is passed to failed(), leaves no files, and returns False.
    """
    try:
        if job.target.is_dir() and any(job.target.iterdir()):
            failed(f"{job.target}: is taken, and its images could be of another video: remove it")
            return False
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(job.target, durable=False) as partial:
            _write_video(job, predictor, batch_size, partial, done)
    except InputError as error:
        failed(str(error))
        return False
    except OSError as error:
        failed(_cannot_write(job.target, error))
        return False
    return True


def _write_video(job: Job, predictor: Predictor, batch_size: int, partial: Path, done: Done) -> None:
    # Imported here, since images need no PyAV.
    from fcn.prediction.video import VideoReader, VideoWriter

    with VideoReader(job.source) as reader, ThreadPoolExecutor(THREADS) as pool:
        images = _rendered(reader, predictor, batch_size, pool)
        if job.target.suffix:
            with VideoWriter(partial, reader.rate) as writer:
                for image in images:
                    writer.write(np.asarray(image))
                    done()
        else:
            partial.mkdir()
            for number, image in enumerate(images, 1):
                image.save(partial / f"{number:06d}.png", compress_level=PNG_LEVEL)
                done()


def _rendered(frames: Iterable[Pixels], predictor: Predictor, batch_size: int, pool: Executor) -> Iterator[Image.Image]:
    remaining = iter(frames)
    while batch := list(islice(remaining, batch_size)):
        yield from pool.map(predictor.render, batch, predictor.logits(batch))


def _read_ahead(
    pool: Executor, jobs: Iterable[Job], batch_size: int, failed: Failed, remarked: Remarked
) -> Iterator[list[tuple[Job, Pixels]]]:
    """Batches of the images that can be read. The next batches are decoded while the caller works on one."""
    remaining = iter(jobs)
    ahead: deque[list[tuple[Job, Future[DecodedImage]]]] = deque()
    while True:
        while len(ahead) < BATCHES_AHEAD and (batch := list(islice(remaining, batch_size))):
            ahead.append([(job, pool.submit(decode_image, job.source)) for job in batch])
        if not ahead:
            return
        readable = []
        for job, reading in ahead.popleft():
            try:
                image = reading.result()
            except InputError as error:
                failed(str(error))
                continue
            readable.append((job, image.pixels))
            for remark in image.remarks:
                remarked(job.source, remark)
        if readable:
            yield readable


def _write(predictor: Predictor, frame: Pixels, logits_CHW: npt.NDArray[np.float32], target: Path) -> str | None:
    """Returns a sentence if the image can't be written. Raises InputError if no image can."""
    image = predictor.render(frame, logits_CHW)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(target, durable=False) as partial:
            image.save(partial, format="PNG", compress_level=PNG_LEVEL)
    except OSError as error:
        return _cannot_write(target, error)
    return None


def _cannot_write(target: Path, error: OSError) -> str:
    """A sentence for a file that can't be written. Raises InputError if the error would meet all files."""
    sentence = f"{target}: can't be written ({error.strerror or error}): choose another --output"
    if error.errno in FAULTS_OF_A_DISK:
        raise InputError(sentence) from error
    return sentence
