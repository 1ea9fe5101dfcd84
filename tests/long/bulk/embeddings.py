"""A batch of embeddings by OpenAI's client while every part is killed in turn; each vector must equal the reference.

The reference runs each text alone with `tokenizers` and ONNX Runtime, and takes the mean of its tokens, scaled to
length 1. `embeddings.create` is compared with it, too. Exit code 1: a line is lost, doubled or fails, or a number
differs by more than 1e-5.

`--model`: a folder as Hugging Face has it, with model.onnx and tokenizer.json; without it a small encoder is made.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.long.bulk.soak import BulkMonitor, kill_in_turn
from tests.support import bulks
from tests.support.model_files.transformer import doc_paragraphs, encoder
from tests.support.service import Service
from tests.support.waiting import wait_until

TOLERANCE: Final = 1e-5
MAX_TOKENS: Final = 128
DIFFERENT_TEXTS: Final = 4999
LIMIT_S: Final = 1800.0
PATIENT: Final = {"JITNEY_LEASE_S": "5", "JITNEY_HEARTBEAT_S": "1"}
TOML: Final = f'task = "text-embedding"\n[text]\nmax_tokens = {MAX_TOKENS}\npooling = "mean"\nnormalize = true\n'


class Reference:
    """Embeds one text at a time."""

    def __init__(self, folder: Path) -> None:
        self._session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        outputs = self._session.get_outputs()
        self._output = next(each.name for each in outputs if each.type == "tensor(float)" and len(each.shape) == 3)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a text."""
        if text not in self._known:
            found = self._tokenizer.encode(text)
            values = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
            feed = {each.name: np.array([values[each.name]], np.int64) for each in self._session.get_inputs()}
            (tokens,) = self._session.run([self._output], feed)
            mean = tokens[0].mean(axis=0)
            self._known[text] = mean / np.linalg.norm(mean)
        return self._known[text]


def lay_out(models_dir: Path, source: Path | None, texts: list[str]) -> Path:
    """Lay out the model under the name `embed`."""
    if source is None:
        return encoder(models_dir, "embed", 2, 64, 4, toml=TOML, texts=texts)
    folder = models_dir / "embed"
    (folder / "1").mkdir(parents=True)
    (file,) = source.rglob("*.onnx")
    shutil.copy(file, folder / "1" / "model.onnx")
    for path in source.rglob("*.json"):
        shutil.copy(path, folder / path.name)
    (folder / "model.toml").write_text(TOML)
    return folder


def worst_of(ai: Any, file_id: str | None, texts: dict[str, str], reference: Reference) -> tuple[Counter[str], float]:
    """Return how often each line is in a file of results, and the largest difference to the reference."""
    found, worst = Counter[str](), 0.0
    if file_id is None:
        return found, worst
    with ai.files.with_streaming_response.content(file_id) as answer:
        for line in answer.iter_lines():
            result = json.loads(line)
            found[result["custom_id"]] += 1
            if result["error"] is None and result["response"]["status_code"] == 200:
                vector = np.array(result["response"]["body"]["data"][0]["embedding"])
                expected = reference.embed(texts[result["custom_id"]])
                worst = max(worst, float(np.abs(vector - expected).max()))
    return found, worst


def run(count: int, interval_s: float, source: Path | None) -> bool:
    """Run it; return whether every check holds."""
    paragraphs = doc_paragraphs()
    different = [f"{at} {paragraphs[at % len(paragraphs)]}" for at in range(DIFFERENT_TEXTS)]
    texts = {f"text-{at}": different[at % DIFFERENT_TEXTS] for at in range(count)}
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(lay_out(Path(folder) / "models", source, paragraphs))
        with Service(Path(folder) / "models", env=PATIENT) as service:
            ai = bulks.client(service.url, timeout=600)
            some = list(texts.values())[:50]
            created = ai.embeddings.create(model="embed", input=some)
            alone = max(
                float(np.abs(np.array(each.embedding) - reference.embed(text)).max())
                for each, text in zip(created.data, some, strict=True)
            )
            path = Path(folder) / "lines.jsonl"
            with path.open("w") as file:
                for name, text in texts.items():
                    body = {"model": "embed", "input": text, "encoding_format": "float"}
                    line = {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body}
                    file.write(json.dumps(line) + "\n")
            with path.open("rb") as lines:
                uploaded = ai.files.create(file=lines, purpose="batch")
            began_s = time.monotonic()
            batch = ai.batches.create(input_file_id=uploaded.id, endpoint="/v1/embeddings", completion_window="24h")
            watch = BulkMonitor(service, ai, batch.id)
            watch.start()
            kills = kill_in_turn(service, watch, interval_s)
            wait_until(lambda: watch.status in bulks.ENDED, "the batch ends", LIMIT_S)
            took_s = time.monotonic() - began_s
            watch.over.set()
            watch.join()
            done = ai.batches.retrieve(batch.id)
            found, worst = worst_of(ai, done.output_file_id, texts, reference)
            failed, _ = worst_of(ai, done.error_file_id, texts, reference)
    lost, twice = len(texts.keys() - found.keys()), sum(times > 1 for times in found.values())
    print(f"{done.status} after {took_s:.0f} s: {count / took_s:.0f} texts/s; killed: {dict(kills)}")
    print(f"lost {lost}, twice {twice}, failed {len(failed)}; largest difference {worst:.1e}, created {alone:.1e}")
    return (done.status, lost, twice, len(failed)) == ("completed", 0, 0, 0) and max(worst, alone) <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--kill-every", type=float, default=5, help="seconds between two kills")
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    return 0 if run(given.lines, given.kill_every, given.model) else 1


if __name__ == "__main__":
    sys.exit(main())
