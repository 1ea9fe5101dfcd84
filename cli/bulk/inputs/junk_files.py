"""Recognises operating-system junk files (.DS_Store, Thumbs.db, __MACOSX) in folders and archives."""

from pathlib import PurePosixPath
from typing import Final

_FOLDERS: Final = frozenset({"__macosx", ".appledouble", ".trashes", ".spotlight-v100", "$recycle.bin", "@eadir"})
_FILES: Final = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".localized"})


def is_junk_file(name: str) -> bool:
    """Return whether a path within a folder or archive is a junk file of macOS, Windows or a NAS."""
    *folders, file = PurePosixPath(name.replace("\\", "/")).parts or ("",)
    return file.lower() in _FILES or file.startswith("._") or any(part.lower() in _FOLDERS for part in folders)
