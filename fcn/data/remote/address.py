"""What `data_dir` may name besides a folder of this machine: the URL of a folder elsewhere, or of an archive."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fcn.data.remote.archives import SUFFIXES
from fcn.errors import InputError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_WEB = ("http", "https")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SECRET_IN_QUERY = re.compile(r"(?i)[?&;][^=&;#]*(?:secret|token|pass|pwd|key|cred|sig)[^=&;#]*=")
# A port is no password, although an @ may follow in the path; a bucket has none.
_PORT = re.compile(r"(?!s3:|gs:)[\w+.-]+://(?:\[[0-9a-fA-F:.]*\](?::\d+)?|[^/?#@:]+:\d+)(?:[/?#]|$)")
_WHERE_SECRETS_GO = {
    "s3": "keys are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from ~/.aws/credentials",
    "http": "a password is read from ~/.netrc (machine HOST login USER password PASSWORD)",
    "https": "a password is read from ~/.netrc (machine HOST login USER password PASSWORD)",
}


@dataclass(frozen=True)
class Address:
    """A URL that data can be fetched from.

    url: without its fragment. archive: whether it names an archive, else a folder. sha256: what the archive must have.
    """

    url: str
    archive: bool
    sha256: str | None

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def web(self) -> bool:
        """Whether a web server has it."""
        return self.scheme in _WEB

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that a file:// names, which nothing has to be fetched of."""
        return Path(unquote(urlsplit(self.url).path)) if self.scheme == "file" and not self.archive else None

    @property
    def place(self) -> str:
        """The URL without its query, for messages: a file's name may be appended."""
        return self.url.partition("?")[0].rstrip("/")

    @property
    def key(self) -> str:
        """A name for a folder of this machine that no other URL has, and that a person recognises."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", unquote(self.place).rpartition("/")[2])[:40]
        return f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"


def read_address(data_dir: str) -> Address | None:
    """The URL in data_dir; None if it is a path.

    Raises InputError, without the secret, if there is a password, key or token in it, since data_dir is written into
    checkpoints and shown; and if it is of neither a folder that can be listed nor an archive.
    """
    if found := _ONE_SLASH.match(data_dir):
        raise InputError(f"data_dir: a URL has two slashes after its first colon, got one: write {found[1]}://…")
    found = _URL.match(data_dir)
    if found is None:
        return None
    scheme = found[1].lower()
    if _has_secret(data_dir, scheme):
        how = _WHERE_SECRETS_GO.get(scheme, "credentials are read from the environment, as the service documents it")
        raise InputError(
            f"data_dir: {scheme}://…: must hold no password, key or token, since it is written into checkpoints and "
            f"shown: leave it out; {how}"
        )
    url, mark, fragment = data_dir.partition("#")
    if "::" in url and url.count("://") > 1:
        raise InputError(f"data_dir: {url}: must be one address, got several joined by ::, which isn't supported")
    if not url[found.end() :].strip("/"):
        raise InputError(f"data_dir: {url}: must name a bucket or a host: add its name")
    if scheme == "file" and not url[found.end() :].startswith("/"):
        raise InputError(f"data_dir: {url}: has three slashes before a path of this machine: write file:///FOLDER")
    archive = url.partition("?")[0].lower().endswith(SUFFIXES)
    sum_given = _SHA256.fullmatch(fragment)
    if mark and not (archive and sum_given):
        raise InputError(
            f"data_dir: {url}: only an archive's checksum may follow #, as in {url}#sha256=64_DIGITS, got "
            f"{fragment!r}: write %23 for a # in a name"
        )
    if scheme in _WEB and not archive:
        raise InputError(
            f"data_dir: {url}: a web server doesn't say which files a folder has: give the URL of an archive "
            f"({', '.join(SUFFIXES)}), or of a bucket (s3://BUCKET/FOLDER)"
        )
    return Address(url if archive else url.rstrip("/"), archive, sum_given[1].lower() if sum_given else None)


def _has_secret(url: str, scheme: str) -> bool:
    if _SECRET_IN_QUERY.search(url):
        return True
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if at:  # a user's name alone is no secret where hosts or containers have users
        return ":" in user or scheme in ("s3", "gs", *_WEB)
    # AWS's secrets may hold slashes, where the host's name seems to end.
    return ":" in authority and "@" in url and not _PORT.match(url)
