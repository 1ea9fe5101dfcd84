"""Inputs from other programs: CSV of Excel, UTF-8 with a byte-order mark, archives of macOS."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from pyarrow import parquet, table

from cli.bulk import options
from cli.bulk.errors import CannotRun
from cli.bulk.inputs.sources import open_source
from tests.support import bulk
from tests.support.service import DIGITS, Service

PNG = DIGITS[0].read_bytes()
NAMES = ("a.png", "b, c.png", "größe.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one with a comma and one with an umlaut in its name."""
    for name in NAMES:
        (tmp_path / name).write_bytes(PNG + name.encode())
    return tmp_path


def ids(path: Path, column: str | None = None, encoding: str | None = None) -> list[str | None]:
    """Return the id of each line, after reading all its bytes."""
    found = []
    for item in open_source([str(path)], column, encoding).items():
        assert item.read().startswith(PNG)
        found.append(item.id)
    return found


def wrong(path: Path, encoding: str | None = None) -> str:
    with pytest.raises(CannotRun) as caught:
        open_source([str(path)], None, encoding)
    return str(caught.value)


CSV = {
    "semicolons": 'id;path\n1;a.png\n2;"b, c.png"\n3;größe.png\n',
    "semicolons and an unquoted comma": "id;path\r\n1;a.png\r\n2;b, c.png\r\n3;größe.png\r\n",
    "tabs": "id\tpath\n1\ta.png\n2\tb, c.png\n3\tgröße.png\n",
    "bars": "id|path\n1|a.png\n2|b, c.png\n3|größe.png\n",
    "a first line sep=;": "sep=;\nid;path\n1;a.png\n2;b, c.png\n3;größe.png\n",
    "a first line sep=,": 'SEP=,\r\nid,path\r\n1,a.png\r\n2,"b, c.png"\r\n3,größe.png\r\n',
    "a first line sep= and a tab": "sep=\t\nid\tpath\n1\ta.png\n2\tb, c.png\n3\tgröße.png\n",
    "capital headers": 'ID,Path\n1,a.png\n2,"b, c.png"\n3,größe.png\n',
    "headers in capitals, the other way round": 'FILENAME,Custom_ID\na.png,1\n"b, c.png",2\ngröße.png,3\n',
    "spaces after commas": 'id, path\n1, a.png\n2, "b, c.png"\n3, größe.png\n',
    "spaces around names": ' id , path \n1,a.png\n2,"b, c.png"\n3,größe.png\n',
    "other columns that have semicolons": 'note,id,path\n"x;y;z",1,a.png\n;,2,"b, c.png"\n-,3,größe.png\n',
    "blank lines": 'id,path\n\n1,a.png\n\n2,"b, c.png"\n3,größe.png\n\n',
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a mark"])
@pytest.mark.parametrize("name", CSV)
def test_csv_variants_of_common_programs_are_read(folder: Path, name: str, mark: str) -> None:
    (folder / "t.csv").write_text(mark + CSV[name], encoding="utf-8", newline="")
    assert ids(folder / "t.csv") == ["1", "2", "3"]


@pytest.mark.parametrize("text", ["nr;Where\n1;a.png\n", "nr, where\n1, a.png\n", "NR\tWHERE\n1\ta.png\n"])
def test_a_named_column_is_found_in_each_variant(folder: Path, text: str) -> None:
    (folder / "t.csv").write_text(text)
    assert ids(folder / "t.csv", column="where") == [None]
    with pytest.raises(CannotRun, match=r"no column 'path': .* has the columns"):
        open_source([str(folder / "t.csv")], "path")


def test_capitalised_column_names_are_found_in_other_tables(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"ID": 1, "Path": "a.png"}\n{"Custom_ID": 2, "File": "a.png"}\n')
    assert ids(folder / "t.jsonl") == ["1", "2"]
    parquet.write_table(table({"ID": ["1"], "FileName": ["a.png"]}), folder / "t.parquet")
    assert ids(folder / "t.parquet") == ["1"]


def test_an_exact_column_name_wins(folder: Path) -> None:
    (folder / "t.csv").write_text("Path,path\nnowhere.png,a.png\n")
    assert ids(folder / "t.csv") == [None]


def test_csv_that_is_not_utf_8_is_refused_unless_its_encoding_is_named(folder: Path) -> None:
    text = CSV["semicolons"]
    (folder / "t.csv").write_bytes(text.encode("cp1252"))
    words = wrong(folder / "t.csv")
    assert words.startswith(f"{folder / 't.csv'} is not text in UTF-8 (invalid byte 0xF6): ")
    assert "save a copy as UTF-8, or use --encoding cp1252" in words
    assert ids(folder / "t.csv", encoding="cp1252") == ["1", "2", "3"]
    (folder / "t.csv").write_bytes(b"id;path\n1;\x81.png\n")
    assert "is not text in CP1252 (invalid byte 0x81)" in wrong(folder / "t.csv", "cp1252")
    (folder / "t.csv").write_text(text, encoding="utf-8-sig")
    assert ids(folder / "t.csv", encoding="UTF-8") == ["1", "2", "3"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_16_is_refused_by_name(folder: Path, encoding: str) -> None:
    name = encoding.upper()[:6]
    (folder / "t.csv").write_bytes(f"\ufeff{CSV['semicolons']}".encode(encoding))
    assert wrong(folder / "t.csv") == (
        f"{folder / 't.csv'} is text in {name}: save a copy as UTF-8, or use --encoding {name.lower()}"
    )
    assert ids(folder / "t.csv", encoding=name.lower()) == ["1", "2", "3"]
    (folder / "t.jsonl").write_bytes('\ufeff{"path": "a.png"}\n'.encode(encoding))
    assert wrong(folder / "t.jsonl") == f"{folder / 't.jsonl'} is text in {name}: save a copy as UTF-8"


def test_the_encoding_option_is_for_csv_and_is_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.jsonl").write_text('"a.png"\n')
    assert "--encoding applies only to .csv" in wrong(folder / "t.jsonl", "cp1252")
    for name in ("klingon", "base64", "rot13", "a\0b"):
        with pytest.raises(SystemExit):
            options.read_options(["run", "t.csv", "-o", "r.jsonl", "--encoding", name])
        assert "is not a text encoding; allowed: cp1252" in capsys.readouterr().err


def test_a_byte_order_mark_before_json_lines_is_skipped(folder: Path) -> None:
    lines = [json.dumps({"id": n, "path": "a.png"}) for n in (1, 2)]
    (folder / "t.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    assert ids(folder / "t.jsonl") == ["1", "2"]
    (folder / "t.jsonl").write_bytes(b'\xef\xbb\xbf"a.png"\n\xef\xbb\xbf"a.png"\n')  # two such files, joined
    assert [item.read()[:8] for item in open_source([str(folder / "t.jsonl")], None).items()] == [PNG[:8]] * 2


MEANT = ["photos/1.png", "photos/below/2.png"]
LITTER = [
    "photos/.DS_Store",
    "photos/._1.png",
    "__MACOSX/photos/._1.png",
    "__MACOSX/._photos",
    "photos/Thumbs.db",
    "photos/below/desktop.ini",
    "photos/@eaDir/1.png",
]


def test_metadata_files_of_operating_systems_are_skipped(tmp_path: Path) -> None:
    names = sorted([*MEANT, *LITTER])
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as packed, tarfile.open(tmp_path / "mac.tar.gz", "w:gz") as bundle:
        for name in names:
            (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "all" / name).write_bytes(PNG)
            packed.writestr(name, PNG)
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(PNG)
            bundle.addfile(info, io.BytesIO(PNG))
    for given in ("mac.zip", "mac.tar.gz", "all", "all/**/*"):
        source = open_source([str(tmp_path / given)], None)
        found = [item.name.replace("./", "", 1) for item in source.items()]
        assert [name.removeprefix(f"{tmp_path}/all/") for name in found] == MEANT, given
        assert source.total in (None, 2)
    only = tmp_path / "only.zip"
    with zipfile.ZipFile(only, "w") as packed:
        packed.writestr("__MACOSX/._x", b"")
    assert wrong(only) == f"{only} contains no input"


@pytest.mark.parametrize("local", [True, False], ids=["--local", "through a service"])
def test_such_tables_run_to_their_end(service: Service, tmp_path: Path, *, local: bool) -> None:
    with (tmp_path / "t.csv").open("w", encoding="cp1252", newline="") as file:
        file.write("sep=;\r\nID;Größe; Path\r\n")
        file.writelines(f"{n};1,5 m; {path}\r\n" for n, path in enumerate(DIGITS[:5]))
    where = ("--local", bulk.DIGITS_MODEL) if local else ("--url", service.url)
    done = bulk.run(tmp_path / "t.csv", "-o", tmp_path / "r.jsonl", "--encoding", "cp1252", *where)
    assert done.code == 0, done
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", 5)
    assert [(row["id"], row["status"]) for row in found] == [(str(n), "succeeded") for n in range(5)]
