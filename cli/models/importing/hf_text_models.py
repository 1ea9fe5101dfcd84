"""Recognises models for text in the files of Hugging Face: their task, the files that they need, and their output."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import onnx

from cli.models.importing.hf_repository import Repository
from cli.models.importing.source import ImportedModel, ImportFailed
from model_runtime.spec.text import POOLING_FILE, TEXT_FILES, TOKENIZER_FILE

# Ends of the names of architectures → tasks; a score of a pair is a classification too.
_ARCHITECTURES: Final = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "Model": "text-embedding",
}
_TAGS: Final = {
    "feature-extraction": "text-embedding",
    "sentence-similarity": "text-embedding",
    "text-classification": "text-classification",
    "text-ranking": "text-ranking",
    "token-classification": "token-classification",
}
# Keys of config.json that sentence-transformers writes for cross-encoders.
_CROSS_ENCODER_KEYS: Final = ("sentence_transformers", "sbert_ce_default_activation_function")
_FLOATS: Final = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_MODULES: Final = "modules.json"
_SENTENCE_OUTPUT: Final = "sentence_embedding"  # of exports that have the layers behind the tokens' vectors too


def read_text_model(repository: Repository, file: str, exported: Path, task: str | None) -> ImportedModel:
    """Return the model of an .onnx file. `exported`: its copy; `task`: what the user says. Raises ImportFailed."""
    modules = _read_modules(repository)
    files = _find_files(repository, file, modules)
    if TOKENIZER_FILE not in files:
        reason = f"{repository.name} has no {TOKENIZER_FILE}"
        raise ImportFailed(f"{reason}; allowed: a repository that has one, as save_pretrained() of transformers writes")
    config = json.loads(files["config.json"].read_text("utf-8")) if "config.json" in files else {}
    task = task or _recognise(repository, config, modules)
    outputs = {each.name: each.type for each in onnx.load(exported, load_external_data=False).graph.output}
    used, notes = [name for name, kind in outputs.items() if kind.tensor_type.elem_type in _FLOATS][:1], []
    if task == "text-embedding":
        if _SENTENCE_OUTPUT in outputs:
            used = [_SENTENCE_OUTPUT]
        elif POOLING_FILE not in files:
            notes = ["no file says how the vectors of tokens become one: their mean is used, see [text] in model.toml"]
    elif task == "text-classification" and _label_count(config) == 1:
        notes = ["it has one label: if it scores pairs of texts, import it with --task text-ranking"]
    description = f"{file} of {repository.description}"
    return ImportedModel(task, description, notes=notes, outputs=used if len(outputs) > 1 else (), files=files)


def _recognise(repository: Repository, config: Mapping[str, Any], modules: Mapping[str, str]) -> str:
    """Return the task that the files say, or else the hub's tag. Raises ImportFailed."""
    if "Pooling" in modules or POOLING_FILE in repository.files:
        return "text-embedding"
    architectures, tag = config.get("architectures") or [], repository.read_tag()
    found = [task for name in architectures for end, task in _ARCHITECTURES.items() if str(name).endswith(end)]
    task = found[0] if found else _TAGS.get(tag or "")
    if task == "text-classification" and _label_count(config) == 1:
        is_ranking = tag == "text-ranking" or any(key in config for key in _CROSS_ENCODER_KEYS)
        return "text-ranking" if is_ranking else task
    if task is None:
        known = f"architecture {', '.join(map(str, architectures)) or 'none'}, tag {tag or 'none'}"
        raise ImportFailed(f"the files of {repository.name} do not say its task ({known}); allowed: --task with one")
    return task


def _label_count(config: Mapping[str, Any]) -> int:
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or 0)


def _read_modules(repository: Repository) -> dict[str, str]:
    """Return the folder of each module of sentence-transformers, by its kind."""
    if _MODULES not in repository.files:
        return {}
    listed = json.loads(repository.get(_MODULES).read_text("utf-8"))
    return {str(module["type"]).rpartition(".")[2]: str(module.get("path", "")) for module in listed}


def _find_files(repository: Repository, file: str, modules: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that lie beside model.toml: of the repository itself, its first module, or the .onnx file."""
    folders = ("", modules.get("Transformer", ""), str(PurePosixPath(file).parent))
    found: dict[str, Path] = {}
    for name in TEXT_FILES:
        places = [str(PurePosixPath(folder, name)) for folder in folders]
        if name == POOLING_FILE:
            places = [str(PurePosixPath(modules.get("Pooling", ""), "config.json")), name]
        place = next((place for place in places if place in repository.files), None)
        if place is not None and not (name == POOLING_FILE and place == "config.json"):
            found[name] = repository.get(place)
    return found
