"""Which URLs data_dir may hold, and that a refused one's secret is told to nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn.config import Config
from fcn.data.remote.address import read_address
from fcn.errors import InputError

SUM = "0123456789abcdef" * 4


@pytest.mark.parametrize("path", ["frames", "/data/frames", "data/2024-01-01T10:00", "~/frames", "a b#c%d/ü"])
def test_a_path_is_no_url(path: str) -> None:
    assert read_address(path) is None


@pytest.mark.parametrize(
    ("url", "archive"),
    [
        ("s3://bucket", False),
        ("s3://bucket/streets/", False),
        ("s3://bucket/streets@v2", False),
        ("s3://bucket/10:30@noon/streets?region=us-east-1&endpoint_override=127.0.0.1:9000&scheme=http", False),
        ("s3://bucket/my streets/ü", False),
        ("gs://bucket/streets", False),
        ("abfs://container@account.dfs.core.windows.net/streets", False),
        ("sftp://me@host/streets", False),
        ("memory://streets", False),
        ("s3://bucket/streets.tar.gz", True),
        ("https://host/streets.zip", True),
        ("https://host:8443/STREETS.TGZ?download=1", True),
        ("http://[::1]:8000/a@b.tar", True),
    ],
)
def test_a_url_names_a_folder_or_an_archive(url: str, archive: bool) -> None:
    found = read_address(url)
    assert found is not None
    assert (found.archive, found.sha256) == (archive, None)


def test_an_archive_may_have_its_checksum() -> None:
    found = read_address(f"https://host/streets.zip#sha256={SUM.upper()}")
    assert found is not None
    assert (found.url, found.sha256) == ("https://host/streets.zip", SUM)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:S3CRET@bucket/streets",
        "s3://AKIA:S3/CR/ET@bucket/streets",
        "s3://S3CRET@bucket/streets",
        "https://me:S3CRET@host/streets.zip",
        "https://S3CRET@host/streets.zip",
        "https://host/streets.zip?X-Amz-Signature=S3CRET",
        "https://host/streets.zip?a=1&token=S3CRET",
        "abfs://container@account.dfs.core.windows.net/streets?sig=S3CRET",
        "sftp://me:S3CRET@host/streets",
        "https://me:S3CRET@[::1]/streets.zip",
        "s3://AKIA:12345/S3CRET@bucket/streets",
        "s3:/AKIA:S3CRET@bucket/streets",
    ],
)
def test_a_secret_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(InputError) as caught:
        read_address(url)
    said = str(caught.value)
    assert "must hold no password, key or token" in said or "two slashes" in said
    assert not any(part in said for part in ("S3CRET", "AKIA", "CR/ET"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:/bucket/streets", "a URL has two slashes after its first colon, got one: write s3://…"),
        ("s3://", "must name a bucket or a host"),
        ("https://host/streets", "a web server doesn't say which files a folder has: give the URL of an archive"),
        ("https://host/streets/", r"\(\.zip, \.tar, .*\), or of a bucket"),
        ("s3://bucket/a#b", "write %23 for a # in a name"),
        ("https://host/a.zip#sha256=12", "only an archive's checksum may follow #"),
        ("https://host/a.zip#", "only an archive's checksum may follow #"),
        ("zip://a::s3://bucket/a.zip", "must be one address"),
        ("file://streets", "write file:///FOLDER"),
    ],
)
def test_another_url_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_address(url)


def test_a_path_that_python_made_of_a_url_is_told_apart_from_a_folder() -> None:
    config = Config(data_dir=Path("s3://bucket/streets"))
    assert config.data_dir is not None
    with pytest.raises(InputError, match="two slashes"):
        read_address(config.data_dir)


def test_every_url_has_a_folder_of_its_own() -> None:
    urls = ["s3://a/streets", "s3://b/streets", "s3://a/streets?region=us-east-1", "s3://a/my streets ü", "s3://a"]
    keys = [found.key for url in urls if (found := read_address(url))]
    assert len(set(keys)) == len(urls)
    assert all(key.isascii() and "/" not in key and " " not in key for key in keys)
