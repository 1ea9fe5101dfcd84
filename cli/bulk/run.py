"""One run: its lines through its engine into its ledger, from where the last process stopped."""

import argparse
import asyncio
import importlib
import importlib.util
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final, Protocol

from cli.bulk.errors import CannotRun
from cli.bulk.inputs import remote
from cli.bulk.inputs.items import Item, Source
from cli.bulk.inputs.sources import named, open_source
from cli.bulk.options import URL
from cli.bulk.progress import Progress, say
from cli.bulk.results import retry_failed, rows
from cli.bulk.results.results_journal import Ledger, State, read_state
from cli.bulk.results.rows import Row
from cli.bulk.service.chunks import LINES, Wording
from cli.bulk.service.client import Client
from cli.bulk.service.in_flight_window import Window
from cli.bulk.service.runner import Service

STOPS: Final = (signal.SIGINT, signal.SIGTERM)


class Engine(Protocol):
    """What runs lines."""

    def run(self, items: Iterator[Item]) -> AsyncIterator[list[Row]]:
        """Give the rows of all lines, in order; raises CannotRun."""


class Run:
    """What a command asks for, with the model it runs on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._output = given, given.output
        self._journal = rows.journal_of(given.output)
        self._client: Client | None = None
        self._card: dict[str, Any] = {}
        self._model: Any = None

    async def run(self) -> int:
        """Run to the end; gives how many lines failed. Raises CannotRun, and CancelledError when it is stopped."""
        given = self._given
        rows.check(self._output)
        retry_failed.finish_merge(self._journal)
        known = read_state(self._journal)
        what = given.input or (known.given if known else [])
        source = open_source(what, given.column, given.encoding)
        async with AsyncExitStack() as stack:
            await self._open(stack)
            ledger = Ledger(self._journal, self._begin(what, source))
            self._check(ledger, what)
            await self._pass(ledger, source.items(), source)
            try:
                if given.retry_failed and ledger.state.failed:
                    await self._retry(ledger, source)
                rows.make(self._journal, self._output)
            except OSError as error:
                raise _unwritten(self._output, error) from error
        return ledger.state.failures

    async def _open(self, stack: AsyncExitStack) -> None:
        given = self._given
        if given.local is None:
            if not given.url:
                say(f"the service is {URL}: --url names no other")
            self._client = await stack.enter_async_context(Client(given.url or URL))
            self._card = await self._client.card(given.model)
            return
        if importlib.util.find_spec("onnxruntime") is None:
            raise CannotRun('--local needs ONNX Runtime: pip install -e ".[cpu]" in the checkout, or ".[gpu]"')
        self._model = importlib.import_module("cli.bulk.local_runner").open_model(given.local, given.model)
        self._card = self._model.card()

    def _begin(self, what: list[str], source: Source) -> State:
        where = str(self._given.local) if self._client is None else self._client.url
        chunk = min(LINES, self._given.max_in_flight)
        return State(given=what, where=where, model=self._card["name"], chunk=chunk, total=source.total)

    def _check(self, ledger: Ledger, what: list[str]) -> None:
        state = ledger.state
        for name, before, now in (
            ("INPUT", named(state.given), named(what)),
            ("model", state.model, self._card["name"]),
        ):
            if before != now:
                ledger.drop()
                raise CannotRun(
                    f"{ledger.journal} belongs to a run with the {name} {before}, not {now}: name another -o"
                )
        state.where = self._begin(what, Source(lambda: iter(()), None)).where

    def _engine(self, state: State, progress: Progress) -> Engine:
        given = self._given
        if self._client is None:
            engine: Engine = importlib.import_module("cli.bulk.local_runner").Local(self._model, given.parameters)
            return engine
        wording = Wording(self._card, given.parameters, state.run)
        window = Window(given.max_in_flight, asyncio.get_running_loop().time)
        service = Service(self._client, wording, f"{state.run}.{state.generation}", window, state.chunk)
        service.on_trouble = progress.on_trouble
        return service

    async def _pass(self, ledger: Ledger, items: Iterator[Item], source: Source) -> None:
        """Run the lines that a ledger does not have, and close it; raises CannotRun."""
        state = ledger.state
        state.total = source.total
        ended = "interrupted"
        progress = Progress(state, quiet=self._given.quiet)
        try:
            left = _behind(_readable(items, state), state)
            left = remote.read_ahead(left) if source.is_far else left
            async with aclosing(self._engine(state, progress).run(left)) as made:  # type: ignore[type-var]
                async for some in made:
                    ledger.commit(some)
                    progress.update()
            ended = "finished"
        except OSError as error:
            ledger.drop()
            raise _unwritten(ledger.journal, error) from error
        finally:
            progress.close()
            if not ledger.is_dropped:
                ledger.close(ended)

    async def _retry(self, ledger: Ledger, source: Source) -> None:
        journal = retry_failed.retry_of(self._journal)
        lines = retry_failed.failed_lines(self._journal)
        say(f"{len(lines)} lines are tried again")
        again = source._replace(total=len(lines))
        retry = Ledger(journal, self._begin(ledger.state.given, again))
        await self._pass(retry, retry_failed.only(source.items(), lines), again)
        retry_failed.merge(self._journal)
        retry_failed.adopt(ledger)


def _readable(items: Iterator[Item], state: State) -> Iterator[Item]:
    """Say whose fault it is where an input breaks off; raises CannotRun."""
    try:
        yield from items
    except (OSError, ValueError, EOFError) as error:  # pyarrow's own are among these
        raise CannotRun(f"{named(state.given)} can not be read to its end: {error}") from error


def _behind(items: Iterator[Item], state: State) -> Iterator[Item]:
    """Skip what the ledger has; raises CannotRun where the input is not what it was."""
    last = ""
    for had in range(state.lines):
        item = next(items, None)
        if item is None:
            raise CannotRun(f"{named(state.given)} has {had} lines, and {state.lines} were run before: name another -o")
        last = item.name
    if last != state.name:
        raise CannotRun(
            f"{named(state.given)} has changed: line {state.lines} was {state.name}, and is {last}: name another -o"
        )
    return items


def _unwritten(journal: Path, error: OSError) -> CannotRun:
    kept = "what is safe on the disk stays, and the same command goes on from there"
    return CannotRun(f"{error.filename or journal} can not be written: {error.strerror or error}; {kept}")


async def until_stopped(run: Run) -> tuple[int, int]:
    """Run until the end or a signal; gives how many failed, and the signal's number, 0 where none came."""
    task, loop, told = asyncio.ensure_future(run.run()), asyncio.get_running_loop(), [0]

    def stop(number: int) -> None:
        told[0] = number
        task.cancel()

    for number in STOPS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task, 0
    except asyncio.CancelledError:
        return 0, told[0]
    finally:
        for number in STOPS:
            loop.remove_signal_handler(number)


def tell_to_stop(pid: int) -> None:
    """Let another process's run stop as Ctrl-C would."""
    os.kill(pid, signal.SIGTERM)
