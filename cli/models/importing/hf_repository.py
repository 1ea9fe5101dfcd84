"""The files of a repository of Hugging Face: on the hub, or in a folder with the same layout."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

from cli.models.importing.source import ImportFailed, import_library

# In the head of README.md, from which the hub takes it too.
_TAG: Final = re.compile(r"\A---\r?\n(?:(?!---).*\n)*?pipeline_tag: *([\w-]+) *\r?\n")


class Repository(NamedTuple):
    """`get`: returns the place of a file on this machine; `read_tag`: the hub's name of the model's task, if any."""

    name: str
    description: str
    files: Collection[str]
    get: Callable[[str], Path]
    read_tag: Callable[[], str | None]


def open_hub(name: str) -> Repository:
    """Return the repository `OWNER/NAME@REVISION`. Raises ImportFailed, and whatever the hub's client raises."""
    repo, _, revision = name.partition("@")
    if not revision:
        raise ImportFailed(f"name a revision of {repo}, preferably a commit: hf:{repo}@main")
    hub = import_library("huggingface_hub")
    import_library("huggingface_hub.utils").logging.set_verbosity_error()  # errors are reported by the caller
    files = hub.HfApi().list_repo_files(repo, revision=revision)

    def read_tag() -> str | None:
        info: Any = hub.HfApi().model_info(repo, revision=revision)
        tag: str | None = info.pipeline_tag
        return tag

    def get(file: str) -> Path:
        return Path(hub.hf_hub_download(repo, file, revision=revision))

    return Repository(repo, f"{repo} at {revision}", files, get, read_tag)


def open_folder(name: str) -> Repository:
    """Return the repository in a folder. Raises OSError."""
    folder = Path(name)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def read_tag() -> str | None:
        found = _TAG.match((folder / "README.md").read_text("utf-8")) if "README.md" in files else None
        return found and found[1]

    shown = folder.resolve().name
    return Repository(shown, f"{shown}, imported", files, folder.joinpath, read_tag)
