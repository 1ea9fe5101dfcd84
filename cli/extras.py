"""Says which packages a verb or an option lacks, and which extra installs them."""

import importlib.util


def missing_packages(extra: str, *packages: str) -> str:
    """Return "needs …: pip install …" for the packages that are not installed; empty if all are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing == ["onnxruntime"] and extra == "cpu":
        return 'needs ONNX Runtime: pip install -e ".[cpu]" in the checkout, or ".[gpu]"'
    return f'needs {", ".join(missing)}: pip install -e ".[{extra}]" in the checkout' if missing else ""
