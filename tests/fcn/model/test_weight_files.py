"""First weights from files as the world has them: formats of torch, wrappers, wrong and torn files, Caffe's VGG16."""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, vgg

from fcn import Config
from fcn.errors import InputError
from fcn.formats.read import open_network, read_export
from fcn.formats.write import export
from fcn.model import weight_files
from fcn.model.fcn8s import build_model
from fcn.model.preprocessing import FromPixels
from fcn.model.pretrained import IMAGENET, fetch_weights, normalisation
from fcn.training.run import prepare
from tests.fcn.command import fcn

Weights = dict[str, Tensor]
FC = 8
# VGG16's layout, slim.
CHANNELS: list[str | int] = [4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"]
SLIM = {"width": 1 / 16, "fc_width": FC, "image_size": (32, 64)}


def body() -> nn.Sequential:
    """torchvision's own VGG16 body, slim, with biases and weights that no two channels share."""
    torch.manual_seed(0)
    layers: nn.Sequential = vgg.make_layers(CHANNELS)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    return layers.eval()


def vgg16(classifier: tuple[int, int, int] = (0, 3, 6)) -> Weights:
    """A slim VGG16's state_dict, with all that torchvision's has; classifier: the numbers of its layers."""
    shapes = ((FC, 32 * 49), (FC, FC), (10, FC))
    found = {f"features.{name}": tensor for name, tensor in body().state_dict().items()}
    for number, shape in zip(classifier, shapes, strict=True):
        found[f"classifier.{number}.weight"] = torch.randn(shape)
        found[f"classifier.{number}.bias"] = torch.randn(shape[0])
    return found


def slim(weights: Path, **settings: Any) -> Config:
    return Config.model_validate({"dataset": "scenes", "weights": str(weights), **SLIM, **settings})


def check_body(config: Config) -> None:
    """The network of a config starts with the weights of vgg16()."""
    model = build_model(config, 2)
    for name, tensor in body().state_dict().items():
        assert torch.equal(model.features.state_dict()[name], tensor), name
    torch.manual_seed(0)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch's old format"])
def test_a_pth_is_read_in_both_formats_of_torch(tmp_path: Path, zipped: bool) -> None:
    saved = vgg16()
    torch.save(saved, tmp_path / "vgg16.pth", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "vgg16.pth") == zipped
    config = slim(tmp_path / "vgg16.pth")

    fetch_weights(config)

    check_body(config)
    model = build_model(config, 2)
    assert torch.equal(model.fc6.weight, saved["classifier.0.weight"].view(FC, 32, 7, 7))
    assert torch.equal(model.fc7.weight, saved["classifier.3.weight"].view(FC, FC, 1, 1))
    assert normalisation(config) == IMAGENET


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3, "optimizer": {"step": 7}},
        lambda weights: {"model": weights, "lr": 0.1},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: vgg16((1, 4, 6)),
    ],
    ids=["state_dict", "model", "DataParallel", "Lightning", "torchvision's first versions"],
)
def test_what_trainers_wrap_around_weights_is_taken_off(tmp_path: Path, wrap: Callable[[Weights], Any]) -> None:
    torch.save(wrap(vgg16()), tmp_path / "vgg16.pth")

    check_body(slim(tmp_path / "vgg16.pth"))

    assert build_model(slim(tmp_path / "vgg16.pth"), 2).fc6.weight.isfinite().all()


def test_timms_vgg16_is_taken_as_safetensors(tmp_path: Path) -> None:
    saved = vgg16()
    renamed = {
        name.replace("classifier.0", "pre_logits.fc1").replace("classifier.3", "pre_logits.fc2"): tensor
        for name, tensor in saved.items()
    }
    renamed["pre_logits.fc1.weight"] = renamed["pre_logits.fc1.weight"].view(FC, 32, 7, 7)
    save_file(renamed, tmp_path / "model.safetensors")
    config = slim(tmp_path / "model.safetensors")

    fetch_weights(config)

    check_body(config)
    assert torch.equal(build_model(config, 2).fc6.weight, renamed["pre_logits.fc1.weight"])
    assert normalisation(config) == IMAGENET


def damage(path: Path, how: str) -> None:
    old = {"_use_new_zipfile_serialization": False}
    if how == "empty":
        path.write_bytes(b"")
    elif how == "page":
        path.write_text("\n<!DOCTYPE html>\n<html><title>403 Forbidden</title></html>")
    elif how == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:397923af\nsize 553433881\n")
    elif how == "other zip":
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr("data_road/readme.txt", "KITTI")
    elif how == "objects":
        torch.save({"args": argparse.Namespace(lr=1), "state_dict": vgg16()}, path, **old)
    elif how == "no tensors":
        torch.save({"epoch": 1, "loss": 0.5}, path)
    elif how == "list":
        torch.save(list(vgg16().values()), path)
    elif how == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    else:
        torch.save(vgg16(), path, **(old if "old" in how else {}))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) - 50 if "end" in how else 100 if "start" in how else len(whole) // 2])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "holds no weights; it is empty"),
        ("page", "it is a web page: the download failed"),
        ("pointer", "a pointer of Git LFS"),
        ("other zip", "is a zip file, but not one of torch.save"),
        ("objects", "holds more than tensors, and Python objects are not unpickled here"),
        ("no tensors", "must hold tensors by name, .* got dict with epoch, loss"),
        ("list", "must hold tensors by name, .* got list"),
        ("noise", r"torn, or not written by torch\.save \(1,000 bytes\); fetch or export it again"),
        ("zip, half of it", r"torn, or not written by torch\.save \([0-9,]+ bytes: .*central directory"),
        ("zip, its end cut off", r"torn, or not written by torch\.save"),
        ("old, half of it", r"torn, or not written by torch\.save \([0-9,]+ bytes: unexpected EOF"),
        ("old, its end cut off", r"torn, or not written by torch\.save \([0-9,]+ bytes: unexpected EOF"),
        ("old, its start alone", r"torn, or not written by torch\.save"),
    ],
)
def test_a_file_that_is_no_state_dict_is_told_what_it_is(tmp_path: Path, how: str, says: str) -> None:
    damage(tmp_path / "vgg16.pth", how)

    with pytest.raises(InputError, match=says) as caught:
        fetch_weights(slim(tmp_path / "vgg16.pth"))

    assert str(tmp_path / "vgg16.pth") in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["page", "pointer", "noise", "zip, half of it"])
def test_a_safetensors_file_that_is_none_is_told_what_it_is(tmp_path: Path, how: str) -> None:
    damage(tmp_path / "model.safetensors", how)
    with pytest.raises(InputError, match=r"model\.safetensors (holds no weights; it is|is torn or no safetensors)"):
        fetch_weights(slim(tmp_path / "model.safetensors"))


def test_another_architecture_is_told_the_names_that_were_expected_and_those_that_are_there(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match="neither a VGG16 nor a network of this program") as caught:
        fetch_weights(slim(tmp_path / "resnet18.pth"))
    assert "must have features.0.weight, features.0.bias, features.2.weight" in str(caught.value)
    assert "got conv1.weight, bn1.weight" in str(caught.value)
    assert "width" not in str(caught.value)

    layers = vgg.make_layers(CHANNELS, batch_norm=True)
    torch.save({f"features.{name}": tensor for name, tensor in layers.state_dict().items()}, tmp_path / "vgg16_bn.pth")
    with pytest.raises(InputError, match=r"must have features\.2\.weight.*, got features\.0\.weight"):
        fetch_weights(slim(tmp_path / "vgg16_bn.pth"))


def test_another_width_is_told_the_width_to_set(tmp_path: Path) -> None:
    torch.save(vgg16(), tmp_path / "vgg16.pth")
    with pytest.raises(InputError, match=r"set width = 0\.0625 and fc_width = 8, those of the weights"):
        build_model(slim(tmp_path / "vgg16.pth", width=0.25), 2)
    grey = vgg16()
    grey["features.0.weight"] = grey["features.0.weight"][:, :1]
    torch.save(grey, tmp_path / "grey.pth")
    with pytest.raises(InputError, match="it is of another network; give a VGG16"):
        build_model(slim(tmp_path / "grey.pth"), 2)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    broken = vgg16()
    broken["features.14.weight"][3, 2, 1, 1] = torch.inf
    torch.save(broken, tmp_path / "vgg16.pth")
    with pytest.raises(InputError, match=r"features\.14\.weight must hold finite"):
        build_model(slim(tmp_path / "vgg16.pth"), 2)


@pytest.mark.parametrize("classifier", ["left out", "nan"])
def test_features_alone_need_their_normalisation_and_say_what_starts_anew(tmp_path: Path, classifier: str) -> None:
    # torchvision's IMAGENET1K_FEATURES has a classifier of nothing but NaN.
    found = {
        name: torch.full_like(tensor, torch.nan) if name.startswith("classifier.") else tensor
        for name, tensor in vgg16().items()
        if classifier == "nan" or name.startswith("features.")
    }
    torch.save(found, tmp_path / "features.pth")
    with pytest.raises(InputError, match="doesn't say how its images were normalised: set weights_normalisation"):
        fetch_weights(slim(tmp_path / "features.pth"))

    config = slim(tmp_path / "features.pth", weights_normalisation="features", frames=24, cache_dir=tmp_path / "cache")
    warnings = prepare(config).warnings

    theirs = vgg.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    assert normalisation(config).mean == tuple(theirs.mean)
    assert normalisation(config).std == tuple(theirs.std)
    check_body(config)
    assert build_model(config, 2).fc6.weight.isfinite().all()
    assert any("have no fc6 and fc7 of fc_width = 8: these two start from random numbers" in line for line in warnings)


def caffe_features(pixels_NHWC: Tensor) -> Tensor:
    """What Caffe's VGG16 is fed and computes: pixels of 0..255, blue first, minus the mean colour."""
    blue_first = pixels_NHWC.double()[..., [2, 1, 0]]
    images_NCHW = (blue_first - torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)).permute(0, 3, 1, 2)
    with torch.no_grad():
        features: Tensor = body().double()(images_NCHW)
    return features


def test_caffes_vgg16_gives_the_features_of_its_own_preprocessing_up_to_the_borders(tmp_path: Path) -> None:
    torch.save(vgg16((1, 4, 6)), tmp_path / "vgg16-caffe.pth", _use_new_zipfile_serialization=False)
    config = slim(tmp_path / "vgg16-caffe.pth", weights_normalisation="caffe_bgr")
    pixels_NHWC = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8))
    said = normalisation(config)

    fetch_weights(config)
    network = FromPixels(build_model(config, 2).features, said.mean, said.std)
    with torch.no_grad():
        found = network(pixels_NHWC)

    expected = caffe_features(pixels_NHWC)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    # Neither the order of colours nor the normalisation is a trifle.
    wrong = FromPixels(build_model(slim(tmp_path / "vgg16-caffe.pth"), 2).features, said.mean, said.std)
    with torch.no_grad():
        assert float((wrong(pixels_NHWC) - expected).abs().max()) > 0.1 * float(expected.abs().max())


def test_an_export_of_caffes_weights_carries_their_normalisation_and_is_not_turned_twice(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    torch.save(vgg16(), tmp_path / "caffe.pth")
    settings = {"weights": str(tmp_path / "caffe.pth"), "weights_normalisation": "caffe_bgr", "fc_width": FC}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", width=1 / 16, **settings)
    exported = tmp_path / "export"

    scores = export(checkpoint, exported, device=torch.device("cpu"))

    opened = read_export(exported)
    assert opened.mean == (123.68 / 255, 116.779 / 255, 103.939 / 255)
    assert opened.std == (1 / 255, 1 / 255, 1 / 255)
    assert "started from the weights in caffe.pth, whose terms hold" in (exported / "README.md").read_text("utf-8")
    (tmp_path / "caffe.pth").unlink()  # an export stands alone
    result = fcn("evaluate", exported, "--split", "test", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"] == pytest.approx(scores.test_metrics, abs=1e-4)

    # Taken as first weights of another run they are its own, channel by channel.
    again = build_model(Config(dataset="scenes", weights=str(exported), width=1 / 16, fc_width=FC), 2).eval()
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (1, *opened.image_size, 3), np.uint8)
    network = FromPixels(again, opened.mean, opened.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels_NHWC)).numpy()
    assert np.allclose(logits, open_network(opened)(pixels_NHWC), atol=1e-4)
    with pytest.raises(InputError, match=r"export\.json says how the images were normalised, got caffe_bgr besides"):
        fetch_weights(slim(exported, weights_normalisation="caffe_bgr"))


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_a_normalisation_without_a_file_of_weights_is_refused(weights: str) -> None:
    with pytest.raises(ValidationError, match="weights_normalisation is for a file of weights, got caffe_bgr"):
        Config(weights=weights, weights_normalisation="caffe_bgr")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps VGG16; nothing can be downloaded."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    path = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("how", ["page", "old, half of it", "zip, half of it", "other zip", "noise", "empty"])
def test_what_lies_in_imagenets_place_is_checked_and_never_used_on_trust(hub: Path, how: str) -> None:
    damage(hub, how)

    with pytest.raises(
        InputError, match=r"must have a SHA-256 that begins with 397923af, got [0-9a-f]{8} \("
    ) as caught:
        fetch_weights(Config())

    assert f"weights: {hub} must" in str(caught.value)
    assert "remove it, and it is downloaded again" in str(caught.value)
    assert hub.exists()  # it is a person's file


@pytest.mark.slow
def test_torchvisions_vgg16_is_loaded_whole_under_its_real_name_in_its_real_format(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = vgg.vgg16(init_weights=False).eval()
    torch.save(theirs.state_dict(), hub, _use_new_zipfile_serialization=False)
    assert hub.stat().st_size > 553_400_000
    with hub.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setattr(weight_files, "IMAGENET_HASH", digest[:8])

    fetch_weights(Config())
    ours = build_model(Config(), 2).eval()

    images_NCHW = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        pool5 = ours.features(images_NCHW)
        torch.testing.assert_close(pool5, theirs.features(images_NCHW))
        # fc6's padding keeps 7x7 pixels; the classifier's one output is the one in the middle.
        fc7 = ours.fc7(ours.fc6(pool5).relu()).relu()[:, :, 3, 3]
        expected = theirs.classifier[:6](theirs.avgpool(pool5).flatten(1))
    torch.testing.assert_close(fc7, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 0
