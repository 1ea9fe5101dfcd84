"""Every kind of input and output, whole and broken: each line ends once, with its number and its code."""

import base64
import csv
import io
import json
import socketserver
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore.store
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import parquet, table

from cli.bulk.errors import BadItem, CannotRun
from cli.bulk.inputs import items, tables
from cli.bulk.inputs.remote import read_ahead
from cli.bulk.inputs.sources import open_source
from tests.support import bulk
from tests.support.service import DIGITS

PNG = DIGITS[0].read_bytes()


def read(*given: Path | str, column: str | None = None) -> list[tuple[str, bytes | str]]:
    """Read an input: each line's name, and its bytes or the code of its error. Numbers and total must agree."""
    source = open_source([str(one) for one in given], column)
    made = list(read_ahead(source.items()) if source.is_remote else source.items())
    assert [item.line for item in made] == list(range(1, len(made) + 1))
    assert source.total in (None, len(made))
    assert [item.name for item in source.items()] == [item.name for item in made]  # as a run that goes on sees it
    return [(item.name, data_of(item)) for item in made]


def data_of(item: items.Item) -> bytes | str:
    try:
        return item.read()
    except BadItem as error:
        return error.code


class Quiet(SimpleHTTPRequestHandler):
    """A server of files; /moved leads to /a.png, /round to itself."""

    def do_GET(self) -> None:
        where = {"/moved": "/a.png", "/round": "/round"}.get(self.path)
        if where is None:
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server with a.png; gives its address."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.png").write_bytes(PNG)
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[index]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.png", ".hidden", ".git/x.png", "c/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    names = ["a.png", "b/10.png", "b/2.png", "c/readme.txt", "gone.png"]
    there = [(name, name.encode()) for name in names[:4]]
    assert read(tmp_path) == [*there, ("gone.png", "unreadable_input")]
    assert [Path(name).name for name, _ in read(f"{tmp_path}/**/*.png")] == ["a.png", "10.png", "2.png"]
    assert [Path(name).name for name, _ in read(tmp_path / "b/2.png", tmp_path / "a.png")] == ["2.png", "a.png"]


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(5 << 30)
    (tmp_path / "small.png").write_bytes(PNG)
    assert read(tmp_path) == [("huge.png", "body_too_large"), ("small.png", PNG)]


def test_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x/", b"")
        packed.writestr("x/b.png", PNG)
        packed.writestr("a.png", b"a")
    for kind in ("", ".gz", ".xz"):
        with tarfile.open(tmp_path / f"t.tar{kind}", f"w:{kind[1:]}") as bundle:  # type: ignore[call-overload]
            for name, data in (("x/b.png", PNG), ("a.png", b"a")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                bundle.addfile(info, io.BytesIO(data))
        assert read(tmp_path / f"t.tar{kind}") == [("x/b.png", PNG), ("a.png", b"a")]
    assert read(tmp_path / "z.zip") == [("x/b.png", PNG), ("a.png", b"a")]
    broken = bytearray((tmp_path / "z.zip").read_bytes())
    broken[broken.index(b"x/b.png") + 20] ^= 0xFF  # in the packed bytes of the first file
    (tmp_path / "bad.zip").write_bytes(broken)
    assert [what for _, what in read(tmp_path / "bad.zip")] == ["unreadable_input", b"a"]


def test_tables_name_paths_urls_and_images(tmp_path: Path, web: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    text = base64.b64encode(PNG).decode()
    lines = [
        json.dumps({"id": "1", "path": "a.png"}),
        "",
        json.dumps("a.png"),
        json.dumps({"url": f"{web}/a.png"}),
        json.dumps({"url": f"{web}/moved"}),
        json.dumps({"custom_id": "2", "method": "POST", "url": "/v1/jobs", "body": {"input": {"image": text}}}),
        json.dumps({"input": {"image": f"data:image/png;base64,{text}"}}),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert [what for _, what in read(tmp_path / "t.jsonl")] == [PNG] * 6
    (tmp_path / "t.csv").write_text(f'﻿id,url\n1,{web}/a.png\n2,"{web}/moved"\n', encoding="utf-8")
    assert [what for _, what in read(tmp_path / "t.csv")] == [PNG] * 2
    parquet.write_table(table({"name": ["x", "y"], "where": [str(tmp_path / "a.png"), None]}), tmp_path / "t.parquet")
    assert [what for _, what in read(tmp_path / "t.parquet", column="where")] == [PNG, "malformed_line"]


def test_broken_lines_end_alone_each_with_its_code(tmp_path: Path, web: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    cases: list[tuple[bytes, bytes | str]] = [
        (b'{"path": "a.png"}', PNG),
        (b"{broken", "malformed_line"),
        (b"\xff\xfe", "malformed_line"),
        (b"17", "malformed_line"),
        (b'{"nothing": "here"}', "malformed_line"),
        (b'{"path": 5}', "malformed_line"),
        (b'{"path": "a\\u0000b"}', "malformed_line"),
        (b'{"path": "nowhere.png"}', "unreadable_input"),
        (b'{"path": "."}', "unreadable_input"),
        (b'{"id": "x", "path": "a.png"}', PNG),
        (b'{"id": "x", "path": "a.png"}', "duplicate_id"),
        (b'{"input": {"image": "%%%"}}', "malformed_request"),
        (json.dumps({"url": f"{web}/nowhere"}).encode(), "unreadable_input"),
        (json.dumps({"url": f"{web}/round"}).encode(), "unreadable_input"),
        (b'{"url": "http://127.0.0.1:9/x"}', "unreadable_input"),
        (b'{"url": "http://[broken"}', "unreadable_input"),
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(line for line, _ in cases))
    assert [what for _, what in read(tmp_path / "t.jsonl")] == [what for _, what in cases]


def test_an_endless_line_is_one_failed_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "t.jsonl").write_bytes(b'"%s"\n"a.png"\n' % (b"x" * 5000))
    assert [what for _, what in read(tmp_path / "t.jsonl")] == ["body_too_large", PNG]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n\n\n", "contains no input"),
        ("t.csv", b"a,b\n1,2\n", "name the column of paths or URLs with --column; .* has the columns a, b"),
        ("t.csv", b"path\n", "contains no input"),
        ("t.zip", b"PK no zip", "is not what its suffix says"),
        ("t.tar.gz", b"\x1f\x8b no tar", "is not what its suffix says"),
        ("t.parquet", b"PAR1 no parquet", "is not what its suffix says"),
        ("t.docx", b"words", "is not a supported kind of file"),
    ],
)
def test_an_invalid_input_is_refused_as_a_whole(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CannotRun, match=words):
        read(tmp_path / name)


def test_a_table_broken_in_the_middle_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    """Rows before the damage are written; the run cannot continue and says why."""
    parquet.write_table(table({"path": [str(DIGITS[0])] * 5000}), tmp_path / "t.parquet", row_group_size=500)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    middle = parquet.ParquetFile(tmp_path / "t.parquet").metadata.row_group(8).column(0)
    at = middle.dictionary_page_offset or middle.data_page_offset
    data[at : at + middle.total_compressed_size] = bytes(middle.total_compressed_size)
    (tmp_path / "t.parquet").write_bytes(data)
    done = bulk.run(tmp_path / "t.parquet", "-o", tmp_path / "r.jsonl", "--local", bulk.DIGITS_MODEL)
    assert done.code == 2, done
    assert "cannot be read to its end" in done.said
    assert "Traceback" not in done.said


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wanted: dict[Path | str, str] = {
        tmp_path / "empty": "contains no input",
        tmp_path / "no": "does not exist",
        f"{tmp_path}/*.x": "no file match",
    }
    for given, words in wanted.items():
        with pytest.raises(CannotRun, match=words):
            read(given)


def test_a_bucket_is_read_over_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server of the protocol, and the client library that a run uses."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        env = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        env |= {"AWS_REGION": "us-east-1"}
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bulk", method="PUT")).close()
        store = obstore.store.S3Store("bulk", client_options={"allow_http": True})
        for digit in DIGITS[:30]:
            store.put(f"in/{digit.name}", digit.read_bytes())
        store.put("other/x.png", PNG)
        assert read("s3://bulk/in/") == [(f"s3://bulk/in/{one.name}", one.read_bytes()) for one in DIGITS[:30]]
        with pytest.raises(CannotRun, match="cannot list"):
            read("s3://nosuch/in")
        args = ("-o", tmp_path / "r.jsonl", "--local", bulk.DIGITS_MODEL)
        done = bulk.run("s3://bulk/in", *args, env=env)
        assert done.code == 0, done
        found = bulk.read_complete_rows(tmp_path / "r.jsonl", 30)
        assert [row["output"]["predictions"][0]["label"] for row in found] == [one.name[0] for one in DIGITS[:30]]
    finally:
        server.stop()


def test_results_as_csv_and_parquet_are_equal(tmp_path: Path) -> None:
    given = tmp_path / "in.jsonl"
    lines = [{"id": f'the "{n}",\nth', "path": str(DIGITS[n])} for n in range(5)] + [{"path": "nowhere.png"}]
    given.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("r.jsonl", "r.csv", "r.parquet"):
        assert bulk.run(given, "-o", tmp_path / name, "--local", bulk.DIGITS_MODEL).code == 1
    rows = bulk.read_complete_rows(tmp_path / "r.jsonl", 6)
    with (tmp_path / "r.csv").open(newline="") as file:
        of_csv = list(csv.DictReader(file))
    of_parquet = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    for row, text, typed in zip(rows, of_csv, of_parquet, strict=True):
        best = row["output"]["predictions"][0] if row["output"] else {}
        code = row["error"]["code"] if row["error"] else None
        expected = (row["line"], row.get("id"), row["status"], best.get("label"), best.get("probability"), code)
        assert tuple(typed[k] for k in ("line", "id", "status", "label", "probability", "error_code")) == expected
        assert tuple(text[k] for k in ("id", "status", "label", "error_code")) == tuple(
            one or "" for one in (row.get("id"), row["status"], best.get("label"), code)
        )
        assert json.loads(text["output"] or "null") == row["output"]


@pytest.mark.parametrize("name", ["r", "r.txt", "r.json"])
def test_an_output_of_no_known_kind_is_refused(tmp_path: Path, name: str) -> None:
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / name, "--local", bulk.DIGITS_MODEL)
    assert done.code == 2
    assert "allowed: .jsonl, .ndjson, .csv, .parquet" in done.said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / "no" / "r.jsonl", "--local", bulk.DIGITS_MODEL)
    assert done.code == 2
    assert "cannot be written: No such file or directory" in done.said


def test_byte_order_marks_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    """The first of five lines used to be lost as "not JSON"."""
    for nth in range(5):
        (tmp_path / f"{nth}.png").write_bytes(PNG)
    rows = [json.dumps({"path": f"{nth}.png"}) for nth in range(5)]
    (tmp_path / "bom.jsonl").write_bytes(("\ufeff" + "\r\n".join([*rows, "\ufeff", ""])).encode())
    assert read(tmp_path / "bom.jsonl") == [(f"{nth}.png", PNG) for nth in range(5)]
    (tmp_path / "wide.jsonl").write_bytes("\n".join(rows).encode("utf-16"))
    with pytest.raises(CannotRun, match="UTF-16"):
        read(tmp_path / "wide.jsonl")


def test_lines_have_the_same_bounds_as_at_a_gateway(tmp_path: Path) -> None:
    lines = ["[" * 1000 + "]" * 1000, "[" + "{}," * 1_000_000 + "{}]", "9" * 5000, json.dumps({"image": "#"})]
    safe = base64.urlsafe_b64encode(PNG).decode().rstrip("=")
    (tmp_path / "odd.jsonl").write_text("\n".join([*lines, json.dumps({"input": {"image": f"{safe}\n"}})]))
    found = [data for _, data in read(tmp_path / "odd.jsonl")]
    assert found == [*["malformed_line"] * 3, "unreadable_input", PNG]
