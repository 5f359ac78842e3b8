"""Asking an address: redirects, credentials, and what httpx raises as causes of our own.

Redirects are followed here, one by one, because one from https to http must not pass unnoticed. User and password
of an address are sent as a header to that host and taken out of the address, so that nothing which logs addresses
sees them; httpx itself logs them with their query, so its log lines pass a filter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

import httpx

from tasks.errors import ConfigError
from tasks.sources import addresses
from tasks.sources.answers import Address, Passing
from tasks.sources.patience import Patience

_REDIRECTS = 10


class _Discreet(logging.Filter):
    """Takes credentials out of the addresses that httpx logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                addresses.shown(str(value)) if isinstance(value, httpx.URL) else value
                for value in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_Discreet())


@contextlib.contextmanager
def opened(
    client: httpx.Client, address: Address, headers: Mapping[str, str], patience: Patience
) -> Iterator[tuple[httpx.Response, tuple[str, ...]]]:
    """Yield the answer of an address, its body not read yet, and the addresses that led to it, the last first.

    Raises:
        Passing: The network failed, also while the body is being read.
        ConfigError: It leads nowhere, from https to http, or to a host that is not trusted.
    """
    with _translated(address, patience):
        url = httpx.URL(address.url)
        auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        request = client.build_request("GET", url.copy_with(userinfo=b""), headers=dict(headers))
        urls = [str(request.url)]
        for _ in range(_REDIRECTS + 1):
            with contextlib.closing(client.send(request, auth=auth, stream=True)) as answer:
                if answer.next_request is None:
                    yield answer, tuple(reversed(urls))
                    return
                _allow(address, answer.url, answer.next_request.url)
                request, auth = answer.next_request, None
                urls.append(str(request.url))
    raise ConfigError(
        f"{address.where}: {address.shown} leads from one address to the next "
        f"(found more than {_REDIRECTS} redirects). Give the address of the file itself."
    )


def _allow(address: Address, before: httpx.URL, after: httpx.URL) -> None:
    if before.scheme == "https" and after.scheme == "http":
        raise ConfigError(
            f"{address.where}: {address.shown} leads from https to http, where anyone could change the bytes "
            f"(found {addresses.shown(str(after))}). If you accept that, give that address."
        )


@contextlib.contextmanager
def _translated(address: Address, patience: Patience) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as reason:
        raise Passing(patience.told(reason)) from reason
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as reason:
        raise ConfigError(
            f"{address.where}: {address.shown} leads to what is no http address (found {reason}). Check it."
        ) from reason
    except httpx.TransportError as reason:
        if "CERTIFICATE_VERIFY_FAILED" in str(reason):
            raise ConfigError(
                f"{address.where}: the certificate of {address.shown} is not trusted (found {reason}). "
                "If it is your own, name its authority in SSL_CERT_FILE."
            ) from reason
        raise Passing(str(reason) or type(reason).__name__) from reason
