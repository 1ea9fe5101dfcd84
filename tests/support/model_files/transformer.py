"""Networks for texts with random weights: encoders of any size, and one that averages words; paragraphs of the docs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.model_files.graphs import Values, int64_constant, node, write
from tests.support.service import ROOT

VOCABULARY: Final = 4000
MASKED: Final = -1e4


def doc_paragraphs(most_words: int = 160) -> list[str]:
    """The paragraphs and list items of the documentation, by file and place: a real English text."""
    texts = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
    prose = [re.sub(r"```.*?```|^[|#].*?$", " ", text, flags=re.DOTALL | re.MULTILINE) for text in texts]
    found = [" ".join(part.split()) for text in prose for part in re.split(r"\n\s*\n|\n[-*] ", text)]
    return [paragraph for paragraph in found if 2 <= len(paragraph.split()) <= most_words]


def tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Word pieces learned from the texts."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 (a word)
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def encoder(
    models_dir: Path, name: str, layers: int, width: int, heads: int, *, toml: str, texts: Sequence[str]
) -> Path:
    """Lay out an encoder: `last_hidden_state` has a vector of `width` numbers for each token, `mean` their mean."""
    random = np.random.default_rng(7)
    graph = _Encoder(random, width, heads)
    graph.embed()
    for layer in range(layers):
        graph.layer(layer)
    graph.nodes.append(helper.make_node("Identity", [graph.last], ["last_hidden_state"]))
    graph.pool()
    inputs = [
        helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", "sequence"])
        for each in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", width]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", width]),
    ]
    made = helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "1" / "model.onnx"
    )
    (folder / "model.toml").write_text(toml)
    tokenizer(texts).save(str(folder / "tokenizer.json"))
    return folder


def averager(models_dir: Path, name: str, width: int, toml: str) -> Path:
    """Lay out a network of token ids `ids` and `mask` [batch, sequence]: dense layers over the mean of word vectors."""
    random = np.random.default_rng(7)

    def weight(rows: int, columns: int) -> Values:
        values: Values = (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        return values

    nodes = [
        node("Gather", ["table", "ids"], ["vectors"]),
        node("Unsqueeze", ["mask", "last_axis"], ["flags"]),
        node("Mul", ["vectors", "flags"], ["seen"]),
        node("ReduceSum", ["seen", "token_axis"], ["sum"], keepdims=0),
        node("ReduceSum", ["flags", "token_axis"], ["count"], keepdims=0),
        node("Div", ["sum", "count"], ["mean"]),
        node("MatMul", ["mean", "first"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "second"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", "third"], ["y"]),
    ]
    constants: dict[str, Values] = {"table": weight(VOCABULARY, 64), "first": weight(64, width)}
    constants |= {"second": weight(width, width), "third": weight(width, 8)}
    constants |= {"last_axis": int64_constant(2), "token_axis": int64_constant(1)}
    folder = models_dir / name
    shape = ["batch", "sequence"]
    write(
        folder / "1" / "model.onnx",
        nodes,
        {"ids": shape, "mask": shape},
        {"y": ["batch", 8]},
        constants,
        kinds={"ids": TensorProto.INT64},
    )
    (folder / "model.toml").write_text(toml)
    return folder


class _Encoder:
    """The graph as it grows; `last` is the tensor [batch, sequence, width] of the last layer."""

    def __init__(self, random: np.random.Generator, width: int, heads: int) -> None:
        self._random, self._width, self._heads = random, width, heads
        self.nodes: list[NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = ""

    def embed(self) -> None:
        """Look up each token, and turn the mask into a bias of the scores, [batch, 1, 1, sequence]."""
        table = self._weight("table", VOCABULARY, self._width)
        self.last = self._node("Gather", table, "input_ids")
        flags = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        spread = self._node("Unsqueeze", flags, self._constant("axes", np.array([1, 2], np.int64)))
        hidden = self._node("Sub", self._constant("one", np.float32(1)), spread)
        self._bias = self._node("Mul", hidden, self._constant("masked", np.float32(MASKED)))

    def pool(self) -> None:
        """Return the mean of the vectors of content as `mean`."""
        flags = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        weights = self._node("Unsqueeze", flags, self._constant("last_axis", np.array([2], np.int64)))
        axis = self._constant("token_axis", np.array([1], np.int64))
        total = self._node("ReduceSum", self._node("Mul", self.last, weights), axis, keepdims=0)
        count = self._node("ReduceSum", weights, axis, keepdims=0)
        self.nodes.append(helper.make_node("Div", [total, count], ["mean"]))

    def layer(self, number: int) -> None:
        """Attention and two dense layers, each with a residual and a normalization."""
        heads, size = self._heads, self._width // self._heads
        split = self._constant(f"split{number}", np.array([0, 0, heads, size], np.int64))
        parts = [self._node("Reshape", self._dense(self.last, f"{part}{number}", self._width), split) for part in "qkv"]
        query, key, value = (
            self._node("Transpose", part, perm=perm)
            for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scaled = self._node(
            "Mul", self._node("MatMul", query, key), self._constant(f"scale{number}", np.float32(size**-0.5))
        )
        shares = self._node("Softmax", self._node("Add", scaled, self._bias), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        joined = self._node("Reshape", mixed, self._constant(f"join{number}", np.array([0, 0, self._width], np.int64)))
        self._residual(self._dense(joined, f"o{number}", self._width), f"a{number}")
        inner = self._node("Relu", self._dense(self.last, f"f{number}", 4 * self._width))
        self._residual(self._dense(inner, f"g{number}", self._width), f"b{number}")

    def _residual(self, tensor: str, name: str) -> None:
        scale, bias = np.ones(self._width, np.float32), np.zeros(self._width, np.float32)
        total = self._node("Add", tensor, self.last)
        self.last = self._node(
            "LayerNormalization", total, self._constant(f"s{name}", scale), self._constant(f"z{name}", bias)
        )

    def _dense(self, tensor: str, name: str, outputs: int) -> str:
        inputs = self._width * 4 if name.startswith("g") else self._width
        product = self._node("MatMul", tensor, self._weight(f"w{name}", inputs, outputs))
        return self._node("Add", product, self._constant(f"c{name}", np.zeros(outputs, np.float32)))

    def _weight(self, name: str, rows: int, columns: int) -> str:
        return self._constant(name, (self._random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32))

    def _constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name
