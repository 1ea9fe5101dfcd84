"""Sends one request before a measurement to check that the service returns a result."""

import asyncio

from cli.bench.errors import CannotMeasure
from cli.bench.load.answer_counter import ANSWER_TIMEOUT_S, close_connection
from cli.bench.load.connection import Address, connect
from cli.bench.load.submit_modes import Exchange


async def check_request(address: Address, exchange: Exchange, request: bytes, name: str) -> None:
    """Send a request. Raises CannotMeasure if the response is not a result."""
    try:
        connection = await connect(address)
    except OSError as error:
        raise CannotMeasure(f"cannot reach the service at {address}: {error}") from error
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            done = await exchange.send(connection, request)
    except TimeoutError as error:
        raise CannotMeasure(f"{address} did not answer within {ANSWER_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise CannotMeasure(f"{address} broke the connection: {error}") from error
    finally:
        await close_connection(connection)
    for outcome in done.outcomes:
        if outcome.view is None:
            raise CannotMeasure(f"the service has no result for {name}: {outcome.problem}")
