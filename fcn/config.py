"""Every hyperparameter of a run: its unit, its bounds and its default."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fcn.presets import PresetName, with_preset

Pixels = Annotated[int, Field(ge=16, le=8192)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# Half the width of a range around 'no change'.
Jitter = Annotated[float, Field(ge=0, lt=1)]
# A Path would make one slash of the two in a URL.
FolderOrUrl = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
DatasetName = Literal["scenes", "camvid", "kitti_road", "cityscapes", "folder"]


class Config(BaseModel):
    """One run.

    The defaults are neither of the two published recipes (fcn/presets.py): they are batch5's batch size and learning
    rate with batch15's flips and L2, because both reduce overfitting on a small data set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: PresetName | None = Field(
        None, description="A published recipe (below), which gives every field that is not set; None: the defaults do."
    )

    # Data
    dataset: DatasetName = Field(
        "kitti_road", description="Data set; scenes are drawn by this program and need no files."
    )
    data_dir: FolderOrUrl | None = Field(
        None,
        description="Folder of the data set, or a URL of it: s3://BUCKET/FOLDER, or an archive at https://; scenes "
        "needs none.",
    )
    classes: str = Field(
        "road",
        min_length=1,
        description='"all": every class of the data set; else the name of one, scored against the rest.',
    )
    image_size: tuple[Pixels, Pixels] = Field(
        (160, 576), description="Height and width in pixels that every frame is resized to."
    )
    frames: int | None = Field(
        None,
        ge=2,
        le=10_000_000,
        description="At most this many frames, spread evenly over the sequences; None: all (scenes: 160).",
    )
    split: Literal["sequence", "published"] = Field(
        "sequence",
        description="sequence: no sequence in two splits; published: the data set's own lists.",
    )
    val_sequences: tuple[str, ...] | None = Field(
        None, description="Sequences to validate on; None: chosen by split_seed."
    )
    test_sequences: tuple[str, ...] | None = Field(
        None, description="Sequences to test on; None: chosen by split_seed."
    )
    val_fraction: Fraction = Field(
        0.2,
        description="Share of the frames to validate on; 0: none, and what val_sequences names is trained on too.",
    )
    test_fraction: Fraction = Field(0.2, description="Share of the frames to test on; 0: no test split.")
    split_seed: int = Field(0, ge=0, lt=2**31, description="Chooses the sequences of each split.")
    train_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the training frames to train on, drawn by split_seed; a smaller share is part of a "
        "larger one.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder of decoded pixels; None: $XDG_CACHE_HOME/fcn or ~/.cache/fcn."
    )
    gpu_cache_fraction: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of the GPU memory free to this process that the pixels may live in; more are streamed.",
    )

    # Model
    weights: str = Field(
        "imagenet",
        min_length=1,
        description='"imagenet", "none", or a path: an export, a checkpoint, .safetensors, or a VGG16 .pth.',
    )
    weights_normalisation: Literal["auto", "imagenet", "features", "caffe_bgr"] = Field(
        "auto",
        description="How a VGG16 file's images were normalised: as torchvision does; minus a mean, pixels of 0..255, "
        "RGB (features) or BGR (caffe_bgr). auto: as export.json or config.json says, else imagenet.",
    )
    width: float = Field(1.0, gt=0, le=4, description="Scales VGG16's channels; 1.0 is VGG16.")
    fc_width: int = Field(4096, ge=1, le=16384, description="Channels of fc6 and fc7.")
    init: Literal["normal", "bilinear"] = Field(
        "normal", description="Upsampling kernels start from N(0, 0.01) or from bilinear interpolation."
    )
    skip_scaling: Literal["none", "at_once"] = Field(
        "none", description="at_once: pool4 times 0.01 and pool3 times 0.0001 before they are scored."
    )
    standardise: Literal["none", "image"] = Field(
        "none",
        description="image: the network sees each image's log brightness at mean 0, deviation 1, channel by channel.",
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="Probability of dropping, after fc6 and after fc7.")
    freeze: Literal["none", "pool3", "pool4", "pool5"] = Field(
        "none", description="VGG16's layers up to this pool keep their weights."
    )

    # Training
    epochs: int = Field(50, ge=1, le=100_000, description="Passes over the training split.")
    batch_size: int = Field(5, ge=1, le=65_536, description="Images a step, over all ranks together.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Images on a device at once; None: all, halved when memory runs out. Same gradient.",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Update rule.")
    learning_rate: float = Field(9e-4, gt=0, le=10, description="Step size after warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; first beta of adam and adamw.")
    l2: float = Field(
        1e-3,
        ge=0,
        le=10,
        description="Strength s of s*sum(w^2)/2 over kernels; adamw decays the weights by it instead.",
    )
    l2_on: Literal["decoder", "all"] = Field("decoder", description="Kernels to which l2 applies.")
    schedule: Literal["constant", "cosine", "polynomial"] = Field(
        "constant", description="Learning rate after warm-up; polynomial falls with the power 0.9."
    )
    warmup_epochs: float = Field(
        0, ge=0, le=100_000, description="Epochs in which the learning rate rises from zero, step by step."
    )
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient (2-norm), above which it is scaled down; None: no limit."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a class counts in the loss by the inverse of its share of pixels."
    )
    early_stop_epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Ends the run after this many epochs without a better validation score; None: never.",
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="auto: bfloat16 where the hardware has it, for each layer that it computes right; else float32.",
    )
    compile: bool = Field(
        False,
        description="Compile the network (torch.compile) before the first epoch; reported as time/compile_seconds.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Weights, order, augmentation and dropout of the run.")

    # Augmentation: 0 is off
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a mirrored image.")
    scale_jitter: Jitter = Field(0, description="Scale is drawn from 1 -+ this, then cropped or padded.")
    brightness: Jitter = Field(0, description="Brightness factor is drawn from 1 -+ this.")
    contrast: Jitter = Field(0, description="Contrast factor is drawn from 1 -+ this.")
    colour: Jitter = Field(0, description="Saturation factor is drawn from 1 -+ this.")
    gamma: Jitter = Field(0, description="Gamma is drawn from 1 -+ this.")

    # Images
    masks: int = Field(3, ge=0, le=100, description="Validation frames whose overlay joins each checkpoint.")

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, fields: Any) -> Any:
        return with_preset(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "val_fraction + test_fraction must leave frames to train on, got "
                f"{self.val_fraction} + {self.test_fraction}: make their sum less than 1"
            )
        if self.val_fraction == 0 and self.early_stop_epochs is not None:
            raise ValueError(
                f"early_stop_epochs waits for a better validation score, got {self.early_stop_epochs} with "
                "val_fraction = 0: leave one of the two out"
            )
        if self.weights == "imagenet" and self.width != 1:
            raise ValueError(
                f"weights = imagenet are VGG16's and need width = 1.0, got width = {self.width}: "
                "set width = 1.0 or weights = none"
            )
        if self.weights_normalisation not in ("auto", self.weights) and self.weights in ("imagenet", "none"):
            raise ValueError(
                f"weights_normalisation is for a file of weights, got {self.weights_normalisation} with weights = "
                f"{self.weights}: set weights to the file, or weights_normalisation = auto"
            )
        if self.weights_normalisation != "auto" and self.standardise == "image":
            raise ValueError(
                "weights_normalisation must be auto with standardise = image, which puts its own in its place, got "
                f"{self.weights_normalisation}: set one of the two"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs must not exceed epochs, got {self.warmup_epochs} > {self.epochs}: "
                "learning_rate would never be reached"
            )
        return self


def cache_folder(config: Config) -> Path:
    """config.cache_dir, else fcn in $XDG_CACHE_HOME or ~/.cache."""
    if config.cache_dir is not None:
        return config.cache_dir.expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcn"


def validation_sentences(error: ValidationError) -> list[str]:
    """One sentence for each wrong config field, with its name, the rule and the value that broke it."""
    return [_sentence(dict(problem)) for problem in error.errors(include_url=False)]


def _sentence(problem: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    rule = str(problem["msg"]).removeprefix("Value error, ")
    if not field:
        return rule
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such config field, got {problem['input']!r}{_suggestion(field)}"
    return f"{field}: {rule[:1].lower()}{rule[1:]}, got {problem['input']!r}"


def _suggestion(field: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(field, Config.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else ""
