"""How S3 is reached: AWS itself, or a store that speaks the same protocol.

Everything of this project that talks to S3 gets its client here, so that endpoint, addressing, checksums and
retries are decided once, and so that what S3 answers becomes one of our own errors in one place. `boto3` keeps
artifacts (`store/s3.py`), `s3fs` reads sources (`sources/s3.py`). Credentials come from the environment or the
machine's role, as both libraries find them; they are never a parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from tasks.errors import ConfigError, PipelineError, TransientError

_ATTEMPTS = 5
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_TRANSIENT_CODES = frozenset(
    {
        "500",
        "502",
        "503",
        "504",
        "BadDigest",  # the bytes changed on their way
        "ConditionalRequestConflict",  # another writer of the same key is at work
        "InternalError",
        "NoSuchUpload",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)
_ADVICE = {
    "301": "Set s3.region to the region of the bucket.",
    "400": "Check the address, the region and the credentials.",
    "404": "Check the spelling of bucket and key, and the region.",
    "NoSuchBucket": "Check the spelling of the bucket, and the region.",
    "NoSuchKey": "Check the spelling of the key.",
    "403": "Give this identity the right to do it, or check bucket and region.",
    "AccessDenied": "Give this identity the right to do it.",
    "InvalidAccessKeyId": "Check the credentials of the environment.",
    "SignatureDoesNotMatch": "Check the credentials of the environment.",
    "ExpiredToken": "Sign in again: the credentials have expired.",
    "AuthorizationHeaderMalformed": "Set s3.region to the region of the bucket.",
    "IllegalLocationConstraintException": "Set s3.region to the region of the bucket.",
    "InvalidTag": "Correct s3.tags: letters, digits, spaces and _ . : / = + - @.",
    "PermanentRedirect": "Set s3.region to the region of the bucket.",
    "RequestTimeTooSkewed": "Set the clock of this machine.",
    "SecondLevelDomainForbidden": "Set s3.addressing to virtual.",
    "PathStyleDomainForbidden": "Set s3.addressing to virtual.",
}


@dataclass(frozen=True)
class S3Access:
    """How one S3 store is spoken to; the defaults are AWS."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "use_attribute_docstrings": True,
        "extra": "forbid",
        "title": "S3",
    }

    endpoint: str = ""
    """Address of an S3-compatible store, https://…; empty is AWS, or AWS_ENDPOINT_URL of the environment."""
    region: str = ""
    """Region of the bucket; empty takes that of the environment."""
    addressing: Literal["auto", "virtual", "path"] = "auto"
    """Bucket in the host name (virtual) or in the path; Aliyun OSS and Tencent COS need virtual."""
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    """Checksums in the protocol; when_required for stores that refuse aws-chunked uploads, such as Aliyun OSS."""
    kms_key: str = ""
    """Encrypt what is written with this KMS key; empty leaves it to the bucket."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of every object that is written."""

    def client(self) -> Any:
        """Return a boto3 client of S3.

        Raises:
            ConfigError: The endpoint is no address.
        """
        import boto3  # half a second: only where S3 is used

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self._endpoint(),
            region_name=self.region or None,
            config=self._config(),
        )

    def filesystem(self) -> Any:
        """Return an s3fs file system; nothing of its listings is cached between calls.

        Raises:
            ConfigError: The endpoint is no address.
        """
        import s3fs  # a second: only where S3 is read

        config = {
            "s3": {"addressing_style": self.addressing},
            "request_checksum_calculation": self.checksums,
            "response_checksum_validation": self.checksums,
            "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
        }
        client = {"region_name": self.region} if self.region else {}
        return s3fs.S3FileSystem(
            endpoint_url=self._endpoint(),
            client_kwargs=client,
            config_kwargs=config,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def _endpoint(self) -> str | None:
        if not self.endpoint:
            return None
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"s3.endpoint: not an address (found {self.endpoint!r}). Write https://host, or https://host:port."
            )
        return self.endpoint

    def _config(self) -> Any:
        from botocore.config import Config

        return Config(
            s3={"addressing_style": self.addressing},
            request_checksum_calculation=self.checksums,
            response_checksum_validation=self.checksums,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=32,
        )


class Unreachable(TransientError):
    """Nobody answers at the address: wrong or down, or the network is."""


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`; the key has no slash at either end.

    Raises:
        ConfigError: There is no bucket.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri}: no bucket (found {uri!r}). Write s3://bucket/prefix.")
    return bucket, key.strip("/")


@contextlib.contextmanager
def translated(where: str, uri: str) -> Iterator[None]:
    """Turn what boto3, its transfers and s3fs raise into our own errors; other exceptions pass through.

    Args:
        where: The knob behind the address, such as `store.uri`.
        uri: What was being reached.

    Raises:
        TransientError: Throttled, or the network or the service failed in a way that may pass.
        ConfigError: Not there, not allowed, not trusted, or no credentials.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import (
        RetriesExceededError,
        S3DownloadFailedError,
        S3ValidationError,
    )
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as reason:
        raise _answered(where, uri, reason) from reason
    except BotoCoreError as reason:
        raise _unanswered(where, uri, reason) from reason
    except RetriesExceededError as reason:
        raise TransientError(f"{where}: {uri}: {reason.last_exception}") from reason
    except (S3DownloadFailedError, S3ValidationError) as reason:  # it was replaced meanwhile
        raise TransientError(f"{where}: {uri}: {reason}") from reason
    except (ConnectionError, TimeoutError, HTTPError) as reason:
        raise TransientError(f"{where}: {uri}: {str(reason) or type(reason).__name__}") from reason
    except OSError as reason:  # s3fs hands over what S3 answered in one of these
        if not isinstance(reason.__cause__, ClientError):
            raise
        raise _answered(where, uri, reason.__cause__) from reason


def _unanswered(where: str, uri: str, reason: Exception) -> PipelineError:
    """Sort what happened before or instead of an answer."""
    from botocore import exceptions

    if isinstance(reason, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ConfigError(
            f"{where}: no credentials for {uri} (found none in the environment). "
            "Sign in, or set AWS_PROFILE or AWS_ACCESS_KEY_ID."
        )
    if isinstance(reason, exceptions.NoRegionError):
        return ConfigError(
            f"{where}: no region for {uri} (found none). Set s3.region, or AWS_REGION."
        )
    # a connection that was cut during the handshake reads as a fault of TLS too
    if isinstance(reason, exceptions.SSLError) and "EOF" not in str(reason):
        return ConfigError(
            f"{where}: {uri} is not trusted (found {reason}). "
            "Check the endpoint, or name its certificate in AWS_CA_BUNDLE."
        )
    if isinstance(reason, exceptions.ConnectionError):
        return Unreachable(f"{where}: {uri}: {reason}")
    passing = (
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
    )
    if isinstance(reason, passing):
        return TransientError(f"{where}: {uri}: {reason}")
    told = " ".join(str(reason).split())
    return ConfigError(f"{where}: {uri} cannot be used (found {told}). Check it.")


def _answered(where: str, uri: str, reason: Any) -> PipelineError:
    """Sort an answer of S3: a `ClientError`."""
    error = reason.response.get("Error", {})
    code, told = str(error.get("Code", "")), str(error.get("Message", ""))
    status = int(reason.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = f"{code} to {reason.operation_name}: {told}"
    if code in _TRANSIENT_CODES or (status >= 500 and status != 501) or status == 429:
        return TransientError(f"{where}: {uri}: {found}")
    advice = _ADVICE.get(code, "Check the address, the region and the rights.")
    return ConfigError(f"{where}: {uri} was refused (found {found}). {advice}")
