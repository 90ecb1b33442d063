"""However a user leaves a stream, the server sees it and frees what it held; a stream that ended is no cancellation."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator

import pytest
from live_metrics import finished, wait_idle, wait_settled
from live_server import LiveServer, wait_for

from flover_client import AsyncClient, AsyncStream, Cancelled, Client, RequestTimeout, Stream

PROMPT = "And it came to pass"


@pytest.fixture(scope="module")
def settled(server: LiveServer) -> None:
    """What came before is counted."""
    wait_settled(server)


@pytest.fixture
def cancelled_once(server: LiveServer, settled: None) -> Iterator[None]:
    """One more request was cancelled at the end, and nothing is held."""
    wait_idle(server)
    before = finished(server, "cancelled")
    yield
    wait_for(lambda: finished(server, "cancelled") == before + 1)
    wait_idle(server)


def endless(client: Client) -> Stream:
    return client.stream(PROMPT, max_tokens=1900, ignore_eos=True)


@pytest.mark.usefixtures("cancelled_once")
def test_leaving_its_block(client: Client) -> None:
    with endless(client) as stream:
        assert next(stream).token_ids
    assert list(stream) == []


@pytest.mark.usefixtures("cancelled_once")
def test_an_exception_in_its_block(client: Client) -> None:
    with pytest.raises(KeyError), endless(client) as stream:
        next(stream)
        raise KeyError


@pytest.mark.usefixtures("cancelled_once")
def test_dropping_it(client: Client) -> None:
    stream = endless(client)
    next(stream)
    del stream
    gc.collect()


@pytest.mark.usefixtures("cancelled_once")
def test_closing_it_from_another_thread_ends_the_iteration(client: Client) -> None:
    stream = endless(client)
    next(stream)
    threading.Timer(0.1, stream.close).start()
    assert sum(len(response.token_ids) for response in stream) < 1900
    stream.close()


@pytest.mark.usefixtures("cancelled_once")
def test_closing_the_client(server: LiveServer) -> None:
    with Client(server.grpc_url) as client:
        stream = endless(client)
        next(stream)
    with pytest.raises(Cancelled):
        list(stream)


@pytest.mark.parametrize("ask", [Client.generate, lambda client, *a, **k: list(client.stream(*a, **k))])
@pytest.mark.usefixtures("cancelled_once")
def test_a_timeout(client: Client, ask: Callable[..., object]) -> None:
    with pytest.raises(RequestTimeout, match=r"timeout_s = 0\.3") as caught:
        ask(client, PROMPT, max_tokens=1900, ignore_eos=True, timeout_s=0.3)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert isinstance(caught.value, TimeoutError)


def test_an_answer_that_was_read_to_its_end_was_not_cancelled(server: LiveServer, client: Client) -> None:
    wait_settled(server)
    cancelled, length = finished(server, "cancelled"), finished(server, "length")
    for _ in range(10):
        client.generate(PROMPT, max_tokens=3, ignore_eos=True)
        with client.stream(PROMPT, max_tokens=3, ignore_eos=True) as stream:
            assert [response for response in stream if response.is_final]
    wait_for(lambda: finished(server, "length") == length + 20)
    assert finished(server, "cancelled") == cancelled


def run_async(server: LiveServer, body: Callable[[AsyncClient, AsyncStream], object]) -> None:
    async def main() -> None:
        async with AsyncClient(server.grpc_url) as client:
            stream = client.stream(PROMPT, max_tokens=1900, ignore_eos=True)
            assert (await anext(stream)).token_ids
            await body(client, stream)  # type: ignore[misc]
            del stream

    asyncio.run(main())


@pytest.mark.usefixtures("cancelled_once")
def test_leaving_its_block_in_asyncio(server: LiveServer) -> None:
    async def body(_: AsyncClient, stream: AsyncStream) -> None:
        async with stream:
            await anext(stream)
        assert [response async for response in stream] == []

    run_async(server, body)


@pytest.mark.usefixtures("cancelled_once")
def test_closing_it_while_another_task_reads(server: LiveServer) -> None:
    async def body(_: AsyncClient, stream: AsyncStream) -> None:
        async def read() -> int:
            return sum([len(response.token_ids) async for response in stream])

        task = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        await stream.aclose()
        assert 0 < await task < 1900

    run_async(server, body)


@pytest.mark.usefixtures("cancelled_once")
def test_cancelling_the_task_that_reads(server: LiveServer) -> None:
    async def body(_: AsyncClient, stream: AsyncStream) -> None:
        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(server, body)


@pytest.mark.usefixtures("cancelled_once")
def test_a_generate_that_is_given_up(server: LiveServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.grpc_url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.generate(PROMPT, max_tokens=1900, ignore_eos=True)

    asyncio.run(main())


@pytest.mark.usefixtures("cancelled_once")
def test_dropping_it_in_asyncio(server: LiveServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.grpc_url) as client:
            async for _ in client.stream(PROMPT, max_tokens=1900, ignore_eos=True):
                break
            gc.collect()
            await asyncio.sleep(0.2)

    asyncio.run(main())
