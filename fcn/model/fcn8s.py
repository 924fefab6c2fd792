"""FCN-8s on VGG16 (Long, Shelhamer, Darrell, CVPR 2015): scores on pool3, pool4 and fc7, upsampled in steps.

Tensor names: N images, C classes, H W pixels, K values under a kernel, P positions of the kernel. Images are RGB,
normalised per channel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fcn.model.pretrained import PLAIN, load_weights

if TYPE_CHECKING:
    from fcn.config import Config

STRIDE = 32
# Added to pixels of 0..1 before their logarithm is taken, since levels below 4 of 255 are mostly noise.
DARKEST = 4 / 255
# VGG16's configuration D: channels of each convolution, "pool" between its five blocks.
_VGG16 = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    256,
    256,
    256,
    "pool",
    512,
    512,
    512,
    "pool",
    512,
    512,
    512,
    "pool",
)
# One past the index of each pool in features; the same as in torchvision's vgg16().features.
POOL_ENDS = {"pool3": 17, "pool4": 24, "pool5": 31}


_HAS_AVX512 = bool(torch.cpu.get_capabilities().get("avx512_f"))


class Convolution(nn.Conv2d):
    """A convolution of VGG16, which can be set to compute in float32 even under autocast."""

    in_float32 = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.in_float32:
            return self._convolve(input)
        with _autocast_off(input.device):
            return self._convolve(_widened(input))

    def _convolve(self, input: Tensor) -> Tensor:
        as_product = self.training and self.kernel_size == (7, 7) and input.device.type == "cpu" and not _HAS_AVX512
        return self.matrix_product(input) if as_product else super().forward(input)

    def matrix_product(self, input_NCHW: Tensor) -> Tensor:
        """The convolution, computed as one matrix product.

        Without AVX-512, oneDNN 3.12 has no fast code for the gradient of so many weights: it takes 35 s for fc6 and one
        image of 160x576, and this takes 0.5 s.
        """
        images, _, height, width = input_NCHW.shape
        assert self.bias is not None
        patches_NKP = functional.unfold(input_NCHW, self.kernel_size, padding=self.padding)  # type: ignore[arg-type]
        patches = patches_NKP.transpose(0, 1).flatten(1)
        found = torch.addmm(self.bias[:, None], self.weight.flatten(1), patches)
        return found.view(-1, images, height, width).transpose(0, 1)


@dataclass(frozen=True)
class Architecture:
    """What determines the shapes of an FCN8s's weights and what it computes. An export stores it as "network".

    classes: channels of the output, 2 or more.
    width: scales VGG16's channels, each at least 1; 1.0 is VGG16.
    fc_width: channels of fc6 and fc7.
    skip_scaling: "at_once": pool4 and pool3 are scaled down before their scores, as in the paper's at-once training.
    standardise: "image": images, normalised as PLAIN, pass through standardised() first.
    """

    classes: int
    width: float = 1.0
    fc_width: int = 4096
    skip_scaling: Literal["none", "at_once"] = "none"
    standardise: Literal["none", "image"] = "none"

    @classmethod
    def of(cls, config: Config, classes: int) -> Architecture:
        """The network of a run with this config, on a data set of so many classes."""
        return cls(classes, config.width, config.fc_width, config.skip_scaling, config.standardise)


class FCN8s(nn.Module):
    """Scores of each class for each pixel, at the size of the input.

    dropout: probability of dropping an activation of fc6 and fc7 while training.

    forward(images_NCHW) -> logits_NCHW, for any H and W: images are padded with zeros (the mean colour) at the right
    and the bottom to a multiple of 32, so that the skips line up, and the logits are cropped. Scores and upsampling are
    float32 even under autocast: they are a hundredth of the arithmetic, and the loss is computed from them.
    """

    def __init__(
        self,
        architecture: Architecture,
        dropout: float = 0.5,
        init: Literal["normal", "bilinear"] = "normal",
    ) -> None:
        super().__init__()
        classes, fc_width = architecture.classes, architecture.fc_width
        channels = [scaled(count, architecture.width) for count in (256, 512, 512)]
        self.features = _features(architecture.width)
        self.fc6 = Convolution(channels[2], fc_width, 7, padding=3)
        self.fc7 = Convolution(fc_width, fc_width, 1)
        self.score_pool3 = nn.Conv2d(channels[0], classes, 1)
        self.score_pool4 = nn.Conv2d(channels[1], classes, 1)
        self.score_fc7 = nn.Conv2d(fc_width, classes, 1)
        self.up_fc7 = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
        self.up_pool4 = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
        self.up_pool3 = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4)
        self.dropout = dropout
        self.standardise = architecture.standardise
        # As in the paper's at-once training: deeper layers have more weight at first.
        at_once = architecture.skip_scaling == "at_once"
        self.scale_pool4, self.scale_pool3 = (0.01, 0.0001) if at_once else (1.0, 1.0)
        initialise(self, init)

    def forward(self, images_NCHW: Tensor, keep: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """keep: which activations of fc6 and fc7 survive dropout, from keep_masks(); None: torch draws them."""
        height, width = images_NCHW.shape[2:]
        if self.standardise == "image":
            images_NCHW = standardised(images_NCHW)
        x = functional.pad(images_NCHW, (0, -width % STRIDE, 0, -height % STRIDE))
        pool3: Tensor = self.features[: POOL_ENDS["pool3"]](x)  # 1/8
        pool4 = self.features[POOL_ENDS["pool3"] : POOL_ENDS["pool4"]](pool3)  # 1/16
        pool5 = self.features[POOL_ENDS["pool4"] :](pool4)  # 1/32
        fc6 = self._drop(functional.relu(self.fc6(pool5), inplace=True), None if keep is None else keep[0])
        fc7 = self._drop(functional.relu(self.fc7(fc6), inplace=True), None if keep is None else keep[1])
        with _autocast_off(images_NCHW.device):
            pool3, pool4, fc7 = _widened(pool3), _widened(pool4), _widened(fc7)
            scores: Tensor = self.up_fc7(self.score_fc7(fc7))  # 1/16
            scores = self.up_pool4(scores + self.score_pool4(self._scaled(pool4, self.scale_pool4)))  # 1/8
            scores = self.up_pool3(scores + self.score_pool3(self._scaled(pool3, self.scale_pool3)))  # 1/1
        return scores[:, :, :height, :width]

    def keep_masks(self, height: int, width: int, seeds: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Dropout masks for fc6 and fc7, from a seed for each image: the same in any batch, rank or micro-batch."""
        shape = (len(seeds), self.fc6.out_channels, math.ceil(height / STRIDE), math.ceil(width / STRIDE))
        draws = torch.empty((2, *shape), device=device)
        generator = torch.Generator(device)
        for image, seed in enumerate(seeds):
            draws[:, image] = torch.rand((2, *shape[1:]), generator=generator.manual_seed(seed), device=device)
        keep = draws >= self.dropout
        return keep[0], keep[1]

    def _drop(self, x: Tensor, keep: Tensor | None) -> Tensor:
        if not self.training or self.dropout == 0:
            return x
        if keep is None:
            return functional.dropout(x, self.dropout)
        return x * keep * (1 / (1 - self.dropout))

    @staticmethod
    def _scaled(x: Tensor, scale: float) -> Tensor:
        return x if scale == 1 else x * scale

    def decoder(self) -> list[nn.Conv2d | nn.ConvTranspose2d]:
        """The layers that VGG16 doesn't have: scores and upsampling."""
        return [
            self.score_pool3,
            self.score_pool4,
            self.score_fc7,
            self.up_fc7,
            self.up_pool4,
            self.up_pool3,
        ]

    def layers(self, height: int, width: int) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d, int, int]]:
        """Each convolution: its name, itself, and the height and width of its input for images of this size."""
        rows, columns = height + -height % STRIDE, width + -width % STRIDE
        for place, layer in self.features.named_children():
            if isinstance(layer, nn.Conv2d):
                yield f"features.{place}", layer, rows, columns
            elif isinstance(layer, nn.MaxPool2d):
                rows, columns = rows // 2, columns // 2
        for name, factor in (
            ("fc6", 1),
            ("fc7", 1),
            ("score_fc7", 1),
            ("up_fc7", 1),
            ("score_pool4", 2),
            ("up_pool4", 2),
            ("score_pool3", 4),
            ("up_pool3", 4),
        ):
            yield name, getattr(self, name), factor * rows, factor * columns

    def compute_in_float32(self, names: Collection[str]) -> None:
        """Makes these layers of VGG16 compute in float32 even under autocast, and the others as autocast says."""
        for name, layer in self.named_modules():
            if isinstance(layer, Convolution):
                layer.in_float32 = name in names

    def freeze(self, pool: Literal["none", "pool3", "pool4", "pool5"]) -> None:
        """Freezes VGG16's layers up to this pool: their weights get no gradient."""
        for layer in self.features[: POOL_ENDS.get(pool, 0)]:
            layer.requires_grad_(False)


def standardised(images_NCHW: Tensor) -> Tensor:
    """The logarithm of the pixels, at mean 0 and standard deviation 1 in each channel of each image.

    images_NCHW: normalised as PLAIN. A brightness factor shifts the logarithm and a gamma scales it, so that the result
    depends on neither, except for the darkest pixels.
    """
    mean, std = (torch.tensor(values, device=images_NCHW.device).view(1, 3, 1, 1) for values in (PLAIN.mean, PLAIN.std))
    # In float32 even under autocast: in bfloat16 a dark image has only a handful of levels.
    logs = torch.log((images_NCHW.float() * std + mean).clamp_min(0) + DARKEST)
    variance, middle = torch.var_mean(logs, dim=(2, 3), correction=0, keepdim=True)
    # The small constant makes an image of one colour all zero instead of amplified noise.
    return (logs - middle) / (variance.sqrt() + 1e-3)


def _autocast_off(device: torch.device) -> AbstractContextManager[object]:
    # Where it is off already, nothing: torch.export would write it into the graph. torch 2.11 raises where it is
    # asked for autocast on meta.
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _features(width: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for entry in _VGG16:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
            continue
        after = scaled(entry, width)
        layers += [Convolution(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers)


def initialise(model: FCN8s, init: Literal["normal", "bilinear"], given: frozenset[str] = frozenset()) -> None:
    """Draws the weights: Kaiming normal in the body, N(0, 0.01) or bilinear upsampling in the decoder; zero biases.

    given: names of parameters that are left as they are.
    """
    decoder = model.decoder()
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or f"{name}.weight" in given:
            continue
        if layer.weight.is_meta:
            # There is no memory to fill, and trying would import torch's compiler, which takes two seconds.
            continue
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        if layer not in decoder:
            # N(0, 0.01) would make the activations vanish in a slim body that starts from random weights.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif init == "bilinear" and isinstance(layer, nn.ConvTranspose2d):
            with torch.no_grad():
                layer.weight.copy_(bilinear_kernel(layer.out_channels, layer.kernel_size[0]))
        else:
            nn.init.normal_(layer.weight, std=0.01)


def bilinear_kernel(classes: int, size: int) -> Tensor:
    """A kernel (classes, classes, size, size) that upsamples each class separately, bilinearly, by size / 2."""
    factor = size / 2
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    kernel = torch.zeros(classes, classes, size, size)
    kernel[range(classes), range(classes)] = torch.outer(ramp, ramp)
    return kernel


def build_model(config: Config, classes: int) -> FCN8s:
    """The network at the start of a run: with config.weights, and random weights by config.seed for the other layers.

    Raises InputError if the weights can't be loaded or don't fit.
    """
    # First on "meta", without memory: drawing 134 million numbers only to overwrite them takes seconds.
    model = model_on_meta(config, classes)
    model.to_empty(device="cpu")
    given = load_weights(model, config)
    # Forked, so that a run doesn't change torch's global random state.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        initialise(model, config.init, given)
    model.freeze(config.freeze)
    return model


def check_weights(config: Config, classes: int) -> frozenset[str]:
    """Names of the parameters that config.weights give, without copying them.

    Raises InputError if the weights can't be loaded or don't fit the network.
    """
    return load_weights(model_on_meta(config, classes), config)


def model_on_meta(config: Config, classes: int) -> FCN8s:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return FCN8s(Architecture.of(config, classes), dropout=config.dropout)
