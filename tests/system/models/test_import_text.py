"""Models for text from a hub and from folders: the task, the files beside model.toml, and answers at once."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from model_runtime.repository.repository import ModelFolder, list_models
from tests.support.importing import COMMIT, FakeHub, client_env, refused, run
from tests.support.model_files import text
from tests.support.model_files.text import TABLE, ids_of
from tests.support.service import Service

SENTENCE = "sentence_transformers.models."
MODULES = [
    {"type": f"{SENTENCE}Transformer", "path": ""},
    {"type": f"{SENTENCE}Pooling", "path": "1_Pooling"},
]
LAID_OUT = {"model.toml", "tokenizer.json", "config.json", "1"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub("o/words") as fake:
        yield fake


def fill(hub: FakeHub, folder: Path, at: str = "onnx/model.onnx", **files: Any) -> None:
    """Put a model's file, its tokenizer and JSON files into the repository."""
    hub.files |= {
        at: (folder / "1" / "model.onnx").read_bytes(),
        "tokenizer.json": (folder / "tokenizer.json").read_bytes(),
        **{f"{name}.json": json.dumps(value).encode() for name, value in files.items()},
    }


def imported(hub: FakeHub, tmp_path: Path, *words: str) -> tuple[ModelFolder, str]:
    """Import the repository; return the folder, and what was said beside its name."""
    done = run(tmp_path / "models", f"hf:o/words@{COMMIT}", *words, env=client_env(hub.address, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    lines = [line.strip() for line in done.stdout.splitlines()[1:]]
    assert lines[0] == f'task = "{found.spec.task}"'
    return found, "\n".join(line for line in lines[1:] if not line.startswith("[text] "))


def submit(service: Service, job_input: Any) -> Any:
    job = {"input": job_input}
    answered = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert answered["status"] == "succeeded", answered
    return answered["output"]


def near(values: Any) -> Any:
    return pytest.approx(values.tolist(), rel=1e-6, abs=1e-6)


def test_a_sentence_transformers_repository(hub: FakeHub, tmp_path: Path) -> None:
    """The architecture says a masked language model, as that of all-mpnet-base-v2; the modules say more."""
    fill(
        hub,
        text.encoder(tmp_path / "elsewhere"),
        config={"architectures": ["MPNetForMaskedLM"], "max_position_embeddings": 512},
        modules=MODULES,
        sentence_bert_config={"max_seq_length": 6},
        tokenizer_config={"model_max_length": 512},
        config_sentence_transformers={"prompts": {"query": "Oslo "}},
    )
    hub.files["1_Pooling/config.json"] = json.dumps({"pooling_mode_cls_token": True}).encode()
    hub.files |= {"onnx/model_quantized.onnx": b"another", "pytorch_model.bin": b"weights", "README.md": b"#"}
    folder, notes = imported(hub, tmp_path)
    assert (folder.name, folder.spec.task, notes) == ("words", "text-embedding", "")
    assert folder.spec.description == f"onnx/model.onnx of o/words at {COMMIT}"
    assert {path.name for path in folder.path.iterdir()} == LAID_OUT | {
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
        "1_Pooling",
    }
    with Service(tmp_path / "models") as service:
        answer = submit(service, {"text": "red green"})
        table = TABLE[ids_of("red", "green")]
        assert answer["embedding"] == near(table[0] + table.mean(axis=0))  # of the first token, not normalized
        assert submit(service, {"text": "red " * 9})["tokens"] == 6


def test_modules_in_folders_of_their_own(hub: FakeHub, tmp_path: Path) -> None:
    modules = [
        {"type": f"{SENTENCE}Transformer", "path": "0_Transformer"},
        {"type": f"{SENTENCE}Pooling", "path": "2_Pooling"},
        {"type": f"{SENTENCE}Normalize", "path": "3_Normalize"},
    ]
    fill(hub, text.encoder(tmp_path / "elsewhere"), modules=modules)
    hub.files["0_Transformer/config.json"] = b"{}"
    hub.files["0_Transformer/tokenizer.json"] = hub.files.pop("tokenizer.json")
    hub.files["2_Pooling/config.json"] = json.dumps({"pooling_mode_lasttoken": True}).encode()
    folder, _ = imported(hub, tmp_path)
    assert json.loads((folder.path / "1_Pooling" / "config.json").read_text()) == {"pooling_mode_lasttoken": True}
    assert {path.name for path in folder.path.iterdir()} == LAID_OUT | {"modules.json", "1_Pooling"}


def test_an_export_with_the_vector_of_the_sentence(hub: FakeHub, tmp_path: Path) -> None:
    """Its output is used, not the tokens' vectors, as the layers behind the pooling are in it."""
    made = text.encoder(tmp_path / "elsewhere")
    model = onnx.load(made / "1" / "model.onnx")
    model.graph.node.append(helper.make_node("Squeeze", ["mean", "tokens"], ["sentence_embedding"]))
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 4])
    model.graph.output.append(output)
    onnx.save(model, made / "1" / "model.onnx")
    fill(hub, made, modules=[*MODULES, {"type": f"{SENTENCE}Dense", "path": "2_Dense"}], config={})
    hub.files["1_Pooling/config.json"] = json.dumps({"pooling_mode_mean_tokens": True}).encode()
    folder, notes = imported(hub, tmp_path)
    assert (notes, 'outputs = ["sentence_embedding"]' in (folder.path / "model.toml").read_text()) == ("", True)
    with Service(tmp_path / "models") as service:
        assert submit(service, {"text": "red"})["embedding"] == near(TABLE[ids_of("red")].mean(axis=0))


def test_the_first_output_of_floats_without_it(hub: FakeHub, tmp_path: Path) -> None:
    made = text.encoder(tmp_path / "elsewhere")
    model = onnx.load(made / "1" / "model.onnx")
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["same"]))
    model.graph.output.insert(0, helper.make_tensor_value_info("same", TensorProto.INT64, ["batch", "sequence"]))
    onnx.save(model, made / "1" / "model.onnx")
    fill(hub, made, "model.onnx", config={"architectures": ["BertModel"]})
    folder, notes = imported(hub, tmp_path)
    assert (folder.spec.task, "their mean is used, see [text] in model.toml" in notes) == ("text-embedding", True)
    assert 'outputs = ["y"]' in (folder.path / "model.toml").read_text()


Make = Callable[[Path], Path]
CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}
LABELS = {"id2label": {"0": "red", "1": "green", "2": "blue"}}
TAGGER = {
    "architectures": ["BertForTokenClassification"],
    "id2label": {str(at): label for at, label in enumerate(text.LABELS)},
}
CROSS_ENCODER = {"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}
MASKED = {"architectures": ["BertForMaskedLM"]}
ONE = {"id2label": {"0": "LABEL_0"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((text.classifier, CLASSIFIER | LABELS, None), ("text-classification", "")),
        ((text.classifier, LABELS, "text-classification"), ("text-classification", "")),
        ((text.tagger, TAGGER, "token-classification"), ("token-classification", "")),
        ((text.ranker, CLASSIFIER | ONE, "text-ranking"), ("text-ranking", "")),
        ((text.ranker, CLASSIFIER | ONE | CROSS_ENCODER, "text-classification"), ("text-ranking", "")),
        ((text.ranker, CLASSIFIER | ONE, "text-classification"), ("text-classification", "--task text-ranking")),
        ((text.encoder, MASKED, "sentence-similarity"), ("text-embedding", "their mean")),
    ],
)
def test_the_task_is_that_of_the_files(
    hub: FakeHub, tmp_path: Path, given: tuple[Make, Any, str | None], expected: tuple[str, str]
) -> None:
    make, config, hub.tag = given
    fill(hub, make(tmp_path / "elsewhere"), config=config)
    folder, notes = imported(hub, tmp_path)
    task, note = expected
    assert (folder.spec.task, note in notes, bool(notes)) == (task, True, bool(note))


def test_a_task_that_the_files_do_not_say_is_named(hub: FakeHub, tmp_path: Path) -> None:
    fill(hub, text.ranker(tmp_path / "elsewhere"), config=MASKED)
    hub.tag = "fill-mask"
    source, env = f"hf:o/words@{COMMIT}", client_env(hub.address, tmp_path)
    assert (
        "the files of o/words do not say its task (architecture BertForMaskedLM, tag fill-mask); allowed: --task"
        in refused(tmp_path / "models", source, env=env)
    )
    folder, _ = imported(hub, tmp_path, "--task", "text-ranking")
    assert folder.spec.task == "text-ranking"
    with Service(tmp_path / "models") as service:
        rows = submit(service, {"query": "red", "documents": ["blue"]})["rows"]
        assert rows == [{"score": 1.0, "tokens": 5, "truncated": False}]  # by the sigmoid


def test_what_does_not_fit_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    here, source, env = tmp_path / "models", f"hf:o/words@{COMMIT}", client_env(hub.address, tmp_path)
    fill(hub, text.encoder(tmp_path / "elsewhere"), config={"architectures": ["BertModel"]})
    tokenizer = hub.files.pop("tokenizer.json")
    hub.files["vocab.txt"] = b"red"
    assert "o/words has no tokenizer.json; allowed: a repository that has one" in refused(here, source, env=env)
    text.tokenizer([*text.VOCABULARY, "more"]).save(str(tmp_path / "other.json"))
    hub.files["tokenizer.json"] = (tmp_path / "other.json").read_bytes()
    assert "its ids go up to 11, but the model's table has 11 rows" in refused(here, source, env=env)
    hub.files |= {"tokenizer.json": tokenizer, "config.json": b"{"}
    env = client_env(hub.address, tmp_path / "again")  # what was downloaded is not asked for again
    assert f"cannot download o/words@{COMMIT}" in refused(here, source, env=env)
    assert "has onnx/model.onnx; allowed: --file" in refused(here, source, "--file", "x.onnx", env=env)


def test_a_variant_by_name(hub: FakeHub, tmp_path: Path) -> None:
    fill(hub, text.encoder(tmp_path / "elsewhere"), "onnx/model_fp16.onnx", config={"architectures": ["BertModel"]})
    hub.files |= {"onnx/model.onnx": b"", "onnx/model_quantized.onnx": b""}
    folder, _ = imported(hub, tmp_path, "--file", "onnx/model_fp16.onnx")
    assert folder.spec.description.startswith("onnx/model_fp16.onnx of o/words")


def test_a_folder_with_the_layout_of_a_repository(tmp_path: Path) -> None:
    made, folder = text.ranker(tmp_path / "elsewhere"), tmp_path / "My Ranker"
    (folder / "onnx").mkdir(parents=True)
    shutil.copyfile(made / "1" / "model.onnx", folder / "onnx" / "model.onnx")
    shutil.copyfile(made / "tokenizer.json", folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(CLASSIFIER | ONE))
    (folder / "README.md").write_text("---\r\nlicense: mit\r\npipeline_tag: text-ranking\r\n---\r\n# A ranker\r\n")
    done = run(tmp_path / "models", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    assert (found.name, found.spec.task) == ("my-ranker", "text-ranking")
    assert found.spec.description == "onnx/model.onnx of My Ranker, imported"
    (tmp_path / "empty").mkdir()
    assert "empty has no .onnx file" in refused(tmp_path / "models", str(tmp_path / "empty"))
