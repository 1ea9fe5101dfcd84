"""TensorRT engines are cached whole or not at all, built by one process; a full disk is one line."""

import threading
from pathlib import Path

import pytest

from model_runtime.engine import tensorrt_cache
from model_runtime.engine.tensorrt_cache import COMPLETE_MARKER, open_engine_folder
from model_runtime.spec.model_toml import ModelError

FACTS = ["digest", "Some GPU", "1.31.1", "101601", "fp16", "64"]


def test_a_built_engine_is_found_again_only_by_the_same_facts(tmp_path: Path) -> None:
    with open_engine_folder(tmp_path, "net", FACTS, 1) as folder:
        (folder / "one.engine").write_text("built")
    with open_engine_folder(tmp_path, "net", FACTS, 1) as again:
        assert again == folder
        assert (again / "one.engine").read_text() == "built"
    for at in range(len(FACTS)):
        others = [*FACTS[:at], "other", *FACTS[at + 1 :]]
        with open_engine_folder(tmp_path, "net", others, 1) as other:
            assert other != folder
            assert not (other / "one.engine").exists()


def test_an_interrupted_build_starts_again(tmp_path: Path) -> None:
    def broken_off() -> None:
        with open_engine_folder(tmp_path, "net", FACTS, 1) as folder:
            (folder / "half.engine").write_text("hal")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    with open_engine_folder(tmp_path, "net", FACTS, 1) as folder:
        assert [*folder.iterdir()] == []


def test_one_process_builds_while_the_others_wait(tmp_path: Path) -> None:
    entered, at_work, most = threading.Barrier(3), 0, 0
    guard = threading.Lock()

    def build() -> None:
        nonlocal at_work, most
        entered.wait(10)
        with open_engine_folder(tmp_path, "net", FACTS, 1) as folder:
            with guard:
                at_work += 1
                most = max(most, at_work)
            (folder / "one.engine").write_text("x" * 100_000)
            with guard:
                at_work -= 1

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == 1
    assert (next(tmp_path.glob("net-*/")) / COMPLETE_MARKER).exists()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught, open_engine_folder(tmp_path / "engines", "net", FACTS, 1 << 60):
        pass
    assert str(caught.value).startswith(
        f"JITNEY_TENSORRT_CACHE_DIR={tmp_path / 'engines'}: cannot store TensorRT engines there: "
    )
    assert "are free, but an engine may need" in str(caught.value)
    assert [path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()] == []


def test_a_cache_path_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = r"JITNEY_TENSORRT_CACHE_DIR=.*file.*: cannot store TensorRT engines there: "
    with pytest.raises(ModelError, match=said), open_engine_folder(tmp_path / "file" / "engines", "net", FACTS, 1):
        pass


def test_a_built_engine_is_read_even_on_a_full_disk(tmp_path: Path) -> None:
    with open_engine_folder(tmp_path, "net", FACTS, 1):
        pass
    with open_engine_folder(tmp_path, "net", FACTS, 1 << 60) as folder:
        assert (folder / tensorrt_cache.COMPLETE_MARKER).exists()
