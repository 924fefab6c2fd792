"""An archive arrives whole or not at all, however often the connection breaks."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fcn.data import main
from fcn.download import ATTEMPTS, RECORD, Archive, download
from fcn.errors import InputError


class Server:
    """A web server for one file. breaks_after: bytes that each connection brings before it breaks."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.breaks_after: list[int] = []
        self.ranges: list[str | None] = []
        self.etag: str | None = '"one"'
        self.serves_ranges = True
        self.announces_length = True
        self.status = 200
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/data_road.zip"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        if self.status != 200:
            handler.send_error(self.status)
            return
        first = 0
        if wanted and self.serves_ranges and handler.headers.get("If-Range") == self.etag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if first and first >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[first:]
        handler.send_response(206 if first else 200)
        if self.announces_length:
            handler.send_header("Content-Length", str(len(body)))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(body[: self.breaks_after.pop(0)] if self.breaks_after else body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def zip_of(files: dict[str, bytes], link: str | None = None) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return target.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, 900_000, dtype=np.uint8).tobytes()
FILES = {
    "data_road/training/image_2/um_000000.png": NOISE,
    "data_road/testing/calib/um_000000.txt": b"P2: 1 0\n",
    "data_road/": b"",
    "readme.txt": b"beside the root",
}


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server(zip_of(FILES))
    yield started
    started.close()


def fetch(server: Server, folder: Path, sha256: str | None = None) -> str:
    return download(Archive(server.url, "data_road"), folder, sha256=sha256, pause_seconds=0)


def test_the_root_of_the_archive_is_unpacked_and_its_sum_kept(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(server.content).hexdigest()
    assert fetch(server, tmp_path / "kitti", digest) == digest
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE
    assert not (tmp_path / "kitti/readme.txt").exists()
    record = json.loads((tmp_path / "kitti" / RECORD).read_text())
    assert record == {"url": server.url, "sha256": digest, "bytes": len(server.content)}
    assert [path.name for path in tmp_path.iterdir()] == ["kitti"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [300_000, 200_000]
    fetch(server, tmp_path / "kitti")
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


def test_a_download_that_gave_up_goes_on_in_the_next_call(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [400_000] + [0] * ATTEMPTS
    with pytest.raises(InputError, match=r"400000 bytes are in .*kitti.part and are kept: run the same command again"):
        fetch(server, tmp_path / "kitti")
    assert not (tmp_path / "kitti").exists()
    server.ranges.clear()
    fetch(server, tmp_path / "kitti")
    assert server.ranges == ["bytes=400000-"]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


def test_another_file_at_the_same_place_is_not_glued_to_the_first(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [400_000] + [0] * ATTEMPTS
    with pytest.raises(InputError):
        fetch(server, tmp_path / "kitti")
    server.content, server.etag = zip_of({"data_road/a.txt": NOISE[::-1]}), '"two"'
    fetch(server, tmp_path / "kitti")
    assert (tmp_path / "kitti/a.txt").read_bytes() == NOISE[::-1]


@pytest.mark.parametrize("lacks", ["serves_ranges", "etag"])
def test_a_server_that_can_not_go_on_starts_from_the_beginning(server: Server, tmp_path: Path, lacks: str) -> None:
    setattr(server, lacks, None if lacks == "etag" else False)
    server.breaks_after = [300_000]
    fetch(server, tmp_path / "kitti")
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


def test_a_finished_download_is_not_repeated(server: Server, tmp_path: Path) -> None:
    digest = fetch(server, tmp_path / "kitti")
    server.ranges.clear()
    assert fetch(server, tmp_path / "kitti", digest) == digest
    assert server.ranges == []


def test_a_whole_file_that_was_not_unpacked_yet_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "kitti.part").write_bytes(server.content)
    notes = {"url": server.url, "version": server.etag, "length": len(server.content)}
    (tmp_path / "kitti.part.json").write_text(json.dumps(notes))
    fetch(server, tmp_path / "kitti")
    assert server.ranges == [f"bytes={len(server.content)}-"]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


def test_a_wrong_sum_is_told_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"must have sha256 {'0' * 64}, got {hashlib.sha256(server.content).hexdigest()}"
    ):
        fetch(server, tmp_path / "kitti", "0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../evil.txt", "a path that leaves the folder"),
        ("data_road/../../evil.txt", "a path that leaves the folder"),
        ("/evil.txt", "a path that leaves the folder"),
        ("data_road\\..\\evil.txt", "a path that leaves the folder"),
        ("C:/evil.txt", "a path that leaves the folder"),
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(server: Server, tmp_path: Path, name: str, sentence: str) -> None:
    server.content = zip_of({**FILES, name: b"evil"})
    with pytest.raises(InputError, match=sentence):
        fetch(server, tmp_path / "deep" / "kitti")
    assert not list(tmp_path.rglob("evil*"))
    assert not (tmp_path / "deep" / "kitti").exists()


def test_a_link_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = zip_of(FILES, link="data_road/link")
    with pytest.raises(InputError, match=r"holds a link, 'data_road/link'"):
        fetch(server, tmp_path / "kitti")
    assert not (tmp_path / "kitti").exists()


def test_a_damaged_archive_is_removed_and_nothing_is_unpacked(server: Server, tmp_path: Path) -> None:
    damaged = bytearray(server.content)
    damaged[5000:5100] = bytes(100)
    server.content = bytes(damaged)
    with pytest.raises(InputError, match=r"damaged archive .*it was removed: fetch it again"):
        fetch(server, tmp_path / "kitti")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_something_else_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = zip_of({"other/a.txt": b"a"})
    with pytest.raises(InputError, match="must hold files under data_road/, got none"):
        fetch(server, tmp_path / "kitti")


def test_a_folder_with_files_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="must be empty or new"):
        fetch(server, tmp_path)
    assert server.ranges == []


def test_a_refusing_server_is_named_without_further_attempts(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(InputError, match="the server refuses: 404"):
        fetch(server, tmp_path / "kitti")
    assert len(server.ranges) == 1


def test_nobody_listening_is_told_after_a_few_attempts(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(InputError, match=r"can't be fetched: .*refused"):
        fetch(server, tmp_path / "kitti")


def test_progress_tells_bytes_so_far_of_bytes_in_all(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    download(Archive(server.url, "*"), tmp_path / "kitti", progress=lambda *now: told.append(now), pause_seconds=0)
    assert told[-1] == (len(server.content), len(server.content))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_command_fetches_from_a_mirror_and_prints_the_sum(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "kitti_road", "--to", str(tmp_path / "kitti"), "--url", server.url]) == 0
    assert hashlib.sha256(server.content).hexdigest() in capsys.readouterr().out
    assert (tmp_path / "kitti/training/image_2/um_000000.png").is_file()


def test_the_command_ends_with_two_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "kitty", "--to", str(tmp_path / "kitti")]) == 2
    assert capsys.readouterr().err == "error: data set: must be one of kitti_road, camvid, got 'kitty'\n"
