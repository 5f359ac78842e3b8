"""What S3 answers, or does not, becomes one of our own errors; and how it is spoken to."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import s3_servers
from botocore import exceptions
from s3fs.errors import translate_boto_error
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError
from urllib3.exceptions import ProtocolError

from tasks.errors import ConfigError, TransientError
from tasks.s3 import S3Access, split, translated

URL = {"endpoint_url": "https://s3.example"}
VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
CUT = "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"


def answered(code: str, status: int) -> exceptions.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "as asked"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return exceptions.ClientError(response, "PutObject")


@pytest.mark.parametrize(
    "reason",
    [
        answered("SlowDown", 503),
        answered("InternalError", 200),
        answered("Throttling", 400),
        answered("RequestLimitExceeded", 400),
        answered("ConditionalRequestConflict", 409),
        answered("BadDigest", 400),
        answered("429", 429),
        answered("Strange", 502),
        exceptions.EndpointConnectionError(error="name unknown", **URL),
        exceptions.ConnectTimeoutError(error="late", **URL),
        exceptions.ReadTimeoutError(error="late", **URL),
        exceptions.ConnectionClosedError(error="closed", **URL),
        exceptions.ProxyConnectionError(proxy_url="http://proxy", error="down"),
        exceptions.SSLError(error=CUT, **URL),
        exceptions.ResponseStreamingError(error="cut"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.FlexibleChecksumError(error_msg="other bytes"),
        exceptions.CredentialRetrievalError(provider="role", error_msg="late"),
        RetriesExceededError(exceptions.ReadTimeoutError(error="late", **URL)),
        S3DownloadFailedError("replaced"),
        ProtocolError("cut"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(),
        translate_boto_error(answered("SlowDown", 503)),
    ],
    ids=lambda reason: f"{type(reason).__name__}: {reason}"[:60],
)
def test_what_may_pass_is_transient(reason: Exception) -> None:
    with (
        pytest.raises(TransientError, match=r"^store\.uri: s3://bucket/x: ."),
        translated("store.uri", "s3://bucket/x"),
    ):
        raise reason


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (answered("NoSuchBucket", 404), r"was refused \(found NoSuchBucket to PutObject: as asked"),
        (answered("404", 404), "Check the spelling"),
        (answered("AccessDenied", 403), "Give this identity the right"),
        (answered("403", 403), "Give this identity the right"),
        (answered("301", 301), r"Set s3\.region"),
        (answered("PermanentRedirect", 301), r"Set s3\.region"),
        (answered("SecondLevelDomainForbidden", 403), r"Set s3\.addressing to virtual"),
        (answered("InvalidTag", 400), r"Correct s3\.tags"),
        (answered("NotImplemented", 501), "NotImplemented"),
        (exceptions.NoCredentialsError(), "no credentials for s3://bucket/x .*Sign in"),
        (exceptions.NoRegionError(), r"Set s3\.region"),
        (exceptions.ProfileNotFound(profile="other"), r"cannot be used \(found .*other"),
        (exceptions.SSLError(error=VERIFY, **URL), "not trusted .*AWS_CA_BUNDLE"),
        (exceptions.ParamValidationError(report="Invalid bucket name"), "Invalid bucket name"),
        (translate_boto_error(answered("AccessDenied", 403)), "Give this identity the right"),
        (translate_boto_error(answered("NoSuchKey", 404)), "Check the spelling of the key"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_will_not_pass_is_said_with_what_to_do(reason: Exception, advice: str) -> None:
    with (
        pytest.raises(ConfigError, match=rf"^source\.uri: .*{advice}"),
        translated("source.uri", "s3://bucket/x"),
    ):
        raise reason


@pytest.mark.parametrize("reason", [FileNotFoundError("of this disk"), OSError(28, "full")])
def test_what_is_not_of_s3_passes_through(reason: OSError) -> None:
    with pytest.raises(OSError, match=reason.args[-1]) as caught, translated("store.uri", "s3://b"):
        raise reason
    assert caught.value is reason


@pytest.mark.parametrize(
    ("addressing", "address"),
    [("virtual", "https://bucket.oss.example/key"), ("path", "https://oss.example/bucket/key")],
)
def test_the_bucket_stands_where_the_store_wants_it(
    addressing: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_servers.alone(monkeypatch)
    access = S3Access("https://oss.example", "cn-hangzhou", addressing=addressing)
    signed = access.client().generate_presigned_url(
        "get_object", Params={"Bucket": "bucket", "Key": "key"}
    )
    assert signed.startswith(f"{address}?")


def test_the_environment_can_name_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_servers.alone(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert S3Access().client().meta.endpoint_url == "http://127.0.0.1:9"
    other = S3Access("http://127.0.0.1:10", "us-east-1").client()
    assert other.meta.endpoint_url == "http://127.0.0.1:10"


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "https://", "minio"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    for make in (S3Access(endpoint).client, S3Access(endpoint).filesystem):
        with pytest.raises(ConfigError, match=r"^s3\.endpoint: not an address \(found "):
            make()


def test_addresses_are_taken_apart() -> None:
    assert split("s3://bucket/some/key/") == ("bucket", "some/key")
    assert split("s3://bucket") == ("bucket", "")
    with pytest.raises(ConfigError, match="no bucket"):
        split("s3:///key")
