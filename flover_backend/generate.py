"""`flover generate`: one prompt to a running server, the answer to standard output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from flover_backend.chat import render_chat
from flover_backend.client import Delta, FloverClient


def generate(url: str, model: str, prompt: str, *, stream: bool, parameters: dict[str, Any]) -> None:
    """Print the answer, piece by piece when `stream`. Raises `RequestFailed`."""
    asyncio.run(_generate(url, model, prompt, stream, parameters))


def chat_prompt(question: str, model_dir: Path) -> str:
    """The question as the model's chat template wants it. Raises `ConfigError`."""
    return render_chat(model_dir, [{"role": "user", "content": question}])


async def _generate(url: str, model: str, prompt: str, stream: bool, parameters: dict[str, Any]) -> None:
    async with FloverClient(url, model) as client:
        await _print(client.generate(prompt, stream=stream, **parameters))
    print()


async def _print(answer: AsyncIterator[Delta]) -> None:
    async for delta in answer:
        sys.stdout.write(delta.text)
        sys.stdout.flush()
