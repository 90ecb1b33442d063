"""A stream that its user has seen enough of: `python cancel.py [HOST:PORT]`.

Leaving the `with` block, `break` or an exception alike, cancels the request: the server stops computing it.
"""

from __future__ import annotations

import sys

from flover_client import Client


def main(url: str = "127.0.0.1:8001") -> None:
    """Read ten tokens of an answer of a thousand."""
    seen = 0
    with Client(url) as client, client.stream("And it came to pass", max_tokens=1000, ignore_eos=True) as stream:
        for response in stream:
            print(response.text, end="", flush=True)
            seen += len(response.token_ids)
            if seen >= 10:
                break
    print(f"\ncancelled after {seen} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
