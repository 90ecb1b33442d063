"""Gets /metrics over HTTP and says plainly why it could not."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from flover_backend.errors import FloverError
from flover_backend.top.exposition import ModelKey, Reading, parse

DEFAULT_URL = "http://127.0.0.1:8002/metrics"


class ScrapeFailed(FloverError):
    """There is nothing to show; the text says why and what to do."""


def complete_url(url: str) -> str:
    """HOST:PORT and http://HOST:PORT mean the metrics there. Raises `ScrapeFailed`."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ScrapeFailed(f"--url {url!r} is no address of metrics; allowed: HOST:PORT or an http URL")
    return parts._replace(path=parts.path.rstrip("/") or "/metrics").geturl()


def scrape(url: str, wanted: tuple[str, ...], timeout_s: float) -> dict[ModelKey, Reading]:
    """The models that are `wanted`, all when there are none named. Raises `ScrapeFailed`."""
    try:
        found = parse(_get(url, timeout_s))
    except urllib.error.HTTPError as error:
        raise ScrapeFailed(f"no metrics at {url}: HTTP {error.code}; Triton serves them on port 8002") from None
    except (OSError, http.client.HTTPException) as error:
        raise ScrapeFailed(f"no server answers at {url} ({_reason(error)}); start one with: flover serve") from None
    except ValueError as error:
        raise ScrapeFailed(f"what {url} serves is no Prometheus exposition ({error})") from None
    if not found:
        raise ScrapeFailed(f"{url} has no flover metrics: no flover model is loaded there")
    chosen = {key: one for key, one in found.items() if not wanted or any(key.is_meant_by(name) for name in wanted)}
    if not chosen:
        names = ", ".join(str(key) for key in found)
        raise ScrapeFailed(f"{url} has no model {' or '.join(wanted)}; it has {names}")
    return chosen


def _get(url: str, timeout_s: float) -> str:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
