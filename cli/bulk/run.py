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
from cli.bulk.inputs.items import InputSource, Item
from cli.bulk.inputs.sources import describe_input, open_source
from cli.bulk.options import DEFAULT_URL
from cli.bulk.progress import Progress, print_message
from cli.bulk.results import retry_failed, rows
from cli.bulk.results.results_journal import ResultsJournal, RunState, read_state
from cli.bulk.results.rows import ResultRow
from cli.bulk.service.chunks import CHUNK_LINES, JobEncoder
from cli.bulk.service.client import ServiceClient
from cli.bulk.service.in_flight_window import InFlightWindow
from cli.bulk.service.runner import ServiceRunner

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Engine(Protocol):
    """What runs lines."""

    def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Give the rows of all lines, in order; raises CannotRun."""


class BulkRun:
    """What a command asks for, with the model it runs on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._output = given, given.output
        self._journal = rows.journal_path(given.output)
        self._client: ServiceClient | None = None
        self._card: dict[str, Any] = {}
        self._model: Any = None

    async def run(self) -> int:
        """Run to the end; gives how many lines failed. Raises CannotRun, and CancelledError when it is stopped."""
        given = self._given
        rows.check_output_format(self._output)
        retry_failed.finish_merge(self._journal)
        known = read_state(self._journal)
        what = given.input or (known.given if known else [])
        source = open_source(what, given.column, given.encoding)
        async with AsyncExitStack() as stack:
            await self._open(stack)
            ledger = ResultsJournal(self._journal, self._begin(what, source))
            self._check(ledger, what)
            await self._pass(ledger, source.items(), source)
            try:
                if given.retry_failed and ledger.state.failed:
                    await self._retry(ledger, source)
                rows.convert_journal(self._journal, self._output)
            except OSError as error:
                raise _write_error(self._output, error) from error
        return ledger.state.failures

    async def _open(self, stack: AsyncExitStack) -> None:
        given = self._given
        if given.local is None:
            if not given.url:
                print_message(f"the service is {DEFAULT_URL}: --url names no other")
            self._client = await stack.enter_async_context(ServiceClient(given.url or DEFAULT_URL))
            self._card = await self._client.card(given.model)
            return
        if importlib.util.find_spec("onnxruntime") is None:
            raise CannotRun('--local needs ONNX Runtime: pip install -e ".[cpu]" in the checkout, or ".[gpu]"')
        self._model = importlib.import_module("cli.bulk.local_runner").open_model(given.local, given.model)
        self._card = self._model.card()

    def _begin(self, what: list[str], source: InputSource) -> RunState:
        where = str(self._given.local) if self._client is None else self._client.url
        chunk = min(CHUNK_LINES, self._given.max_in_flight)
        return RunState(given=what, where=where, model=self._card["name"], chunk=chunk, total=source.total)

    def _check(self, ledger: ResultsJournal, what: list[str]) -> None:
        state = ledger.state
        for name, before, now in (
            ("INPUT", describe_input(state.given), describe_input(what)),
            ("model", state.model, self._card["name"]),
        ):
            if before != now:
                ledger.drop()
                raise CannotRun(
                    f"{ledger.journal} belongs to a run with the {name} {before}, not {now}: name another -o"
                )
        state.where = self._begin(what, InputSource(lambda: iter(()), None)).where

    def _engine(self, state: RunState, progress: Progress) -> Engine:
        given = self._given
        if self._client is None:
            engine: Engine = importlib.import_module("cli.bulk.local_runner").Local(self._model, given.parameters)
            return engine
        wording = JobEncoder(self._card, given.parameters, state.run)
        window = InFlightWindow(given.max_in_flight, asyncio.get_running_loop().time)
        service = ServiceRunner(self._client, wording, f"{state.run}.{state.generation}", window, state.chunk)
        service.on_problem = progress.on_problem
        return service

    async def _pass(self, ledger: ResultsJournal, items: Iterator[Item], source: InputSource) -> None:
        """Run the lines that a ledger does not have, and close it; raises CannotRun."""
        state = ledger.state
        state.total = source.total
        ended = "interrupted"
        progress = Progress(state, quiet=self._given.quiet)
        try:
            left = _skip_done(_check_input_errors(items, state), state)
            left = remote.read_ahead(left) if source.is_remote else left
            async with aclosing(self._engine(state, progress).run(left)) as made:  # type: ignore[type-var]
                async for some in made:
                    ledger.commit(some)
                    progress.update()
            ended = "finished"
        except OSError as error:
            ledger.drop()
            raise _write_error(ledger.journal, error) from error
        finally:
            progress.close()
            if not ledger.is_dropped:
                ledger.close(ended)

    async def _retry(self, ledger: ResultsJournal, source: InputSource) -> None:
        journal = retry_failed.retry_journal_path(self._journal)
        lines = retry_failed.list_failed_lines(self._journal)
        print_message(f"{len(lines)} lines are tried again")
        again = source._replace(total=len(lines))
        retry = ResultsJournal(journal, self._begin(ledger.state.given, again))
        await self._pass(retry, retry_failed.select_lines(source.items(), lines), again)
        retry_failed.merge_retried(self._journal)
        retry_failed.adopt_merge(ledger)


def _check_input_errors(items: Iterator[Item], state: RunState) -> Iterator[Item]:
    """Say whose fault it is where an input breaks off; raises CannotRun."""
    try:
        yield from items
    except (OSError, ValueError, EOFError) as error:  # pyarrow's own are among these
        raise CannotRun(f"{describe_input(state.given)} can not be read to its end: {error}") from error


def _skip_done(items: Iterator[Item], state: RunState) -> Iterator[Item]:
    """Skip what the ledger has; raises CannotRun where the input is not what it was."""
    last = ""
    for had in range(state.lines):
        item = next(items, None)
        if item is None:
            raise CannotRun(
                f"{describe_input(state.given)} has {had} lines, and {state.lines} were run before: name another -o"
            )
        last = item.name
    if last != state.name:
        raise CannotRun(
            f"{describe_input(state.given)} has changed: line {state.lines} was {state.name} and is {last}; "
            "name another -o"
        )
    return items


def _write_error(journal: Path, error: OSError) -> CannotRun:
    kept = "what is safe on the disk stays, and the same command goes on from there"
    return CannotRun(f"{error.filename or journal} can not be written: {error.strerror or error}; {kept}")


async def run_until_stopped(run: BulkRun) -> tuple[int, int]:
    """Run until the end or a signal; gives how many failed, and the signal's number, 0 where none came."""
    task, loop, told = asyncio.ensure_future(run.run()), asyncio.get_running_loop(), [0]

    def stop(number: int) -> None:
        told[0] = number
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task, 0
    except asyncio.CancelledError:
        return 0, told[0]
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def send_stop_signal(pid: int) -> None:
    """Let another process's run stop as Ctrl-C would."""
    os.kill(pid, signal.SIGTERM)
