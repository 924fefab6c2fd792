"""An export, opened by the libraries that its formats belong to, against the checkpoint it came from."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image

import fcn
from fcn.data.cache import open_cache
from fcn.errors import ExportError, InputError
from fcn.formats.read import open_network, read_export
from fcn.formats.verify import check_score_repeats, logits_parity
from fcn.formats.write import Exported, export
from fcn.model import checkpoint

CPU = torch.device("cpu")
MakeCheckpoint = Callable[..., Path]
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def pixels(tiny_checkpoint: Path) -> Pixels:
    cache = open_cache(checkpoint.load(tiny_checkpoint).config)
    return np.ascontiguousarray(cache.images[list(cache.dataset.splits["val"])[:3]])


@pytest.fixture(scope="module")
def logits(tiny_checkpoint: Path, pixels: Pixels) -> npt.NDArray[np.float32]:
    """What the checkpoint says of these frames, channel by channel as export.json describes the input."""
    loaded = checkpoint.load(tiny_checkpoint)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    for channel in range(3):
        images[:, channel] -= loaded.normalisation.mean[channel]
        images[:, channel] /= loaded.normalisation.std[channel]
    with torch.no_grad():
        result: npt.NDArray[np.float32] = checkpoint.build(loaded)(images.float()).numpy()
    return result


def test_onnx_gives_the_checkpoints_logits_for_any_batch(
    tiny_export: tuple[Path, Exported], pixels: Pixels, logits: npt.NDArray[np.float32]
) -> None:
    session = onnxruntime.InferenceSession(tiny_export[0] / "model.onnx")

    for count in (1, 2, 3):
        found = session.run(None, {"images": pixels[:count]})[0]
        assert found == pytest.approx(logits[:count], abs=1e-4 * float(np.ptp(logits)))


def test_pt2_gives_the_checkpoints_logits_for_any_batch(
    tiny_export: tuple[Path, Exported], pixels: Pixels, logits: npt.NDArray[np.float32]
) -> None:
    network = torch.export.load(tiny_export[0] / "model.pt2").module()

    for count in (1, 2, 3):
        found = network(torch.from_numpy(pixels[:count])).numpy()
        assert found == pytest.approx(logits[:count], abs=1e-4 * float(np.ptp(logits)))


def test_the_weights_give_the_checkpoints_logits_at_any_size(
    tiny_checkpoint: Path, tiny_export: tuple[Path, Exported], pixels: Pixels
) -> None:
    network = open_network(read_export(tiny_export[0]))
    loaded = checkpoint.load(tiny_checkpoint)
    odd = pixels[:1, :29, :71]
    images = (torch.from_numpy(odd).float() / 255 - torch.tensor(loaded.normalisation.mean)) / torch.tensor(
        loaded.normalisation.std
    )
    with torch.no_grad():
        expected = checkpoint.build(loaded)(images.permute(0, 3, 1, 2)).numpy()

    assert network(odd) == pytest.approx(expected, abs=1e-5)


def test_every_format_is_scored_again_and_scores_what_training_logged(
    tiny_checkpoint: Path, tiny_export: tuple[Path, Exported]
) -> None:
    directory, exported = tiny_export
    logged = checkpoint.load(tiny_checkpoint).metrics
    described = json.loads((directory / "export.json").read_text())

    assert set(exported.formats) == {"safetensors", "pt2", "onnx"}
    assert exported.metrics == pytest.approx(logged, abs=1e-3)
    for name, found in exported.formats.items():
        assert (directory / found.file).is_file()
        assert found.parity < 1e-5, name
        assert described["formats"][name]["scores"] == pytest.approx(logged, abs=1e-3)
    assert "test/mean_iou" in exported.test_metrics
    assert described["test_metrics"] == exported.test_metrics


def test_the_snippets_of_the_model_card_run_and_agree(
    tiny_export: tuple[Path, Exported],
    pixels: Pixels,
    logits: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny_export[0])
    card = Path("README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)

    assert len(snippets) == 3
    for snippet in snippets:
        names = {"pixels": pixels, "torch": torch}
        exec(snippet, names)  # noqa: S102 - this is what the card tells people to run
        assert np.asarray(names["logits"]) == pytest.approx(logits, abs=1e-4 * float(np.ptp(logits)))


def test_the_model_card_says_what_a_reader_must_know(tiny_export: tuple[Path, Exported]) -> None:
    card = (tiny_export[0] / "README.md").read_text()

    for word in (
        "scenes",
        "road",
        "Terms:",
        "iou_road",
        "test split",
        "street0000",
        '"learning_rate"',
        "adam",
    ):
        assert word in card
    for image in re.findall(r"\((samples/[^)]+)\)", card):
        with Image.open(tiny_export[0] / image) as opened:
            assert opened.size == (3 * 96 + 4, 32)
    assert len(list((tiny_export[0] / "samples").iterdir())) == 3


def test_no_file_of_an_export_tells_where_it_was_made(
    tiny_checkpoint: Path, tiny_export: tuple[Path, Exported]
) -> None:
    places = [str(tiny_checkpoint.parent).encode(), str(Path(fcn.__file__).parent).encode()]

    for path in tiny_export[0].rglob("*"):
        if path.is_file():
            assert not [place for place in places if place in path.read_bytes()], path


def test_an_export_starts_another_run(
    make_checkpoint: MakeCheckpoint, tiny_export: tuple[Path, Exported], tmp_path: Path
) -> None:
    # weights = EXPORT reads normalisation and weights from it.
    again = make_checkpoint(tmp_path / "checkpoint", weights=str(tiny_export[0]))

    assert checkpoint.load(again).metrics["val/mean_iou"] > 0


def test_a_score_that_is_not_the_logged_one_fails_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    changed = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, changed)
    description = json.loads((changed / "config.json").read_text())
    description["metrics"]["val/mean_iou"] += 0.02
    (changed / "config.json").write_text(json.dumps(description))

    with pytest.raises(ExportError, match=r"safetensors, scored again in float32: val/mean_iou must be the logged"):
        export(changed, tmp_path / "out", device=CPU)

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_logits_that_differ_fail_with_file_rule_and_value(
    tiny_export: tuple[Path, Exported], pixels: Pixels, logits: npt.NDArray[np.float32]
) -> None:
    network = open_network(read_export(tiny_export[0]), "onnx")
    span = np.ptp(logits)

    assert logits_parity("onnx", network, pixels, logits) < 1e-5
    with pytest.raises(ExportError, match=r"model\.onnx: its logits must be the checkpoint's to 0.001 of .* 0.002"):
        logits_parity("onnx", lambda images: network(images) + np.float32(0.002 * span), pixels, logits)
    with pytest.raises(ExportError, match="nan"):
        logits_parity("onnx", lambda images: network(images) * np.float32(np.nan), pixels, logits)


def test_a_run_in_bfloat16_is_repeated_in_bfloat16(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    loaded = checkpoint.load(make_checkpoint(tmp_path / "checkpoint", precision="bfloat16"))
    cache = open_cache(loaded.config)

    check_score_repeats(loaded, cache, loaded.config, CPU, float32_score={})  # the score in float32 is not asked for

    loaded.metrics["val/mean_iou"] += 0.002
    with pytest.raises(ExportError, match="the checkpoint, scored again in bfloat16"):
        check_score_repeats(loaded, cache, loaded.config, CPU, float32_score={})


def test_a_standardising_network_exports_in_every_format_and_is_opened_as_one(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    made = make_checkpoint(tmp_path / "checkpoint", standardise="image")

    exported = export(made, tmp_path / "export")

    network = {"classes": 2, "width": 0.0625, "fc_width": 16, "skip_scaling": "none", "standardise": "image"}
    assert list(read_export(tmp_path / "export").network.items()) == list(network.items())
    assert set(exported.formats) == {"safetensors", "pt2", "onnx"}
    for name, found in exported.formats.items():
        assert found.parity < 1e-5, name
    assert exported.metrics["val/mean_iou"] == pytest.approx(checkpoint.load(made).metrics["val/mean_iou"], abs=1e-3)


def test_a_taken_output_is_refused_and_left_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(InputError, match="out must be new or empty, got one that isn't: choose another"):
        export(tiny_checkpoint, tmp_path / "out", device=CPU)

    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_no_checkpoint_and_a_damaged_export_are_named(tiny_export: tuple[Path, Exported], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkpoint"):
        export(tmp_path / "nowhere", tmp_path / "out", device=CPU)
    with pytest.raises(InputError, match="is no export"):
        read_export(tmp_path)

    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_export[0], damaged)
    opened = read_export(damaged)
    (damaged / "weights.safetensors").write_bytes(b"\x80\x04 a pickle, perhaps")
    with pytest.raises(InputError, match=r"weights\.safetensors can't be read"):
        open_network(opened)
    (damaged / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx can't be read"):
        open_network(opened, "onnx")
    (damaged / "export.json").write_text('{"format_version": 2}')
    with pytest.raises(InputError, match="format_version must be 1, got 2"):
        read_export(damaged)
    (damaged / "export.json").write_text('{"format_version": 1')
    with pytest.raises(InputError, match="is damaged"):
        read_export(damaged)
