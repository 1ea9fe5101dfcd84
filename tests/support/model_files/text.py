"""Models for text whose answers are exact by construction, with a tokenizer of whole words.

Tokens are numbered as in VOCABULARY. A text becomes [CLS] words [SEP], a pair [CLS] words [SEP] words [SEP].
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("red", "green", "blue", "Anna", "Smith", "Oslo", "likes")
VOCABULARY = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS)
# A vector of each token: 4 numbers, exact in FP32.
TABLE = np.array([[token, token % 3, -token, 2**-token] for token in range(len(VOCABULARY))], np.float32)
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_LABEL_OF_WORD = {"Anna": 1, "Smith": 2, "Oslo": 3}


def ids_of(*words: str) -> list[int]:
    """The token ids of a text of these words."""
    return [VOCABULARY.index(word) if word in VOCABULARY else 3 for word in ("[CLS]", *words, "[SEP]")]


def tokenizer(words: Sequence[str] = VOCABULARY) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=VOCABULARY[3]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([*VOCABULARY[:4]])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return made


def lay_out(
    models_dir: Path,
    name: str,
    toml: str,
    nodes: Sequence[NodeProto],
    output: Sequence[int | str | None],
    *,
    table: Any = TABLE,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    kind: int = TensorProto.INT64,
    length: int | str = "sequence",
    files: dict[str, Any] | None = None,
) -> Path:
    """Lay out a model that begins with `vectors`, the rows of the table, and `mask` [N, T, 1]; its output is `y`."""
    graph_inputs = [helper.make_tensor_value_info(each, kind, ["batch", length]) for each in inputs]
    first = [helper.make_node("Gather", ["table", "input_ids"], ["vectors"])]
    constants = [numpy_helper.from_array(np.asarray(table, np.float32), "table")]
    constants += [numpy_helper.from_array(np.array([-1], np.int64), "last")]
    constants += [numpy_helper.from_array(np.array([1], np.int64), "tokens")]
    if "attention_mask" in inputs:
        first += [
            helper.make_node("Cast", ["attention_mask"], ["flags"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["flags", "last"], ["mask"]),
        ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    graph = helper.make_graph([*first, *nodes], "text", graph_inputs, outputs, constants)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(toml)
    tokenizer().save(str(folder / "tokenizer.json"))
    for file, content in (files or {}).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def _mean_nodes(result: str) -> list[NodeProto]:
    """The mean of the vectors of tokens whose mask is 1: [N, 1, D]."""
    return [
        helper.make_node("Mul", ["vectors", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "tokens"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], [result]),
    ]


def encoder(models_dir: Path, name: str = "encoder", toml: str = "", **more: Any) -> Path:
    """A vector of each token: its row of the table, and the mean of all that the mask shows added to it."""
    nodes = [*_mean_nodes("mean"), helper.make_node("Add", ["vectors", "mean"], ["y"])]
    toml = toml or 'task = "text-embedding"\n[text]\nnormalize = false'
    return lay_out(models_dir, name, toml, nodes, ["batch", more.get("length", "sequence"), 4], **more)


def careless_encoder(models_dir: Path, name: str = "careless", toml: str = "", **more: Any) -> Path:
    """An encoder that takes a mask and does not apply it: padding changes its answers."""
    nodes = [
        helper.make_node("ReduceMean", ["vectors"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mask", "mask"], ["seen"]),
        helper.make_node("Mul", ["vectors", "seen"], ["own"]),
        helper.make_node("Add", ["own", "mean"], ["y"]),
    ]
    toml = toml or 'task = "text-embedding"\n[text]\nnormalize = false'
    return lay_out(models_dir, name, toml, nodes, ["batch", "sequence", 4], **more)


def classifier(models_dir: Path, name: str = "colors", toml: str = "", **more: Any) -> Path:
    """Three classes: the share of red, green and blue among all tokens."""
    table = np.zeros((len(VOCABULARY), 3), np.float32)
    table[[4, 5, 6], [0, 1, 2]] = 1
    nodes = [*_mean_nodes("mean"), helper.make_node("Squeeze", ["mean", "tokens"], ["y"])]
    toml = toml or 'task = "text-classification"\nmax_wait_ms = 20\n[text]\nactivation = "none"'
    files = {"config.json": {"id2label": {"0": "red", "1": "green", "2": "blue"}}} | more.pop("files", {})
    return lay_out(models_dir, name, toml, nodes, ["batch", 3], table=table, files=files, **more)


def tagger(models_dir: Path, name: str = "names", toml: str = 'task = "token-classification"', **more: Any) -> Path:
    """Labels of tokens: Anna begins a person, Smith goes on, Oslo is a place; each has the score 0.75 by softmax."""
    table = np.zeros((len(VOCABULARY), len(LABELS)), np.float32)
    for word, token in zip(VOCABULARY, range(len(VOCABULARY)), strict=True):
        table[token, _LABEL_OF_WORD.get(word, 0)] = np.log(12)  # 12 / (12 + 4)
    nodes = [helper.make_node("Mul", ["vectors", "mask"], ["y"])]
    files = {"config.json": {"id2label": {str(at): label for at, label in enumerate(LABELS)}}}
    return lay_out(models_dir, name, toml, nodes, ["batch", "sequence", len(LABELS)], table=table, files=files, **more)


def undefined_ranker(models_dir: Path) -> Path:
    """A ranker whose score is NaN for a document with the word Anna."""
    table = np.arange(len(VOCABULARY), dtype=np.float32)[:, np.newaxis]
    table[VOCABULARY.index("Anna")] = np.nan
    return ranker(models_dir, "undefined", table=table)


def ranker(models_dir: Path, name: str = "ranker", toml: str = "", table: Any = None) -> Path:
    """The score of a pair: the sum of a document's token ids, and 100 times that of the query's."""
    table = np.arange(len(VOCABULARY), dtype=np.float32)[:, np.newaxis] if table is None else table
    nodes = [
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types", "last"], ["is_document"]),
        helper.make_node("Constant", [], ["hundred"], value_float=100.0),
        helper.make_node("Constant", [], ["less"], value_float=-99.0),
        helper.make_node("Mul", ["is_document", "less"], ["reduced"]),
        helper.make_node("Add", ["reduced", "hundred"], ["weights"]),
        helper.make_node("Mul", ["vectors", "mask"], ["seen"]),
        helper.make_node("Mul", ["seen", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "tokens"], ["y"], keepdims=0),
    ]
    toml = toml or 'task = "text-ranking"\nmax_wait_ms = 20\n[text]\nactivation = "none"'
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    return lay_out(models_dir, name, toml, nodes, ["batch", 1], table=table, inputs=inputs)
