"""Tasks for text: tokens become inputs that are padded to run together, and padding never reaches an answer."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from onnx import TensorProto

from batching.collation import stack_items
from jobs.contract.errors import Refused
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files import text
from tests.support.model_files.text import LABELS, TABLE, VOCABULARY, ids_of

EMBEDDING = 'task = "text-embedding"\n[text]\n'


def load(models_dir: Path) -> Model:
    (folder,) = list_models(models_dir)
    assert isinstance(folder, ModelFolder)
    return load_model(folder)


def refusal(models_dir: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(models_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def prepare(model: Model, content: Any, **parameters: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Arrays and parameters of a text, of token ids, or of each row of another input."""
    if isinstance(content, str):
        return [(model.preprocess("text", content.encode(), parameters), parameters)]
    if isinstance(content, list):
        return [(model.preprocess("json", orjson.dumps({"tokens": content}), parameters), parameters)]
    return model.preprocess_rows("json", orjson.dumps(content), parameters, 2)


def answers(model: Model, content: Any, **parameters: Any) -> list[Any]:
    """The answers of rows that run in one batch."""
    prepared = prepare(model, content, **parameters)
    items = [arrays for arrays, _ in prepared]
    outputs = model.run(stack_items(items, 0, model.padding))
    rows = [{name: array[at] for name, array in outputs.items()} for at in range(len(prepared))]
    if model.padding is not None:
        rows = [model.padding.cut(row, model.padding.length_of(item)) for row, item in zip(rows, items, strict=True)]
    return [orjson.loads(model.encode(row, kept, 1 << 20)[0]) for row, (_, kept) in zip(rows, prepared, strict=True)]


def near(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-6, abs=1e-6)


def expected_vector(*words: str) -> Any:
    """The mean of the vectors of the words: of each token its row of the table and the mean of all."""
    return TABLE[ids_of(*words)].mean(axis=0) * 2


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("length", ["sequence", 12])
def test_an_embedding_is_the_mean_of_its_tokens(tmp_path: Path, kind: int, length: int | str) -> None:
    text.encoder(tmp_path, kind=kind, length=length)
    model = load(tmp_path)
    for words in (["red"], ["red", "green", "blue"], ["Anna", "likes", "pink", "blue", "Oslo", "red"]):
        (answer,) = answers(model, " ".join(words))
        assert answer["embedding"] == near(expected_vector(*words))
        assert (answer["dimensions"], answer["tokens"], answer["truncated"]) == (4, len(words) + 2, False)
    card = model.card()
    assert (card["batchable"], card["checked"], card["batch_note"]) == (True, True, "")
    assert (card["kinds"], card["input_fields"], card["max_rows"]) == (["json", "text"], ["texts", "tokens"], 64)


def test_padded_answers_are_those_without_padding(tmp_path: Path) -> None:
    """At every length from 3 to 20 tokens, in steps of 8 and of 1, alone and beside another text."""
    for multiple in (8, 1):
        text.encoder(tmp_path / str(multiple), toml=f"{EMBEDDING}normalize = false\n[padding]\nmultiple = {multiple}")
    in_steps, plain = load(tmp_path / "8"), load(tmp_path / "1")
    for count in range(1, 19):
        content = " ".join(VOCABULARY[4 + at % 7] for at in range(count))
        ((arrays, _),) = prepare(in_steps, content)
        assert in_steps.padding is not None
        assert in_steps.padding.stack([arrays])["input_ids"].shape == (1, -(-(count + 2) // 8) * 8)
        (one,), (other,) = answers(in_steps, content), answers(plain, content)
        beside = answers(plain, {"texts": [content, "red " * 19]})
        assert one["embedding"] == near(other["embedding"])
        assert beside[0]["embedding"] == near(other["embedding"])


def test_texts_of_different_lengths_share_a_batch(tmp_path: Path) -> None:
    text.encoder(tmp_path)
    model = load(tmp_path)
    short, longer = answers(model, {"texts": ["red", "Anna likes green Oslo"]})
    assert short["embedding"] == near(expected_vector("red"))
    assert longer["embedding"] == near(expected_vector("Anna", "likes", "green", "Oslo"))
    one, other = (model.group_of(arrays) for arrays, _ in prepare(model, {"texts": ["red", "Anna likes"]}))
    assert one[0] == other[0]
    assert (one[1], other[1]) == (3, 4)


def test_a_model_that_padding_changes_is_not_padded(tmp_path: Path) -> None:
    folder = text.careless_encoder(tmp_path)
    model = load(tmp_path)
    assert "items are not padded: padding changes an answer by" in model.card()["batch_note"]
    one, other = (model.group_of(arrays) for arrays, _ in prepare(model, {"texts": ["red", "red green"]}))
    assert one[0] != other[0]
    (answer,) = answers(model, "red green")
    assert answer["embedding"] == near(expected_vector("red", "green"))
    (folder / "model.toml").write_text(f"{EMBEDDING}[padding]\nenabled = true")
    assert "padding: padding changes an answer" in refusal(tmp_path)


def test_padding_of_very_short_texts_is_checked_too(tmp_path: Path) -> None:
    """With 4 tokens at most, texts of 3 and 4 tokens would still be padded."""
    text.careless_encoder(tmp_path, toml=f"{EMBEDDING}max_tokens = 4")
    assert "items are not padded" in load(tmp_path).card()["batch_note"]


def test_a_model_that_is_not_batched_is_not_padded(tmp_path: Path) -> None:
    text.encoder(tmp_path, toml='task = "text-embedding"\nbatching = "off"')
    model = load(tmp_path)
    assert model.card()["lengths"] == {"padded_to_multiple": None, "run_overhead": None, "max_batch_cost": None}
    ((arrays, _),) = prepare(model, "red")
    assert stack_items([arrays], 0, model.padding)["input_ids"].shape == (1, 3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("normalize", ["true", "false"])
def test_vectors_that_are_encoded_together_are_those_encoded_alone(
    tmp_path: Path, pooling: str, encoding: str, normalize: str
) -> None:
    text.encoder(tmp_path, toml=f'{EMBEDDING}normalize = {normalize}\npooling = "{pooling}"')
    model = load(tmp_path)
    prepared = prepare(model, {"texts": ["red", "Anna likes green Oslo red blue"]}, encoding=encoding)
    outputs = model.run(stack_items([arrays for arrays, _ in prepared], 0, model.padding))
    together = model.encode_batch(outputs, [parameters for _, parameters in prepared], 1 << 20)
    assert model.padding is not None
    alone = [
        model.encode(
            model.padding.cut({name: array[at] for name, array in outputs.items()}, len(arrays["input_ids"])),
            parameters,
            1 << 20,
        )[0]
        for at, (arrays, parameters) in enumerate(prepared)
    ]
    assert together == alone


@pytest.mark.parametrize(("pooling", "token"), [("cls", 0), ("last", -1)])
def test_the_vector_of_one_token(tmp_path: Path, pooling: str, token: int) -> None:
    text.encoder(tmp_path, toml=f'{EMBEDDING}normalize = false\npooling = "{pooling}"')
    (answer,) = answers(load(tmp_path), "red green blue")
    table = TABLE[ids_of("red", "green", "blue")]
    assert answer["embedding"] == near(table[token] + table.mean(axis=0))


def test_encoding_and_dimensions(tmp_path: Path) -> None:
    text.encoder(tmp_path, toml='task = "text-embedding"')
    model, vector = load(tmp_path), expected_vector("red")
    (whole,) = answers(model, "red", encoding="base64")
    numbers = np.frombuffer(base64.b64decode(whole["embedding"]), "<f4")
    assert numbers == near(vector / np.linalg.norm(vector))
    (cut,) = answers(model, "red", dimensions=2)
    assert (cut["dimensions"], cut["embedding"]) == (
        2,
        near(vector[:2] / np.linalg.norm(vector[:2])),
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimensions": 5}, "parameter 'dimensions' is 5; allowed: a whole number from 1 to 4"),
        ({"dimensions": True}, "parameter 'dimensions' is true"),
        ({"encoding": "hex"}, "parameter 'encoding' is 'hex'; allowed: float, base64"),
        ({"prompt": "query"}, "parameter 'prompt' is 'query'; allowed: none, as the model has no prompts"),
        ({"prompt": []}, "parameter 'prompt' is a list"),
        ({".tokens": 1}, "unknown parameter: '.tokens'; allowed: encoding, dimensions, prompt"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    text.encoder(tmp_path)
    with pytest.raises(Refused) as caught:
        prepare(load(tmp_path), "red", **parameters)
    assert (caught.value.code, caught.value.message[: len(message)]) == ("invalid_request", message)


def test_prompts(tmp_path: Path) -> None:
    folder = text.encoder(tmp_path, toml=f'{EMBEDDING}normalize = false\nprompts = {{query = "Oslo likes "}}')
    (answer,) = answers(load(tmp_path), "red", prompt="query")
    assert answer["embedding"] == near(expected_vector("Oslo", "likes", "red"))
    assert answers(load(tmp_path), "red")[0]["tokens"] == 3
    (folder / "model.toml").write_text(f"{EMBEDDING}normalize = false")
    prompts = {"prompts": {"query": "Anna ", "none": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert [answers(load(tmp_path), "red", **more)[0]["tokens"] for more in ({}, {"prompt": "none"})] == [4, 3]


def test_a_folder_of_sentence_transformers_is_recognised(tmp_path: Path) -> None:
    module = "sentence_transformers.models."
    files = {
        "modules.json": [{"type": f"{module}Transformer"}, {"type": f"{module}Pooling", "path": "1_Pooling"}],
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 5},
        "tokenizer_config.json": {"model_max_length": 512},
    }
    folder = text.encoder(tmp_path, toml='task = "text-embedding"', files=files)
    (answer,) = answers(load(tmp_path), "red green blue Oslo")
    table = TABLE[ids_of("red", "green", "blue")]
    assert answer["embedding"] == near(table[0] + table.mean(axis=0))  # cls, and not normalized
    assert (answer["tokens"], answer["truncated"]) == (5, True)
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_max_tokens": true}')
    assert "1_Pooling/config.json: pooling_mode_max_tokens is not supported" in refusal(tmp_path)
    (folder / "1_Pooling/config.json").write_text("{}")
    (folder / "modules.json").write_text(json.dumps([*files["modules.json"], {"type": f"{module}Dense"}]))
    assert "modules.json: there is a Dense layer" in refusal(tmp_path)
    (folder / "modules.json").write_text("{")
    assert "modules.json: is not JSON" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"tokenizer_config.json": {"model_max_length": 6}}, 6),
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": 9}}, 9),
        ({"config.json": {"max_position_embeddings": 9, "model_type": "roberta", "pad_token_id": 1}}, 7),
    ],
)
def test_the_most_tokens_are_those_of_the_files(tmp_path: Path, files: dict[str, Any], limit: int) -> None:
    text.encoder(tmp_path, files=files)
    assert answers(load(tmp_path), "red " * 20)[0]["tokens"] == limit


def test_the_end_of_a_long_text_is_left_out(tmp_path: Path) -> None:
    folder = text.encoder(tmp_path, toml=f"{EMBEDDING}normalize = false\nmax_tokens = 4")
    (answer,) = answers(load(tmp_path), "red green blue")
    assert answer["embedding"] == near(expected_vector("red", "green"))
    assert (answer["tokens"], answer["truncated"]) == (4, True)
    assert answers(load(tmp_path), "red green")[0]["truncated"] is False
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    (answer,) = answers(load(tmp_path), "red green blue")
    assert answer["embedding"] == near(expected_vector("green", "blue"))


@pytest.mark.parametrize(
    "content", ["red " * 250_000, "red" + " " * 500_000 + "green blue", " " * 1_000_000 + "red green"]
)
def test_a_very_long_text_is_cut_without_other_tokens(tmp_path: Path, content: str) -> None:
    text.encoder(tmp_path, toml=f"{EMBEDDING}max_tokens = 8")
    ((arrays, parameters),) = prepare(load(tmp_path), content)
    words = content.split()
    assert arrays["input_ids"][: parameters[".tokens"]].tolist() == ids_of(*words[:6])
    assert parameters[".truncated"] is (len(words) > 6)


def test_token_ids_are_used_as_they_are(tmp_path: Path) -> None:
    """Special tokens are not added: with them, ids give the answer of their text."""
    text.encoder(tmp_path, toml=f'{EMBEDDING}normalize = false\nprompts = {{query = "Oslo "}}')
    model = load(tmp_path)
    assert answers(model, ids_of("red", "green")) == answers(model, "red green")
    (bare,) = answers(model, [4, 5])
    table = TABLE[[4, 5]]
    assert bare == {"embedding": near(table.mean(axis=0) * 2), "dimensions": 4, "tokens": 2, "truncated": False}
    rows = answers(model, {"tokens": [ids_of("red"), [0]]})
    assert [(row["tokens"], row["embedding"]) for row in rows] == [(3, near(expected_vector("red"))), (1, [0, 0, 0, 2])]
    with pytest.raises(Refused, match="parameter 'prompt' is put before texts: token ids have none"):
        prepare(model, [4], prompt="query")


def test_too_many_token_ids_are_cut_as_texts_are(tmp_path: Path) -> None:
    folder = text.encoder(tmp_path, toml=f"{EMBEDDING}max_tokens = 4")
    ((arrays, notes),) = prepare(load(tmp_path), [4, 5, 6, 7, 8, 9])
    assert (arrays["input_ids"][:4].tolist(), notes[".tokens"], notes[".truncated"]) == ([4, 5, 6, 7], 4, True)
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    ((arrays, notes),) = prepare(load(tmp_path), [4, 5, 6, 7, 8, 9])
    assert (arrays["input_ids"][:4].tolist(), notes[".truncated"]) == ([6, 7, 8, 9], True)
    ((_, notes),) = prepare(load(tmp_path), [4, 5, 6, 7])
    assert notes[".truncated"] is False


def test_a_token_id_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    text.encoder(tmp_path)
    model, message = load(tmp_path), "token id 11 is none of the model's; allowed: 0 to 10"
    with pytest.raises(Refused, match=message) as caught:
        prepare(model, [4, 11])
    assert (caught.value.code, caught.value.details) == ("invalid_input", {})
    with pytest.raises(Refused, match=message) as caught:
        prepare(model, {"tokens": [[10], [11]]})
    assert caught.value.details == {"row": 1}


def test_labels_of_a_text(tmp_path: Path) -> None:
    folder = text.classifier(tmp_path)
    model = load(tmp_path)
    first, second = answers(model, {"texts": ["red red red green", "blue blue"]}, top_k=2)
    assert first == {
        "predictions": [
            {"label": "red", "index": 0, "probability": 0.5},
            {"label": "green", "index": 1, "probability": round(1 / 6, 6)},
        ],
        "tokens": 6,
        "truncated": False,
    }
    assert second["predictions"][0] == {"label": "blue", "index": 2, "probability": 0.5}
    assert model.card()["labels"] == 3
    (folder / "labels.txt").write_text("rot\ngrün\nblau\n")
    (folder / "model.toml").write_text('task = "text-classification"\n[text]\nlabels = "labels.txt"\ntop_k = 1')
    (answer,) = answers(load(tmp_path), "green")
    powers = np.exp([0, 1 / 3, 0])
    assert answer["predictions"] == [
        {"label": "grün", "index": 1, "probability": pytest.approx(powers[1] / powers.sum(), abs=1e-6)}
    ]
    (folder / "config.json").write_text('{"problem_type": "multi_label_classification"}')
    (answer,) = answers(load(tmp_path), "green")
    assert answer["predictions"][0]["probability"] == near(1 / (1 + np.exp(-1 / 3)))
    (folder / "labels.txt").write_text("rot\n")
    assert "1 labels, but the model has 3 classes" in refusal(tmp_path)


def test_entities_have_their_place_in_the_text(tmp_path: Path) -> None:
    text.tagger(tmp_path)
    content = "«Anna   Smith» likes 🌍 Oslo  Oslo, Anna"
    (answer,) = answers(load(tmp_path), content)
    found = [(entity["label"], entity["text"]) for entity in answer["entities"]]
    assert found == [("PER", "Anna   Smith"), ("LOC", "Oslo"), ("LOC", "Oslo"), ("PER", "Anna")]
    assert all(content[entity["start"] : entity["end"]] == entity["text"] for entity in answer["entities"])
    assert {entity["score"] for entity in answer["entities"]} == {0.75}


def test_an_entity_continues_after_a_label_of_its_group_only(tmp_path: Path) -> None:
    text.tagger(tmp_path)
    (answer,) = answers(load(tmp_path), "Smith Smith Oslo Smith likes Smith")
    found = [(entity["label"], entity["text"]) for entity in answer["entities"]]
    assert found == [("PER", "Smith Smith"), ("LOC", "Oslo"), ("PER", "Smith"), ("PER", "Smith")]


def test_entities_need_labels(tmp_path: Path) -> None:
    folder = text.tagger(tmp_path)
    (folder / "config.json").write_text("{}")
    assert "text.labels: missing; allowed: a file of labels, or config.json with id2label" in refusal(tmp_path)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "O", "2": "X"}}))
    assert "config.json: id2label: there is no '1'" in refusal(tmp_path)
    (folder / "config.json").write_text(json.dumps({"id2label": {str(at): "O" for at in range(len(LABELS) + 1)}}))
    assert "6 labels, but the model has 5 classes" in refusal(tmp_path)


def test_documents_are_scored_with_the_query(tmp_path: Path) -> None:
    folder = text.ranker(tmp_path)
    model = load(tmp_path)
    first, second = answers(model, {"query": "red", "documents": ["blue", "green green"]})
    assert first == {"score": (1 + 4 + 2) * 100 + 6 + 2, "tokens": 5, "truncated": False}
    assert second["score"] == (1 + 4 + 2) * 100 + 5 + 5 + 2
    card = model.card()
    assert (card["kinds"], card["input_fields"], card["batchable"]) == (["json"], ["query", "documents"], True)
    (folder / "model.toml").write_text('task = "text-ranking"')
    assert answers(load(tmp_path), {"query": "red", "documents": ["blue", "red"]})[0]["score"] == 1.0  # sigmoid
    (folder / "config.json").write_text('{"sentence_transformers": {"activation_fn": "torch.nn.Identity"}}')
    assert answers(load(tmp_path), {"query": "red", "documents": ["blue", "red"]})[0]["score"] == 708


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = text.encoder(tmp_path)
    text.tokenizer([*VOCABULARY, "more"]).save(str(folder / "tokenizer.json"))
    assert "tokenizer.json: its ids go up to 11, but the model's table has 11 rows" in refusal(tmp_path)


def test_without_the_graph_the_largest_id_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = text.encoder(tmp_path)
    text.tokenizer([*VOCABULARY, "more"]).save(str(folder / "tokenizer.json"))
    monkeypatch.setattr(
        "model_runtime.model.read_facts", lambda *_: __import__("model_runtime.graph.facts").graph.facts.GraphFacts()
    )
    assert "its ids go up to 11, which the model cannot run" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (None, "tokenizer.json: is missing; allowed: the tokenizer of this model"),
        ("{}", "tokenizer.json: is not a tokenizer that can be read"),
        ("\0", "tokenizer.json: is not a tokenizer that can be read"),
    ],
)
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, tokenizer: str | None, message: str) -> None:
    file = text.encoder(tmp_path) / "tokenizer.json"
    file.unlink()
    if tokenizer is not None:
        file.write_text(tokenizer)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("max_tokens = 2", "text.max_tokens: is 2, and the tokenizer adds 2 special tokens; allowed: more than 2"),
        ('output = "z"', "text.output: there is no output 'z'; allowed: y"),
        ("max_tokens = 0", "text.max_tokens: 0 is not allowed; allowed: a whole number of tokens from 1 to 131072"),
        ("prompts = {query = 1}", "text.prompts: is not a table of texts; allowed: a text by name"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, toml: str, message: str) -> None:
    text.encoder(tmp_path, toml=EMBEDDING + toml)
    (folder,) = list_models(tmp_path)
    assert message in (refusal(tmp_path) if isinstance(folder, ModelFolder) else folder.reason)


def test_inputs_that_are_no_tokens(tmp_path: Path) -> None:
    text.encoder(tmp_path, inputs=("input_ids", "attention_mask", "position_ids"))
    assert "the model takes input_ids, attention_mask, position_ids; allowed for text: input_ids" in refusal(tmp_path)


def test_more_tokens_than_the_model_has_positions(tmp_path: Path) -> None:
    text.encoder(tmp_path, toml=f"{EMBEDDING}max_tokens = 20", length=12)
    assert "text.max_tokens: is 20, but the model takes 12 tokens; allowed: 1 to 12" in refusal(tmp_path)


def test_a_text_without_tokens(tmp_path: Path) -> None:
    folder = text.encoder(tmp_path)
    made = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(made | {"post_processor": None}))
    with pytest.raises(Refused, match="the text has no tokens") as caught:
        prepare(load(tmp_path), {"texts": ["red", " "]})
    assert (caught.value.code, caught.value.details["row"]) == ("invalid_input", 1)


def test_examples_of_the_folder_are_texts(tmp_path: Path) -> None:
    folder = text.ranker(tmp_path)
    (folder / "examples").mkdir()
    (folder / "examples" / "a.json").write_text(json.dumps({"query": "red", "documents": ["blue", "green"]}))
    assert load(tmp_path).card()["checked"] is True
    (folder / "examples" / "a.json").write_text(json.dumps({"text": "red"}))
    assert "a.json: is not an example of the model's input: the model takes json, not text" in refusal(tmp_path)
