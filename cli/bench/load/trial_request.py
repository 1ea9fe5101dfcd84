"""Sends one request outside of any measurement, so that a service that has no result for it is not measured at all."""

import asyncio

from cli.bench.errors import CannotMeasure
from cli.bench.load.answer_counter import PATIENCE_S, close_connection
from cli.bench.load.connection import Address, connect
from cli.bench.load.submit_modes import Exchange


async def check_request(address: Address, exchange: Exchange, request: bytes, name: str) -> None:
    """Raises CannotMeasure where the answer is not a result."""
    try:
        connection = await connect(address)
    except OSError as error:
        raise CannotMeasure(f"nothing answers at {address}: {error}") from error
    try:
        async with asyncio.timeout(PATIENCE_S):
            done = await exchange.send(connection, request)
    except TimeoutError as error:
        raise CannotMeasure(f"{address} did not answer within {PATIENCE_S:g} s") from error
    except OSError as error:
        raise CannotMeasure(f"{address} broke the connection: {error}") from error
    finally:
        await close_connection(connection)
    for verdict in done.verdicts:
        if verdict.view is None:
            raise CannotMeasure(f"the service has no result for {name}: {verdict.problem}")
