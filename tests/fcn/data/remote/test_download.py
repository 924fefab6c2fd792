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

from fcn.cli.app import main
from fcn.data.remote.archives import RECORD
from fcn.data.remote.download import ATTEMPTS, Archive, download
from fcn.errors import InputError


class Server:
    """A web server for one file. breaks_after: bytes that each connection brings before it breaks."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.breaks_after: list[int] = []
        self.ranges: list[str | None] = []
        self.etag: str | None = '"one"'
        self.serves_ranges = True
        self.heeds_if_range = True
        self.range_begins_at: int | None = None  # instead of where it was asked to
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
        same = handler.headers.get("If-Range") == self.etag or not self.heeds_if_range
        if wanted and self.serves_ranges and same:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            first = first if self.range_begins_at is None else self.range_begins_at
        if first and first >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[first:]
        handler.send_response(206 if first else 200)
        if self.announces_length:
            handler.send_header("Content-Length", str(len(body)))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
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


def gives_up(server: Server, folder: Path, after: int = 400_000) -> None:
    """A download that the network ends: kitti.part and its notes stay."""
    server.breaks_after = [after] + [0] * ATTEMPTS
    with pytest.raises(InputError, match="run the same command again"):
        fetch(server, folder)
    server.ranges.clear()


def test_a_changed_file_is_not_glued_by_a_server_that_heeds_no_condition(server: Server, tmp_path: Path) -> None:
    gives_up(server, tmp_path / "kitti")
    server.heeds_if_range = False
    server.content, server.etag = zip_of({"data_road/a.txt": NOISE[::-1]}), '"two"'
    fetch(server, tmp_path / "kitti")
    assert server.ranges == ["bytes=400000-", None]
    assert (tmp_path / "kitti/a.txt").read_bytes() == NOISE[::-1]


def test_another_part_than_was_asked_for_is_not_glued_either(server: Server, tmp_path: Path) -> None:
    gives_up(server, tmp_path / "kitti")
    server.range_begins_at = 300_000
    fetch(server, tmp_path / "kitti")
    assert server.ranges == ["bytes=400000-", None]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


@pytest.mark.parametrize("notes", [b"", b'{"url": "htt', b"[1, 2]", b"\xff\xfe", b"null"])
def test_torn_notes_of_a_download_start_it_from_the_beginning(server: Server, tmp_path: Path, notes: bytes) -> None:
    gives_up(server, tmp_path / "kitti")
    (tmp_path / "kitti.part.json").write_bytes(notes)
    fetch(server, tmp_path / "kitti")
    assert server.ranges == [None]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE
    assert [path.name for path in tmp_path.iterdir()] == ["kitti"]


def test_more_bytes_than_the_archive_has_start_from_the_beginning(server: Server, tmp_path: Path) -> None:
    gives_up(server, tmp_path / "kitti")
    with (tmp_path / "kitti.part").open("ab") as file:
        file.write(bytes(len(server.content)))
    fetch(server, tmp_path / "kitti")
    assert server.ranges == [f"bytes={400_000 + len(server.content)}-", None]
    assert (tmp_path / "kitti/training/image_2/um_000000.png").read_bytes() == NOISE


def test_a_torn_record_of_a_data_set_is_a_folder_with_files(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "kitti")
    (tmp_path / "kitti" / RECORD).write_text('{"url": "htt')
    with pytest.raises(InputError, match="must be empty or new"):
        fetch(server, tmp_path / "kitti")


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


def test_the_folder_itself_may_be_a_member_of_the_archive(server: Server, tmp_path: Path) -> None:
    server.content = zip_of({"./": b"", "./data_road/a.txt": b"a", "data_road/./b.txt": b"b"})
    fetch(server, tmp_path / "kitti")
    assert sorted(path.name for path in (tmp_path / "kitti").iterdir()) == ["a.txt", "b.txt", RECORD]


def encrypted(content: bytes) -> bytes:
    """A zip whose members say that they are encrypted: the flag in the local and in the central header."""
    marked = bytearray(content)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = marked.find(signature)
        while place >= 0:
            marked[place + offset] |= 1
            place = marked.find(signature, place + 1)
    return bytes(marked)


def test_an_encrypted_archive_is_told_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    server.content = encrypted(zip_of({"data_road/a.txt": b"secret"}))
    with pytest.raises(InputError, match=r"is encrypted \('data_road/a.txt' needs a password\); it was removed"):
        fetch(server, tmp_path / "kitti")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_told_alike_however_the_archive_is_compressed(server: Server, tmp_path: Path, method: int) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression=method) as archive:
        archive.writestr("data_road/a.txt", NOISE[:50_000])
    damaged = bytearray(target.getvalue())
    damaged[60:100] = b"\xff" * 40
    server.content = bytes(damaged)
    with pytest.raises(InputError, match=r"damaged archive .*it was removed: fetch it again"):
        fetch(server, tmp_path / "kitti")
    assert list(tmp_path.iterdir()) == []


def test_two_members_that_want_one_place_are_damage(server: Server, tmp_path: Path) -> None:
    server.content = zip_of({"data_road/a": b"a file", "data_road/a/b": b"in a folder of its name"})
    with pytest.raises(InputError, match="damaged archive"):
        fetch(server, tmp_path / "kitti")
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_an_archive_is_removed(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(InputError, match=r"damaged archive \(it is neither a zip nor a tar file\); it was removed"):
        fetch(server, tmp_path / "kitti")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_the_command_runs_in_is_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="must not be the folder that the command runs in"):
        fetch(server, Path())
    assert (server.ranges, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("url", ["data_road.zip", "http://host:port/a.zip", "http://127.0.0.1/a b.zip", "http://h/ü"])
def test_what_is_no_address_is_told_at_once(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "kitti_road", "--to", str(tmp_path / "kitti"), "--url", url]) == 2
    assert capsys.readouterr().err.startswith(f"error: {url}: is no address to fetch from")


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
    progress_reports: list[tuple[int, int | None]] = []
    download(
        Archive(server.url, "*"),
        tmp_path / "kitti",
        progress=lambda *now: progress_reports.append(now),
        pause_seconds=0,
    )
    assert progress_reports[-1] == (len(server.content), len(server.content))
    assert [done for done, _ in progress_reports] == sorted(done for done, _ in progress_reports)


def test_the_command_fetches_from_a_mirror_and_prints_the_sum(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "kitti_road", "--to", str(tmp_path / "kitti"), "--url", server.url]) == 0
    assert hashlib.sha256(server.content).hexdigest() in capsys.readouterr().out
    assert (tmp_path / "kitti/training/image_2/um_000000.png").is_file()


def test_the_command_ends_with_two_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "kitty", "--to", str(tmp_path / "kitti")]) == 2
    assert capsys.readouterr().err == "error: data set: must be one of kitti_road, camvid, got 'kitty'\n"
