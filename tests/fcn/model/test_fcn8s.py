"""The network against plainly written mathematics, against torchvision's VGG16, and its first weights."""

import json
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fcn.config import Config
from fcn.errors import InputError
from fcn.model.fcn8s import Architecture, Convolution, FCN8s, bilinear_kernel, build_model, check_weights, standardised
from fcn.model.pretrained import IMAGENET, PLAIN, fetch_weights, normalisation

SLIM: dict[str, Any] = {"width": 1 / 32, "fc_width": 8}


def slim_config(**settings: object) -> Config:
    return Config.model_validate({"weights": "none", **SLIM, **settings})


def as_plain(pixels_NCHW: npt.NDArray[np.float64]) -> Tensor:
    """Pixels of 0..1, normalised as the network expects them of random weights."""
    return (torch.from_numpy(pixels_NCHW).float() - 0.5) / 0.25


def plain_upsampling(x_NCHW: Tensor, weight: Tensor, bias: Tensor, stride: int, crop: int) -> Tensor:
    """A transposed convolution as its definition says: every pixel paints its kernel into the output."""
    count, _, height, width = x_NCHW.shape
    size = weight.shape[-1]
    painted = torch.zeros(
        count, weight.shape[1], (height - 1) * stride + size, (width - 1) * stride + size, dtype=x_NCHW.dtype
    )
    for row in range(height):
        for column in range(width):
            patch = torch.einsum("nc,cdhw->ndhw", x_NCHW[:, :, row, column], weight)
            top, left = row * stride, column * stride
            painted[:, :, top : top + size, left : left + size] += patch
    return painted[:, :, crop:-crop, crop:-crop] + bias.view(1, -1, 1, 1)


def plain_convolution(x_NCHW: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """A convolution as one matrix product over unfolded patches."""
    count, _, height, width = x_NCHW.shape
    patches = functional.unfold(x_NCHW, weight.shape[-1], padding=padding)
    return (weight.flatten(1) @ patches + bias.view(1, -1, 1)).view(count, -1, height, width)


def plain_fcn8s(tensors: dict[str, Tensor], images_NCHW: Tensor, scale_pool4: float, scale_pool3: float) -> Tensor:
    """Long et al., figure 3, layer by layer, in float64."""

    def layer(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return plain_convolution(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding)

    x, pools = images_NCHW, []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for index in block:
            x = layer(f"features.{index}", x, padding=1).clamp(min=0)
        count, channels, height, width = x.shape
        x = x.view(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))
        pools.append(x)
    fc7 = layer("fc7", layer("fc6", x, padding=3).clamp(min=0)).clamp(min=0)

    def up(name: str, x: Tensor, stride: int, crop: int) -> Tensor:
        return plain_upsampling(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride, crop)

    at_16 = up("up_fc7", layer("score_fc7", fc7), 2, 1) + layer("score_pool4", pools[3] * scale_pool4)
    at_8 = up("up_pool4", at_16, 2, 1) + layer("score_pool3", pools[2] * scale_pool3)
    return up("up_pool3", at_8, 8, 4)


@pytest.mark.parametrize(("skip_scaling", "scales"), [("none", (1.0, 1.0)), ("at_once", (0.01, 0.0001))])
def test_the_forward_pass_agrees_with_a_plainly_written_one(
    skip_scaling: Literal["none", "at_once"], scales: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    model = FCN8s(Architecture(3, **SLIM, skip_scaling=skip_scaling)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images_NCHW = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = plain_fcn8s(dict(model.state_dict()), images_NCHW, *scales)
    found = model(images_NCHW).detach()
    assert found.shape == (2, 3, 64, 96)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_fcn8s_has_134_271_436_parameters_at_two_classes() -> None:
    with torch.device("meta"):
        model = FCN8s(Architecture(2))
    count = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in model.named_children()}
    assert count == {
        "features": 14_714_688,
        "fc6": 102_764_544,
        "fc7": 16_781_312,
        "score_pool3": 256 * 2 + 2,
        "score_pool4": 512 * 2 + 2,
        "score_fc7": 4096 * 2 + 2,
        "up_fc7": 4 * 4 * 2 * 2 + 2,
        "up_pool4": 4 * 4 * 2 * 2 + 2,
        "up_pool3": 16 * 16 * 2 * 2 + 2,
    }
    assert sum(count.values()) == 134_271_436


def test_any_size_is_the_crop_of_the_padded_image() -> None:
    model = FCN8s(Architecture(2, **SLIM)).eval()
    images_NCHW = torch.randn(1, 3, 50, 71)
    padded = functional.pad(images_NCHW, (0, 96 - 71, 0, 64 - 50))
    torch.testing.assert_close(model(images_NCHW), model(padded)[:, :, :50, :71])


def test_standardised_images_have_mean_zero_and_deviation_one_of_their_logarithm() -> None:
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 3, 16, 24))
    logs = np.log(pixels + 4 / 255)
    expected = (logs - logs.mean((2, 3), keepdims=True)) / logs.std((2, 3), keepdims=True)
    found = standardised(as_plain(pixels)).numpy()
    assert found == pytest.approx(expected, abs=0.01)
    one_colour = standardised(as_plain(np.full((1, 3, 8, 8), 0.3))).numpy()
    assert one_colour == pytest.approx(0, abs=1e-3)


def test_a_standardising_network_says_the_same_at_half_the_light_and_another_not() -> None:
    # Far above what is taken for noise, so that half the light is a shift of the logarithm.
    pixels = np.random.default_rng(1).uniform(0.5, 1, (1, 3, 32, 64))
    changes = {}
    for standardise in ("none", "image"):
        model = build_model(slim_config(standardise=standardise, init="bilinear"), 2).eval()
        with torch.no_grad():
            day, dusk = model(as_plain(pixels)), model(as_plain(pixels / 2))
        changes[standardise] = float((day - dusk).abs().max() / day.abs().max())
    assert changes["image"] < 0.05 < 0.2 < changes["none"], changes


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (16, 8)])
def test_bilinear_kernels_interpolate_as_torch_does(size: int, stride: int) -> None:
    x_NCHW = torch.randn(1, 2, 6, 7)
    found = functional.conv_transpose2d(x_NCHW, bilinear_kernel(2, size), stride=stride, padding=stride // 2)
    expected = functional.interpolate(x_NCHW, scale_factor=stride, mode="bilinear", align_corners=False)
    # Beyond the outer pixels' centres one repeats the edge and the other fades to zero.
    inner = slice(stride, -stride)
    torch.testing.assert_close(found[:, :, inner, inner], expected[:, :, inner, inner])


def test_the_decoder_starts_from_normals_of_one_hundredth_or_bilinear() -> None:
    normal = FCN8s(Architecture(20, **SLIM))
    assert float(normal.up_pool3.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    bilinear = FCN8s(Architecture(2, **SLIM), init="bilinear")
    assert torch.equal(bilinear.up_pool3.weight.detach(), bilinear_kernel(2, 16))
    assert all(not layer.bias.any() for layer in normal.decoder() if layer.bias is not None)


@pytest.mark.parametrize(("pool", "frozen_convolutions"), [("none", 0), ("pool3", 7), ("pool4", 10), ("pool5", 13)])
def test_freezing_stops_the_gradient_of_the_layers_up_to_a_pool(pool: str, frozen_convolutions: int) -> None:
    model = build_model(slim_config(freeze=pool), 2)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    kernels = [p for name, p in model.features.named_parameters() if name.endswith("weight")]
    assert [p.grad is None for p in kernels] == [True] * frozen_convolutions + [False] * (13 - frozen_convolutions)
    assert model.fc6.weight.grad is not None


def test_an_images_dropout_is_the_same_in_every_batch() -> None:
    model = FCN8s(Architecture(2, **SLIM))
    cpu = torch.device("cpu")
    together = model.keep_masks(64, 96, [11, 22, 33], cpu)
    alone = model.keep_masks(64, 96, [22], cpu)
    assert torch.equal(together[0][1:2], alone[0])
    assert torch.equal(together[1][1:2], alone[1])
    assert not torch.equal(together[0][0], together[0][1])


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    model = FCN8s(Architecture(2, width=1 / 32, fc_width=2000), dropout=0.3)
    keep = model.keep_masks(64, 96, [1], torch.device("cpu"))
    assert float(keep[0].float().mean()) == pytest.approx(0.7, abs=0.02)
    nn.init.zeros_(model.fc6.weight)
    assert model.fc6.bias is not None
    nn.init.ones_(model.fc6.bias)  # fc6 is one everywhere, and what fc7 gets is that without what is dropped
    dropped: list[Tensor] = []
    model.fc7.register_forward_pre_hook(lambda _, given: dropped.append(given[0]))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 96), keep)
    assert torch.equal(dropped[0] > 0, keep[0])
    assert float(dropped[0].mean()) == pytest.approx(1, abs=0.03)


def test_the_same_seed_builds_the_same_network_and_leaves_torchs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = build_model(slim_config(seed=1), 2), build_model(slim_config(seed=1), 2)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.fc6.weight, build_model(slim_config(seed=2), 2).fc6.weight)


def test_the_network_exports_with_a_free_batch() -> None:
    model = FCN8s(Architecture(2, **SLIM)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 3, 40, 70),), dynamic_shapes=({0: batch},))
    images_NCHW = torch.randn(3, 3, 40, 70)
    torch.testing.assert_close(exported.module()(images_NCHW), model(images_NCHW))


def test_weights_of_an_earlier_run_are_taken_with_their_normalisation(tmp_path: Path) -> None:
    earlier = FCN8s(Architecture(2, **SLIM))
    save_file(dict(earlier.state_dict()), tmp_path / "weights.safetensors")
    (tmp_path / "export.json").write_text(
        json.dumps({"normalisation": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})
    )
    for weights in (tmp_path, tmp_path / "weights.safetensors"):
        config = slim_config(weights=str(weights))
        assert normalisation(config).mean == (0.1, 0.2, 0.3)
        model = build_model(config, 2)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, earlier.state_dict()[name]), name
    # Another task: the body is kept, the decoder starts anew.
    other = build_model(slim_config(weights=str(tmp_path)), 5)
    assert torch.equal(other.fc7.weight, earlier.fc7.weight)
    assert other.score_fc7.out_channels == 5
    assert torch.isfinite(other.score_fc7.weight).all()


def test_weights_of_another_width_are_refused_with_both_shapes(tmp_path: Path) -> None:
    save_file(dict(FCN8s(Architecture(2, **SLIM)).state_dict()), tmp_path / "weights.safetensors")
    (tmp_path / "export.json").write_text(json.dumps({"normalisation": {"mean": PLAIN.mean, "std": PLAIN.std}}))
    with pytest.raises(InputError, match=r"features.0.weight must have the shape \(4, 3, 3, 3\), got \(2, 3, 3, 3\)"):
        check_weights(slim_config(weights=str(tmp_path), width=1 / 16), 2)
    check_weights(slim_config(weights=str(tmp_path)), 2)


@pytest.mark.parametrize("description", ["export.json", "config.json"])
def test_weights_that_saw_other_images_are_refused(tmp_path: Path, description: str) -> None:
    save_file(dict(FCN8s(Architecture(2, **SLIM)).state_dict()), tmp_path / "weights.safetensors")
    section = "network" if description == "export.json" else "config"
    plain = {"normalisation": {"mean": PLAIN.mean, "std": PLAIN.std}, section: {"standardise": "image"}}
    (tmp_path / description).write_text(json.dumps(plain))
    fetch_weights(slim_config(weights=str(tmp_path), standardise="image"))
    with pytest.raises(InputError, match="trained with 'image', got 'none': set standardise = image"):
        fetch_weights(slim_config(weights=str(tmp_path)))


def test_a_path_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is no file"):
        fetch_weights(slim_config(weights=str(tmp_path / "nowhere")))
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(b"not a zip file")
    with pytest.raises(InputError, match=r"weights\.pth can't be read"):
        fetch_weights(slim_config(weights=str(damaged)))
    save_file(dict(FCN8s(Architecture(2, **SLIM)).state_dict()), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="doesn't say how its images were normalised"):
        fetch_weights(slim_config(weights=str(tmp_path)))


def test_imagenet_without_network_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(InputError) as caught:
        fetch_weights(Config())
    message = str(caught.value)
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in message
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in message


def test_the_normalisation_follows_the_weights() -> None:
    assert normalisation(Config()) == IMAGENET
    assert normalisation(slim_config()) == PLAIN
    # The network undoes it before it takes the logarithm.
    assert normalisation(Config(standardise="image")) == PLAIN


def test_scores_and_upsampling_compute_in_float32_and_the_rest_as_autocast_says() -> None:
    model = FCN8s(Architecture(3, **SLIM, skip_scaling="at_once")).train()
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):

            def note(_: object, given: tuple[Tensor], out: Tensor, name: str = name) -> None:
                seen[name] = (given[0].dtype, out.dtype)

            layer.register_forward_hook(note)
    model.fc6.in_float32 = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_NCHW = model(torch.randn(2, 3, 64, 64))
    assert logits_NCHW.dtype == torch.float32
    for name, dtypes in seen.items():
        if name.startswith(("score", "up")):
            assert dtypes == (torch.float32, torch.float32), name
        else:
            assert dtypes[1] == (torch.float32 if name == "fc6" else torch.bfloat16), name
    assert len(seen) == 13 + 2 + 6
    logits_NCHW.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [(5, 18), (1, 2), (2, 6)])
def test_fc6_as_a_product_of_matrices_is_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Convolution(6, 10, 7, padding=3).double()
    grads = []
    outputs = []
    for compute in (layer.matrix_product, lambda x: functional.conv2d(x, layer.weight, layer.bias, padding=3)):
        x = torch.linspace(-1, 1, 3 * 6 * size[0] * size[1], dtype=torch.float64).reshape(3, 6, *size).requires_grad_()
        layer.zero_grad()
        outputs.append(compute(x))
        torch.autograd.backward(outputs[-1].square().sum())
        assert layer.weight.grad is not None
        assert layer.bias is not None
        assert layer.bias.grad is not None
        grads.append([x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(grads[0], grads[1])
