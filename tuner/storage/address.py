"""Addresses without their secrets, as they may be shown and written down.

Of USER:PASSWORD@ (or KEY:SECRET@) the password is hidden. A user alone is hidden as a token, except in a database's
address. In a query, each value whose name looks like a secret's is hidden.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

# Up to the last @, since a secret may hold any character: AWS secrets have slashes, where a strict URI parser would end
# the host name. One slash instead of two is a common typing mistake.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_AUTHORITY = re.compile(rf"({_SCHEME.pattern})(.*)@", re.DOTALL)
_HOST_WITH_PORT = re.compile(r"(?!s3)[A-Za-z0-9+.-]+://[^:/?#@]+:\d+[/?#]")  # a bucket has none
_QUERY = re.compile(r"(?i)[?&;][^=&;?#]*(?:secret|token|pass|pwd|key|cred|sig)[^=&;?#]*=([^&;#]+)")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>]+")
_SECRET_NAME = re.compile(r"(?i)(?:^|.*[^a-z])(?:secret|token|password|passwd|pwd|credentials?|(?:api|access)_?key)")
_DATABASES = ("postgres", "mysql", "mssql")


def without_secrets(uri: str) -> str:
    """The address with each secret replaced by ***."""
    shown, rest = "", 0
    for start, end in _secrets(uri):
        shown, rest = shown + uri[rest:start] + HIDDEN, end
    return shown + uri[rest:]


def without_secrets_in(text: str) -> str:
    """A text with each address in it replaced by `without_secrets` of it."""
    return _IN_TEXT.sub(lambda match: without_secrets(match[0]), text)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name is a secret itself: hub_token, PASSWORD; not max_tokens."""
    return bool(_SECRET_NAME.fullmatch(name))


def redacted(text: str, uri: str) -> str:
    """A text (an error message, say) with the secrets of this address replaced by ***."""
    text = text.replace(uri, without_secrets(uri))
    for start, end in _secrets(uri):
        for secret in (uri[start:end], unquote(uri[start:end])):
            text = text.replace(secret, HIDDEN)
    return text


def _secrets(uri: str) -> list[tuple[int, int]]:
    """Start and end of each secret in an address, in order."""
    if not _SCHEME.match(uri):
        return []
    found = []
    authority = _AUTHORITY.match(uri)
    # HOST:PORT/path@version has no user and password.
    if authority and not _HOST_WITH_PORT.match(uri):
        start, end = authority.span(2)
        user, colon, password = authority[2].partition(":")
        if colon:
            found.append((end - len(password), end))
        elif "/" not in user and not authority[1].startswith(_DATABASES):
            found.append((start, end))
    behind = found[-1][1] if found else 0
    found += [match.span(1) for match in _QUERY.finditer(uri, behind)]
    return [(start, end) for start, end in found if end > start]
