"""Addresses as they may be shown: what is secret in them is not."""

from __future__ import annotations

import pytest

from tuner.storage.address import is_secret_name, redacted, without_secrets, without_secrets_in


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://u:secret@host:5000/x?y=1", "http://u:***@host:5000/x?y=1"),
        ("https://t0ken@host/x", "https://***@host/x"),
        ("postgresql://u:p@ss@host/db", "postgresql://u:***@host/db"),
        (
            "postgresql+psycopg2://u:p/s?s@host/db?sslmode=require",
            "postgresql+psycopg2://u:***@host/db?sslmode=require",
        ),
        ("postgresql://u:secret@host/db?sslpassword=other", "postgresql://u:***@host/db?sslpassword=***"),
        ("s3://KEY:a/b+c@bucket/x?region=r", "s3://KEY:***@bucket/x?region=r"),
        ("s3://KEY:1/b@bucket/x", "s3://KEY:***@bucket/x"),
        ("s3://KEY@bucket/x", "s3://***@bucket/x"),
        ("s3://b/x?access_key=A&secret_key=S&region=r", "s3://b/x?access_key=***&secret_key=***&region=r"),
        ("s3:/KEY:SECRET@bucket/x", "s3:/KEY:***@bucket/x"),
        # Nothing secret is in these.
        ("http://host:5000", "http://host:5000"),
        ("http://host:5000/people/a@b", "http://host:5000/people/a@b"),
        ("postgresql://user@host:5432/db", "postgresql://user@host:5432/db"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("s3://bucket/a@b?endpoint_override=host:9000", "s3://bucket/a@b?endpoint_override=host:9000"),
        ("/plain/p@th:x?key=1", "/plain/p@th:x?key=1"),
    ],
)
def test_an_address_is_written_down_without_its_secrets(uri: str, shown: str) -> None:
    assert without_secrets(uri) == shown


def test_an_error_that_repeats_the_address_or_its_password_is_shown_without_them() -> None:
    uri = "http://u:se%2Fcret@host/x?token=t0k"
    text = f"can't reach {uri}: user u, password se/cret, t0k"
    assert redacted(text, uri) == "can't reach http://u:***@host/x?token=***: user u, password ***, ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--tracking-uri=http://me:s3cret@host:5000", "--tracking-uri=http://me:***@host:5000"),
        ("fixed.frames=['s3://K:S/x@a/b', 's3://K:S/y@b']", "fixed.frames=['s3://K:***@a/b', 's3://K:***@b']"),
        ("see http://host/a, then mail me@host", "see http://host/a, then mail me@host"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_addresses_in_a_text_are_shown_without_their_secrets(text: str, shown: str) -> None:
    assert without_secrets_in(text) == shown


def test_a_config_field_that_is_a_secret_is_recognised_by_its_name() -> None:
    secret = ["hub_token", "token", "DB_PASSWORD", "api_key", "aws.secret", "access_key"]
    plain = ["max_tokens", "tokenizer", "keep_probability", "sigma", "monkey", "batch_size", "passes"]
    assert [name for name in (*secret, *plain) if is_secret_name(name)] == secret
