"""Many users at once over one channel, each with a stream of its own: `python many_users.py [HOST:PORT [USERS]]`.

A full queue answers Unavailable: whoever gets that waits, longer each time, and asks again.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from flover_client import AsyncClient, Unavailable

OPENINGS = ("And God said", "In those days", "Blessed are", "The king answered")
ATTEMPTS = 6


async def user(client: AsyncClient, number: int) -> tuple[float, int]:
    """(seconds to the first token, tokens) of one user's request."""
    prompt = OPENINGS[number % len(OPENINGS)]
    for attempt in range(ATTEMPTS):
        begin = time.monotonic()
        first_token_s, count = 0.0, 0
        try:
            async with client.stream(prompt, max_tokens=32, ignore_eos=True, seed=number) as stream:
                async for response in stream:
                    first_token_s = first_token_s or time.monotonic() - begin
                    count += len(response.token_ids)
            return first_token_s, count
        except Unavailable:
            await asyncio.sleep(0.1 * 2**attempt * random.uniform(0.5, 1))
    raise SystemExit(f"user {number}: the server stayed unavailable")


async def main(url: str = "127.0.0.1:8001", users: str = "32") -> None:
    """Let all of them ask at once, and print what they got."""
    begin = time.monotonic()
    async with AsyncClient(url, timeout_s=60) as client:
        results = await asyncio.gather(*(user(client, number) for number in range(int(users))))
    elapsed = time.monotonic() - begin
    total = sum(count for _, count in results)
    first = sorted(seconds for seconds, _ in results)
    print(f"{len(results)} users, {total} tokens in {elapsed:.2f} s: {total / elapsed:.0f} tokens/s")
    print(f"first token after {first[len(first) // 2]:.3f} s in the median, {first[-1]:.3f} s at most")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
