"""The notice by which a cloud announces that it takes a spot machine away, from the machine's own metadata server.

Sources: "Spot Instance interruption notices" of the Amazon EC2 User Guide (two minutes before, IMDSv2), and "Preemption
process" of Google Compute Engine's documentation of Spot VMs (30 seconds before). Only the standard library is
imported: a small process on each worker asks for it.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from datetime import datetime
from enum import StrEnum

_SECONDS = 5.0  # for an answer of a server that is on the same machine
_GOOGLE_NOTICE_SECONDS = 30.0
# A proxy that the machine has for the internet doesn't know its metadata server.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Cloud(StrEnum):
    """The clouds whose notices are known."""

    AWS = "aws"
    GCP = "gcp"


class NoMetadataError(OSError):
    """The metadata server doesn't answer, or not as the cloud's does."""


def gone_at(cloud: Cloud) -> float | None:
    """When the cloud will take this machine away, in seconds since 1970; None if it hasn't announced that.

    The servers' addresses are those of AWS_EC2_METADATA_SERVICE_ENDPOINT and GCE_METADATA_HOST, if these are set, as in
    the clouds' own libraries. Raises NoMetadataError.
    """
    try:
        return _aws() if cloud is Cloud.AWS else _gcp()
    # A server that isn't the cloud's may answer anything.
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise NoMetadataError(str(error) or type(error).__name__) from None


def _aws() -> float | None:
    server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    token = _text(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    try:
        notice = _text(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return datetime.fromisoformat(json.loads(notice)["time"]).timestamp()


def _gcp() -> float | None:
    server = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/preempted"
    preempted = _text(url, {"Metadata-Flavor": "Google"})
    if preempted not in ("TRUE", "FALSE"):
        raise ValueError(f"TRUE or FALSE was expected, got {preempted[:40]!r}")
    return time.time() + _GOOGLE_NOTICE_SECONDS if preempted == "TRUE" else None


def _text(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with _direct.open(request, timeout=_SECONDS) as answer:
        text: str = answer.read().decode()
    return text.strip()
