"""A data set behind a URL is fetched whole, once a machine, however the network, the disk and the process fail."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from PIL import Image

from fcn.cli.app import main
from fcn.config import Config, cache_folder
from fcn.data.cache import open_cache
from fcn.data.remote import local_copy
from fcn.data.remote.local_copy import fetch, folder_of
from fcn.errors import InputError
from fcn.formats.write import export
from fcn.training.run import prepare, train
from fcn.training.snapshot import Snapshot
from tests.flaky_proxy import FlakyProxy, Way, flaky_proxy
from tests.waiting import wait_for
from tests.workloads.bucket import bucket_uri
from tests.workloads.labelled_frames import upload, write_frames
from tests.workloads.small_disk import small_disk

ROOT = Path(__file__).parents[4]
FILES = 12 * 2 + 1


def config_of(data_dir: str | Path, tmp_path: Path, **settings: Any) -> Config:
    return Config(
        **{
            "dataset": "folder", "data_dir": str(data_dir), "weights": "none", "classes": "all", "width": 0.0625,
            "fc_width": 8, "image_size": (16, 32), "precision": "float32", "cache_dir": tmp_path / "cache", **settings,
        }
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames")


@pytest.fixture
def streets(frames: Path, tmp_path: Path, bucket: str) -> str:
    """The URL of the frames in a bucket."""
    uri = bucket_uri(bucket, f"{tmp_path.name}/streets")
    upload(frames, uri)
    return uri


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    server = Web(tmp_path / "web")
    yield server
    server.close()


class Web:
    """Python's own web server of a folder. asked: the requests so far, each with its Authorization."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.asked = folder, list[tuple[str, str | None]]()
        self.wants: str | None = None
        self.sends_on_to: str | None = None
        owner = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append((self.path, self.headers.get("Authorization")))
                if owner.wants is not None and self.headers.get("Authorization") != owner.wants:
                    self.send_error(401)
                elif owner.sends_on_to is not None:
                    self.send_response(302)
                    self.send_header("Location", owner.sends_on_to)
                    self.end_headers()
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def fetched(requests: list[str]) -> list[str]:
    """The files that were fetched, by their requests."""
    return [what.rpartition("/streets/")[2] for what in requests if what.startswith("GET") and what.endswith("g")]


def watched(bucket: str, tmp_path: Path, way: Way = "500", every: int = 0) -> Any:
    """A proxy before the bucket, the URL of the frames through it, and the requests that it was asked."""
    asked: list[str] = []

    def fails(number: int, what: str) -> bool:
        asked.append(what)
        return every > 0 and number % every == 0

    return flaky_proxy(f"http://{bucket}", way, fails), asked


def through(proxy: FlakyProxy, tmp_path: Path) -> str:
    return bucket_uri(proxy.address.removeprefix("http://"), f"{tmp_path.name}/streets")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bucket_s_frames_are_the_same_pixels_as_the_folder_s(frames: Path, streets: str, tmp_path: Path) -> None:
    here = prepare(config_of(frames, tmp_path))
    there = prepare(config_of(streets, tmp_path, cache_dir=tmp_path / "other"))
    assert (there.summary, there.data, there.metrics) == (here.summary, here.data, here.metrics)
    copy = folder_of(config_of(streets, tmp_path, cache_dir=tmp_path / "other"))
    assert copy is not None
    assert contents(copy) == contents(frames)


def test_what_is_here_is_not_fetched_again_and_a_trial_asks_nothing(
    streets: str, bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proxied, asked = watched(bucket, tmp_path)
    with proxied as proxy:
        config = config_of(through(proxy, tmp_path), tmp_path)
        prepare(config)
        assert f"fetching s3://bucket/{tmp_path.name}/streets: {FILES} files, 0.0 MB, to " in capfd.readouterr().err
        assert len(fetched(asked)) == FILES - 1
        asked.clear()
        prepare(config)
        assert (fetched(asked), capfd.readouterr().err) == ([], "")
        assert asked, "prepare looks"
        asked.clear()
        open_cache(config)
        assert asked == []
    open_cache(config)  # although nobody answers


def test_a_change_at_the_source_is_noticed_and_only_what_changed_is_fetched(
    frames: Path, streets: str, bucket: str, tmp_path: Path
) -> None:
    proxied, asked = watched(bucket, tmp_path)
    with proxied as proxy:
        config = config_of(through(proxy, tmp_path), tmp_path)
        before, old = prepare(config), folder_of(config)
        assert old is not None
        kept = contents(old)
        asked.clear()
        first = min((frames / "images").iterdir()).name
        (tmp_path / "changed").mkdir()
        Image.new("RGB", (32, 20)).save(tmp_path / "changed" / first)
        upload(tmp_path / "changed", streets.replace("/streets", "/streets/images"))
        after = prepare(config)
        assert fetched(asked) == [f"images/{first}"]
    assert before.data["fingerprint"] != after.data["fingerprint"]
    assert contents(old) == kept, "a run that reads the old copy goes on"


@pytest.mark.parametrize("way", ["500", "drop", "cut"])
def test_a_bucket_that_fails_at_a_fifth_of_the_requests_brings_every_byte(
    frames: Path, streets: str, bucket: str, tmp_path: Path, way: Way
) -> None:
    proxied, _ = watched(bucket, tmp_path, way, every=5)
    with proxied as proxy:
        copy = folder_of(config_of(through(proxy, tmp_path), tmp_path))
    assert proxy.failed
    assert copy is not None
    assert contents(copy) == contents(frames)


FETCH = """
import sys
from pathlib import Path
from fcn.config import Config
from fcn.data.remote.local_copy import folder_of
print(folder_of(Config(dataset="folder", data_dir=sys.argv[1], cache_dir=Path(sys.argv[2]))))
"""


def fetching(url: str, tmp_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, url, str(tmp_path / "cache")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_fetch_that_was_killed_is_taken_up_and_whole_files_are_not_fetched_again(
    frames: Path, streets: str, bucket: str, tmp_path: Path
) -> None:
    proxied, asked = watched(bucket, tmp_path, "slow", every=2)
    with proxied as proxy:
        config = config_of(through(proxy, tmp_path), tmp_path)
        with fetching(str(config.data_dir), tmp_path) as process:
            wait_for(lambda: len([path for path in cache_folder(config).rglob("files/*") if not path.suffix]) > 3)
            process.send_signal(signal.SIGKILL)
        assert not list(cache_folder(config).rglob("newest")), "killed too late to say anything"
        whole = [path for path in cache_folder(config).rglob("files/*") if not path.suffix]
        wait_for(lambda: all(path.stat().st_size > 0 for path in whole), 5)
        asked.clear()
        copy = folder_of(config)
        assert len(set(fetched(asked))) <= FILES - len(whole)
    assert copy is not None
    assert contents(copy) == contents(frames)
    assert not list(cache_folder(config).rglob("*.part"))


def test_two_processes_at_once_fetch_each_file_once(frames: Path, streets: str, bucket: str, tmp_path: Path) -> None:
    proxied, asked = watched(bucket, tmp_path)
    with proxied as proxy:
        url = through(proxy, tmp_path)
        with fetching(url, tmp_path) as first, fetching(url, tmp_path) as second:
            found = [process.communicate(timeout=60) for process in (first, second)]
    assert found[0][0] == found[1][0] != ""
    assert sum("fetching" in error for _, error in found) == 1, found
    assert contents(Path(found[0][0].strip())) == contents(frames)
    assert len(fetched(asked)) == FILES - 1


def test_odd_names_arrive_as_they_are(tmp_path: Path, bucket: str) -> None:
    frames = tmp_path / "frames"
    for name in ("a b.txt", "100%.txt", "c#d?.txt", "ü/é.txt", "x:y/z+&=.txt", "empty", "(1) [2] 'q'.txt"):
        (frames / name).parent.mkdir(parents=True, exist_ok=True)
        (frames / name).write_bytes(b"" if name == "empty" else name.encode())
    upload(frames, bucket_uri(bucket, f"{tmp_path.name}/my%20d%C3%A4ta%23"))
    copies = [
        folder_of(config_of(bucket_uri(bucket, f"{tmp_path.name}/{name}"), tmp_path))
        for name in ("my%20d%C3%A4ta%23", "my däta%23")
    ]
    for copy in copies:
        assert copy is not None
        assert contents(copy) == contents(frames)


def test_names_that_leave_the_folder_are_refused(streets: str, bucket: str, tmp_path: Path) -> None:
    for name in ("a/../../../evil.png", "/evil.png"):
        place = f"http://{bucket}/bucket/{tmp_path.name}/streets/{name}"
        urllib.request.urlopen(urllib.request.Request(place, method="PUT", data=b"evil")).close()
    with pytest.raises(InputError, match=r"holds 'a/../../../evil.png', a name that leaves the folder"):
        fetch(config_of(streets, tmp_path))
    assert not list(tmp_path.rglob("evil*"))


def test_a_file_in_another_s_place_is_told(tmp_path: Path, bucket: str) -> None:
    for name in ("streets/images", "streets/images/a.png"):
        place = f"http://{bucket}/bucket/{tmp_path.name}/{name}"
        urllib.request.urlopen(urllib.request.Request(place, method="PUT", data=b"x")).close()
    with pytest.raises(InputError, match=r"holds 'images.*', whose place another file takes: rename one"):
        fetch(config_of(bucket_uri(bucket, f"{tmp_path.name}/streets"), tmp_path))


def test_a_mistake_in_the_data_is_told_with_the_url_where_it_can_be_mended(
    frames: Path, tmp_path: Path, bucket: str
) -> None:
    first = min((frames / "images").iterdir())
    first.write_bytes(b"no image")
    (frames / "images" / "notes.txt").write_text("left out")
    uri = bucket_uri(bucket, f"{tmp_path.name}/damaged")
    upload(frames, uri)
    with pytest.raises(InputError) as caught:
        prepare(config_of(uri, tmp_path))
    assert str(caught.value).startswith(f"s3://bucket/{tmp_path.name}/damaged/images/{first.name}: damaged")
    (frames / "masks" / first.name).unlink()
    uri = bucket_uri(bucket, f"{tmp_path.name}/unpaired")
    upload(frames, uri)
    with pytest.raises(InputError, match=f"^s3://bucket/{tmp_path.name}/unpaired/images/{first.name}: has no label"):
        prepare(config_of(uri, tmp_path))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("bucket/{folder}/nowhere?{server}", "s3://bucket/{folder}/nowhere: there is nothing: check the address"),
        ("nobucket/x?{server}", "s3://nobucket/x: can't be read: .*NO_SUCH_BUCKET.*: check the address"),
        ("bucket/{folder}/streets/classes.toml?{server}", "must be a folder or an archive, got another file"),
        ("bucket/{folder}/streets.zip?{server}", "must be an archive, got a folder"),
        ("bucket/x?regio=somewhere", "s3://bucket/x: can't be read: Unexpected query parameter .*'regio'"),
    ],
)
def test_a_wrong_address_is_told_with_what_to_do(
    frames: Path, streets: str, bucket: str, tmp_path: Path, where: str, said: str
) -> None:
    upload(frames, bucket_uri(bucket, f"{tmp_path.name}/streets.zip"))
    server = f"endpoint_override={bucket}&scheme=http&region=us-east-1"
    with pytest.raises(InputError, match=said.format(folder=tmp_path.name)):
        fetch(config_of("s3://" + where.format(folder=tmp_path.name, server=server), tmp_path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("webdav://host/x", "Install webdav4 .*here and on every node"),
        ("gs://bucket/x?retry_limit_seconds=1", "gs://bucket/x: can't be read: "),
        ("nothing://x", "nothing://x: can't be read: Protocol not known: nothing"),
    ],
)
def test_what_is_missing_for_a_file_system_is_told(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fetch(config_of(url, tmp_path))


def test_a_store_that_refuses_is_told_as_a_matter_of_credentials(tmp_path: Path) -> None:
    class Refuses(SimpleHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(InputError, match="check the credentials of this machine, and what they may read"):
                fetch(config_of(bucket_uri(f"127.0.0.1:{server.server_address[1]}", "x"), tmp_path))
        finally:
            server.shutdown()
            thread.join()


def test_a_full_disk_is_told_and_the_fetch_goes_on_when_there_is_room(tmp_path: Path, bucket: str) -> None:
    frames = write_frames(tmp_path / "large")
    for number in range(3):
        (frames / f"video{number}.bin").write_bytes(os.urandom(900_000))
    uri = bucket_uri(bucket, f"{tmp_path.name}/large")
    upload(frames, uri)
    with small_disk(tmp_path / "disk", megabytes=4) as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(2_500_000))
        config = config_of(uri, tmp_path, cache_dir=disk / "cache")
        with pytest.raises(InputError, match=r"the disk is too full for s3://bucket/.*/large, 1\.\d MB are free"):
            fetch(config)
        filler.unlink()
        copy = folder_of(config)
        assert copy is not None
        assert contents(copy) == contents(frames)


def test_a_cache_folder_that_is_a_file_is_told(streets: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"can't be written .*: set cache_dir to a folder that can"):
        fetch(config_of(streets, tmp_path, cache_dir=tmp_path / "file"))


def test_any_other_file_system_is_read_by_fsspec(frames: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in contents(frames).items():
        memory.pipe(f"/{tmp_path.name}/{name}", content)
    config = config_of(f"memory://{tmp_path.name}", tmp_path)
    before = prepare(config)
    assert before.data == prepare(config_of(frames, tmp_path)).data
    name = min((frames / "images").iterdir()).name
    memory.pipe(f"/{tmp_path.name}/images/{name}", max((frames / "images").iterdir()).read_bytes())
    assert prepare(config).data["fingerprint"] != before.data["fingerprint"]
    with pytest.raises(InputError, match="there are no files: check the address"):
        fetch(config_of("memory://nowhere", tmp_path))


def test_a_file_url_is_the_folder_itself(frames: Path, tmp_path: Path) -> None:
    spaced = frames.rename(tmp_path / "my frames")
    config = config_of(f"file://{tmp_path}/my%20frames", tmp_path)
    fetch(config)
    assert folder_of(config) == spaced
    assert not (tmp_path / "cache").exists()


def packed(frames: Path, suffix: str, above: str = "") -> bytes:
    target = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in contents(frames).items():
                archive.writestr(above + name, content)
    else:
        with tarfile.open(fileobj=target, mode="w") as tar:
            tar.add(frames, above or ".")
    if suffix in (".tar.gz", ".tar.xz"):
        return gzip.compress(target.getvalue()) if suffix == ".tar.gz" else lzma.compress(target.getvalue())
    return target.getvalue()


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
@pytest.mark.parametrize("above", ["", "streets-main/data/"])
def test_an_archive_on_the_web_is_unpacked_with_or_without_a_folder_around_it(
    frames: Path, tmp_path: Path, web: Web, suffix: str, above: str
) -> None:
    (web.folder / f"streets{suffix}").write_bytes(packed(frames, suffix, above))
    config = config_of(f"{web.url}/streets{suffix}", tmp_path)
    assert prepare(config).data == prepare(config_of(frames, tmp_path, cache_dir=tmp_path / "other")).data
    asked = len(web.asked)
    prepare(config)
    assert len(web.asked) == asked + 1, "only its headers"
    open_cache(config)
    assert len(web.asked) == asked + 1
    assert not list(cache_folder(config).rglob("*.part"))


def test_an_archive_in_a_bucket_is_unpacked(frames: Path, tmp_path: Path, bucket: str) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "streets.zip").write_bytes(packed(frames, ".zip"))
    upload(tmp_path / "up", bucket_uri(bucket, tmp_path.name))
    config = config_of(bucket_uri(bucket, f"{tmp_path.name}/streets.zip"), tmp_path)
    assert prepare(config).data == prepare(config_of(frames, tmp_path, cache_dir=tmp_path / "other")).data
    assert not any(cache_folder(config).rglob("files/*"))


def test_an_archive_that_changed_is_fetched_again(frames: Path, tmp_path: Path, web: Web) -> None:
    place = web.folder / "streets.zip"
    place.write_bytes(packed(frames, ".zip"))
    config = config_of(f"{web.url}/streets.zip", tmp_path)
    before = prepare(config)
    place.write_bytes(packed(write_frames(tmp_path / "new", 16, seed=1), ".zip"))
    assert prepare(config).data["fingerprint"] != before.data["fingerprint"]


def test_an_archive_with_a_checksum_is_held_to_it_and_asked_for_once(frames: Path, tmp_path: Path, web: Web) -> None:
    content = packed(frames, ".zip")
    (web.folder / "streets.zip").write_bytes(content)
    wrong = config_of(f"{web.url}/streets.zip#sha256={'0' * 64}", tmp_path)
    with pytest.raises(InputError, match=f"must have sha256 {'0' * 64}, got {hashlib.sha256(content).hexdigest()}"):
        prepare(wrong)
    right = config_of(f"{web.url}/streets.zip#sha256={hashlib.sha256(content).hexdigest()}", tmp_path)
    first = prepare(right)
    any_version = config_of(f"{web.url}/streets.zip", tmp_path)
    (web.folder / "streets.zip").write_bytes(packed(write_frames(tmp_path / "new", 16, seed=1), ".zip"))
    newest = prepare(any_version)
    (web.folder / "streets.zip").unlink()
    assert prepare(right) == first
    assert open_cache(right).path.name == first.data["fingerprint"]
    assert open_cache(any_version).path.name == newest.data["fingerprint"] != first.data["fingerprint"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(None, "the server refuses: 404"), ("Basic x", "the server refuses: 401 .*: user and password")],
)
def test_a_web_server_that_refuses_is_told(tmp_path: Path, web: Web, status: str | None, said: str) -> None:
    web.wants = status
    with pytest.raises(InputError, match=said):
        fetch(config_of(f"{web.url}/nowhere.zip", tmp_path))


def test_a_password_of_netrc_is_sent_to_its_host_and_to_no_other(
    frames: Path, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Web(tmp_path / "other web")
    try:
        (other.folder / "streets.zip").write_bytes(packed(frames, ".zip"))
        web.wants, web.sends_on_to = "Basic bWU6czNjcmV0", f"{other.url.replace('127.0.0.1', 'localhost')}/streets.zip"
        monkeypatch.setenv("HOME", str(tmp_path))
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine 127.0.0.1 login me password s3cret\n")
        netrc.chmod(0o600)
        prepare(config_of(f"{web.url}/streets.zip", tmp_path))
        assert {authorization for _, authorization in other.asked} == {None}
    finally:
        other.close()


def evil(add: Callable[[tarfile.TarFile], None]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        add(tar)
    return target.getvalue()


def of_kind(name: str, kind: bytes, target: str = "") -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return lambda tar: tar.addfile(info)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (evil(of_kind("../evil", tarfile.REGTYPE)), "a path that leaves the folder, '../evil'"),
        (evil(of_kind("/evil", tarfile.REGTYPE)), "a path that leaves the folder, '/evil'"),
        (evil(of_kind("evil", tarfile.SYMTYPE, "/etc/passwd")), "holds a link, 'evil'"),
        (evil(of_kind("evil", tarfile.LNKTYPE, "../../x")), "holds a link, 'evil'"),
        (evil(of_kind("evil", tarfile.FIFOTYPE)), "holds a device, 'evil'"),
        (evil(of_kind("folder", tarfile.DIRTYPE)), "must hold files, got none"),
        (evil(of_kind("a", tarfile.REGTYPE))[:-20], "damaged archive"),
        (b"<html>Please log in</html>", "neither a zip nor a tar"),
    ],
    # Of the bytes, which hold the time, each process of pytest would make other names.
    ids=["above", "absolute", "link", "hard link", "device", "folder", "damaged", "page"],
)
def test_an_archive_that_is_not_right_leaves_nothing(tmp_path: Path, web: Web, content: bytes, said: str) -> None:
    (web.folder / "streets.tar.gz").write_bytes(content)
    config = config_of(f"{web.url}/streets.tar.gz", tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        prepare(config)
    assert str(caught.value).startswith(f"{web.url}/streets.tar.gz: ")
    left = [path for path in cache_folder(config).rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert not list(tmp_path.rglob("evil"))


def test_the_commands_take_a_url(
    streets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert main(["data", streets, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "folder: 12 frames" in capsys.readouterr().out
    fields = [
        f"{key}={value}"
        for key, value in config_of(streets, tmp_path).model_dump(mode="json", exclude_unset=True).items()
    ]
    settings = [part for field in [*fields, "epochs=1", "batch_size=4"] for part in ("--set", field)]
    assert main(["train", "--output", str(tmp_path / "run"), "--device", "cpu", *settings]) == 0
    assert main(["export", str(tmp_path / "run" / "best"), "--output", str(tmp_path / "export")]) == 0
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"Fetched from s3://bucket/{tmp_path.name}/streets\n" in card
    assert "endpoint_override" not in card
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "export"), streets, "--split", "val"]) == 0
    assert f"frames of {streets}" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "export"), streets, "--output", str(tmp_path / "out")]) == 2
    assert "is a URL, and only files and folders of this machine are predicted" in capsys.readouterr().err


def test_an_export_names_its_url_and_its_config_does_not(frames: Path, tmp_path: Path) -> None:
    """Whoever trains with the export as its config fetches only what they name themselves."""
    memory = fsspec.filesystem("memory")
    for name, content in contents(frames).items():
        memory.pipe(f"/{tmp_path.name}/{name}", content)
    config = config_of(f"memory://{tmp_path.name}", tmp_path, epochs=1, masks=0)
    with pytest.raises(SystemExit):
        train(config, report=lambda _, snapshot: written(snapshot, tmp_path / "checkpoint"), device=torch.device("cpu"))
    export(tmp_path / "checkpoint", tmp_path / "export", device=torch.device("cpu"))
    described = json.loads((tmp_path / "export" / "export.json").read_text())
    assert (described["data_url"], described["config"]["data_dir"]) == (f"memory://{tmp_path.name}", None)


def written(snapshot: Snapshot | None, directory: Path) -> None:
    assert snapshot is not None
    snapshot.copy(resume=False).write(directory)
    raise SystemExit
