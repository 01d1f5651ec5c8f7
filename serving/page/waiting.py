"""Waiting for the jobs of a request as long as its client is there."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from starlette.requests import ClientDisconnect, Request


async def all_of(futures: Sequence[Future], request: Request) -> list[Any]:
    """The results of some jobs.

    Raises:
        ClientDisconnect: if the client goes away before they are there.
        Exception: the first that a job raised.
    """
    done = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return done.result()
    finally:
        gone.cancel()
        done.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def result_so_far(future: Future) -> Any:
    """The result of a job that is done; None where it is not, or has failed."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()
