"""Runs a bulk run: reads lines, runs them through a service or locally, and writes the journal."""

import argparse
import asyncio
import importlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final, Protocol

from cli.bulk.errors import CannotRun
from cli.bulk.inputs import remote
from cli.bulk.inputs.items import InputSource, Item
from cli.bulk.inputs.sources import describe_input, open_source
from cli.bulk.inputs.tables import NoInputColumn
from cli.bulk.options import DEFAULT_URL
from cli.bulk.progress import Progress, print_message
from cli.bulk.results import retry_failed, rows
from cli.bulk.results.results_journal import ResultsJournal, RunState, read_state
from cli.bulk.results.rows import ResultRow
from cli.bulk.service.chunks import CHUNK_LINES, JobEncoder
from cli.bulk.service.client import ServiceClient
from cli.bulk.service.in_flight_window import InFlightWindow
from cli.bulk.service.runner import ServiceRunner
from cli.extras import missing_packages

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Engine(Protocol):
    """Runs lines: a ServiceRunner or a LocalRunner."""

    def run(self, items: Iterator[Item]) -> AsyncIterator[list[ResultRow]]:
        """Yield the rows of all lines in order. Raises CannotRun."""


class BulkRun:
    """One invocation of `jitney bulk run`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._output = args, args.output
        self._journal_path = rows.journal_path(args.output)
        self._client: ServiceClient | None = None
        self._card: dict[str, Any] = {}
        self._model: Any = None

    async def run(self) -> int:
        """Run to the end and return the number of failed lines. Raises CannotRun; CancelledError if stopped."""
        args = self._args
        rows.check_output_format(self._output)
        retry_failed.finish_merge(self._journal_path)
        state = read_state(self._journal_path)
        inputs = args.input or (state.inputs if state else [])
        source = self._open_source(inputs)
        async with AsyncExitStack() as stack:
            await self._open_model(stack)
            if isinstance(source, NoInputColumn) or self._has_features(inputs):
                source = open_source(inputs, args.column, args.encoding, self._card.get("columns") or [])
            journal = ResultsJournal(self._journal_path, self._initial_state(inputs, source))
            self._check_same_run(journal, inputs)
            await self._run_lines(journal, source.items(), source)
            try:
                if args.retry_failed and journal.state.failed:
                    await self._retry_failed(journal, source)
                rows.convert_journal(self._journal_path, self._output)
            except OSError as error:
                raise _write_error(self._output, error) from error
        return journal.state.failures

    def _open_source(self, inputs: list[str]) -> InputSource | NoInputColumn:
        """Open INPUT before the model: its errors need no service. Raises CannotRun."""
        try:
            return open_source(inputs, self._args.column, self._args.encoding)
        except NoInputColumn as error:
            return error

    def _has_features(self, inputs: list[str]) -> bool:
        """Return whether INPUT is a table whose columns are those of a tabular model."""
        is_table = len(inputs) == 1 and Path(inputs[0]).suffix.lower() in (".csv", ".parquet")
        return is_table and self._args.column is None and bool(self._card.get("columns"))

    async def _open_model(self, stack: AsyncExitStack) -> None:
        args = self._args
        if args.local is None:
            if not args.url:
                print_message(f"using the service at {DEFAULT_URL}; --url sets another")
            self._client = await stack.enter_async_context(ServiceClient(args.url or DEFAULT_URL))
            self._card = await self._client.model_card(args.model)
            return
        if hint := missing_packages("cpu", "onnxruntime"):
            raise CannotRun(f"--local {hint}")
        self._model = importlib.import_module("cli.bulk.local_runner").open_model(args.local, args.model)
        self._card = self._model.card()

    def _initial_state(self, inputs: list[str], source: InputSource) -> RunState:
        where = str(self._args.local) if self._client is None else self._client.url
        chunk = min(CHUNK_LINES, self._args.max_in_flight)
        return RunState(inputs=inputs, where=where, model=self._card["name"], chunk=chunk, total=source.total)

    def _check_same_run(self, journal: ResultsJournal, inputs: list[str]) -> None:
        """Raise CannotRun if the journal belongs to another input or model."""
        state = journal.state
        for name, before, now in (
            ("INPUT", describe_input(state.inputs), describe_input(inputs)),
            ("model", state.model, self._card["name"]),
        ):
            if before != now:
                journal.release()
                raise CannotRun(f"{journal.path} belongs to a run with the {name} {before}, not {now}: use another -o")
        state.where = self._initial_state(inputs, InputSource(lambda: iter(()), None)).where

    def _engine(self, state: RunState, progress: Progress) -> Engine:
        args = self._args
        if self._client is None:
            engine: Engine = importlib.import_module("cli.bulk.local_runner").LocalRunner(self._model, args.parameters)
            return engine
        encoder = JobEncoder(self._card, args.parameters, state.run)
        window = InFlightWindow(args.max_in_flight, asyncio.get_running_loop().time)
        service = ServiceRunner(self._client, encoder, f"{state.run}.{state.generation}", window, state.chunk)
        service.on_problem = progress.on_problem
        return service

    async def _run_lines(self, journal: ResultsJournal, items: Iterator[Item], source: InputSource) -> None:
        """Run the lines that are not in the journal, and close it. Raises CannotRun."""
        state = journal.state
        state.total = source.total
        ended = "interrupted"
        progress = Progress(state, quiet=self._args.quiet)
        try:
            rest = _skip_done(_check_input_errors(items, state), state)
            rest = remote.read_ahead(rest) if source.is_remote else rest
            async with aclosing(self._engine(state, progress).run(rest)) as results:  # type: ignore[type-var]
                async for chunk in results:
                    journal.commit(chunk)
                    progress.update()
            ended = "finished"
        except OSError as error:
            journal.release()
            raise _write_error(journal.path, error) from error
        finally:
            progress.close()
            if not journal.is_released:
                journal.close(ended)

    async def _retry_failed(self, journal: ResultsJournal, source: InputSource) -> None:
        lines = {row["line"] for row in rows.read_rows(self._journal_path) if row["status"] != "succeeded"}
        print_message(f"retrying {len(lines)} failed lines")
        subset = source._replace(total=len(lines))
        initial = self._initial_state(journal.state.inputs, subset)
        retry = ResultsJournal(retry_failed.retry_journal_path(self._journal_path), initial)
        await self._run_lines(retry, (item for item in source.items() if item.line in lines), subset)
        retry_failed.merge_retried(self._journal_path)
        retry_failed.reload_merged_state(journal)


def _check_input_errors(items: Iterator[Item], state: RunState) -> Iterator[Item]:
    """Raise CannotRun for an error of the input, so that it is not taken for a write error."""
    try:
        yield from items
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors derive from these
        raise CannotRun(f"{describe_input(state.inputs)} cannot be read to its end: {error}") from error


def _skip_done(items: Iterator[Item], state: RunState) -> Iterator[Item]:
    """Skip the lines in the journal. Raises CannotRun if the input has changed."""
    last = ""
    source = describe_input(state.inputs)
    for count in range(state.lines):
        item = next(items, None)
        if item is None:
            raise CannotRun(f"{source} has {count} lines, and {state.lines} were run before: use another -o")
        last = item.name
    if last != state.name:
        raise CannotRun(f"{source} has changed: line {state.lines} was {state.name}, now {last}; use another -o")
    return items


def _write_error(journal: Path, error: OSError) -> CannotRun:
    hint = "synced results stay, and the same command resumes the run"
    return CannotRun(f"{error.filename or journal} cannot be written: {error.strerror or error}; {hint}")


async def run_until_stopped(run: BulkRun) -> tuple[int, int]:
    """Run until the end or a signal; return the number of failed lines and the signal number, or 0."""
    task, loop, received = asyncio.ensure_future(run.run()), asyncio.get_running_loop(), [0]

    def stop(number: int) -> None:
        received[0] = number
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task, 0
    except asyncio.CancelledError:
        return 0, received[0]
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
