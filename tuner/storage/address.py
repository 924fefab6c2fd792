"""Addresses with secrets in them, as they may be shown and written down.

Of a user and a password (or a key and its secret) the user stays; one that stands alone is a token, but for a
database's, whose user name alone is no secret. In a query, what is named like a secret is one.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

# Up to the last @, whatever a secret holds: those of AWS have slashes, which end a host's name where a URI is read by
# the letter. One slash is a mistyped two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_AUTHORITY = re.compile(rf"({_SCHEME.pattern})(.*)@", re.DOTALL)
_HOST_WITH_PORT = re.compile(r"(?!s3)[A-Za-z0-9+.-]+://[^:/?#@]+:\d+[/?#]")  # a bucket has none
_QUERY = re.compile(r"(?i)[?&;][^=&;?#]*(?:secret|token|pass|pwd|key|cred|sig)[^=&;?#]*=([^&;#]+)")
_DATABASES = ("postgres", "mysql", "mssql")


def without_secrets(uri: str) -> str:
    """An address as it may be written down: each secret in it becomes ***."""
    shown, rest = "", 0
    for start, end in _secrets(uri):
        shown, rest = shown + uri[rest:start] + HIDDEN, end
    return shown + uri[rest:]


def redacted(text: str, uri: str) -> str:
    """A text, such as an error's, that may hold an address or a secret of it, without the secret."""
    text = text.replace(uri, without_secrets(uri))
    for start, end in _secrets(uri):
        for secret in (uri[start:end], unquote(uri[start:end])):
            text = text.replace(secret, HIDDEN)
    return text


def _secrets(uri: str) -> list[tuple[int, int]]:
    """From where to where secrets stand in an address, in order."""
    if not _SCHEME.match(uri):
        return []
    found = []
    authority = _AUTHORITY.match(uri)
    # A port and, far behind it, an @ in a path are no user and password.
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
