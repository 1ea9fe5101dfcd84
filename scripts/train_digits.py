"""Train the bundled digits model: a small CNN, written to models/digits as an ONNX file.

Data: the 1,797 handwritten digits that come with scikit-learn (8 x 8, values 0..16; UCI "Optical Recognition of
Handwritten Digits"); nothing is downloaded. A stratified fifth is held out, used once, at the end, to measure the
written file; the recipe was chosen on a slice of the rest and on a few drawings. People send more than scans, so most
images are redrawn: moved, turned, scaled, bent, and often drawn again along the digit's centre line with another brush.

    pip install -e ".[train]"
    python scripts/train_digits.py

A few minutes on two cores; writes models/digits/1/model.onnx, models/digits/accuracy.json and samples/digits/*.png.
models/digits/model.toml describes the same preprocessing as `prepare` here.
"""

import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as nnf

MODEL, SAMPLES = (Path(__file__).resolve().parent.parent / folder / "digits" for folder in ("models", "samples"))
SEED, SIZE, PICTURE, EPOCHS, BATCH = 0, 28, 128, 100, 64  # SIZE: the model's input; PICTURE: a PNG's side
BOX, ROOM = 48, 72  # the side of the digit that is redrawn, and with the empty edge around it
# A pixel's neighbours, clockwise from above, as shifts that bring each onto it; and the groups of them that must have
# a gap for the pixel to go, in either half of a round of thinning.
NEIGHBOURS = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
HALVES = (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6)))
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "Conv2d": ("Conv", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "MaxPool2d": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "Linear": ("Gemm", {"transB": 1}),
    "ReLU": ("Relu", {}),
    "Flatten": ("Flatten", {}),
}

Array = NDArray[Any]
Tensor = Any  # torch's; Any, so that this file type-checks without torch


def png(digit: Array) -> bytes:
    """Return one 8 x 8 digit as the PNG people would send: 8-bit grey, enlarged smoothly, bright ink on black."""
    pixels, out = (digit / 16 * 255).round().astype(np.uint8), io.BytesIO()
    Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC).save(out, "PNG", optimize=True)
    return out.getvalue()


def prepare(data: bytes) -> Array:
    """Do what the server does with an image: models/digits/model.toml says the same."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)[None] / np.float32(255)


def centre_lines(ink: Array) -> Array:
    """Thin the strokes of [N, H, W] booleans to lines one pixel wide (Zhang and Suen, 1984)."""
    while True:
        before = ink.sum()
        for groups in HALVES:
            ring = np.stack([np.roll(ink, shift, (1, 2)) for shift in NEIGHBOURS])
            count, turns = ring.sum(0), (~ring & np.roll(ring, -1, 0)).sum(0)
            inside = np.any([ring[list(group)].all(0) for group in groups], axis=0)
            ink = ink & ~((count >= 2) & (count <= 6) & (turns == 1) & ~inside)
        if ink.sum() == before:
            return ink


def redrawable(digits: Array) -> Tensor:
    """Return [N, 3, H, W]: the grey digit, and how far each pixel is from its centre line, found at two thresholds."""
    grey = nnf.interpolate(torch.from_numpy(digits)[:, None].float() / 16, BOX, mode="bicubic")
    layers = [nnf.pad(grey[:, 0].clamp(0, 1), [(ROOM - BOX) // 2] * 4)]
    where = torch.cartesian_prod(torch.arange(ROOM), torch.arange(ROOM)).float()
    for threshold in (0.4, 0.55):
        lines = torch.from_numpy(centre_lines((layers[0] > threshold).numpy()))
        far = [torch.cdist(where, line.nonzero().float()).min(1).values for line in lines]
        layers.append(torch.stack(far).view(-1, ROOM, ROOM) / BOX)
    return torch.stack(layers, 1)


def uniform(count: int, low: float = 0, high: float = 1) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high)


def pixel_sources(count: int, scale: Tensor, side: int) -> Tensor:
    """Return where each pixel of a redrawn image comes from: scale, squeeze, turn, shear, shift and a gentle bend."""
    turn, shear = uniform(count, -0.22, 0.22), uniform(count, -0.28, 0.28)
    room, axis = (1.05 - scale).clamp(min=0.05), torch.linspace(-1, 1, side)
    y = axis.view(1, side, 1, 1) - room * uniform(count, -1, 1)
    x = axis.view(1, 1, side, 1) - room * uniform(count, -1, 1)
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    x = (x + shear * y) / uniform(count, 0.75, 1.25)
    bend = nnf.interpolate(torch.randn(count, 2, 4, 4) * 0.04, side, mode="bicubic").permute(0, 2, 3, 1)
    return torch.cat([x, y], 3) / scale * (BOX / ROOM) + bend


def redraw(source: Tensor) -> Tensor:
    """Return [N, 1, SIZE, SIZE]: each digit elsewhere on the canvas, its ink retouched or drawn anew with a brush."""
    count, side = len(source), 2 * SIZE
    scale, low, axis = uniform(count, 0.5, 1.05), uniform(count, 0, 0.45), torch.linspace(0, 1, side)
    moved = nnf.grid_sample(source, pixel_sources(count, scale, side), padding_mode="border", align_corners=False)
    inked = ((moved[:, :1] - low) / uniform(count, 0.4, 1.0) / (1 - low)).clamp(0, 1)
    far = torch.where(uniform(count) < 0.5, moved[:, 1:2], moved[:, 2:3]) * scale
    dot = torch.hypot(axis - uniform(count), axis[:, None] - uniform(count))  # the pen touched down
    far = torch.where(uniform(count) < 0.06, torch.minimum(far, dot), far)
    drawn = ((uniform(count, 0.022, 0.08) - far) * side + 0.5).clamp(0, 1)
    image = torch.where(uniform(count) < 0.35, inked, drawn)
    image = torch.where(uniform(count) < 0.25, nnf.avg_pool2d(image, 3, 1, 1), image)
    small = nnf.interpolate(image, SIZE, mode="bilinear", antialias=True)
    grain = torch.randn(small.shape) * uniform(count, -0.04, 0.04).clamp(min=0)
    return (small * uniform(count, 0.6, 1.0) + grain).clamp(0, 1)


def train(digits: Array, labels: Array) -> Tensor:
    """Train on the digits as they are served (a quarter of each batch) and redrawn (the rest)."""
    torch.manual_seed(SEED)
    plain = torch.from_numpy(np.stack([prepare(png(digit)) for digit in digits]))
    source, truth, steps = redrawable(digits), torch.from_numpy(labels).long(), len(digits) // BATCH
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * 3 * 3, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, EPOCHS * steps)
    for epoch in range(EPOCHS):
        for pick in torch.randperm(len(digits))[: steps * BATCH].view(steps, BATCH):
            again = pick.repeat(3)
            batch = torch.cat([plain[pick], redraw(source[again])])
            loss = nnf.cross_entropy(net(batch), truth[torch.cat([pick, again])])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.4f}")
    return net


def to_onnx(net: Tensor) -> onnx.ModelProto:
    """Write the trained layers as ONNX nodes, one for one; dropout has no part in answering."""
    nodes, weights, names = [], [], ["image"]
    layers = [layer for layer in net if not isinstance(layer, nn.Dropout)]
    for index, layer in enumerate(layers):
        operator, attributes = OPERATORS[type(layer).__name__]
        own = {f"{name}{index}": tensor.detach().numpy() for name, tensor in layer.named_parameters()}
        weights += [numpy_helper.from_array(tensor, name) for name, tensor in own.items()]
        names.append("logits" if layer is layers[-1] else f"layer{index}")
        nodes.append(helper.make_node(operator, [names[-2], *own], names[-1:], **attributes))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "digits", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model: bytes, images: list[bytes], labels: Array) -> float:
    """Return the share of PNGs that the ONNX file reads right, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": np.stack([prepare(image) for image in images])})[0]
    return float((np.asarray(logits).argmax(1) == labels).mean())


def main() -> None:
    data = load_digits()
    parts = train_test_split(data.images, data.target, test_size=0.2, stratify=data.target, random_state=SEED)
    seen, unseen, seen_labels, unseen_labels = parts
    model, pngs = to_onnx(train(seen, seen_labels)).SerializeToString(), [png(digit) for digit in unseen]
    tools = ("onnxruntime", "numpy", "pillow", "scikit-learn", "torch", "onnx")
    report = {
        "data": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits), 1,797 images of 8 x 8",
        "seed": SEED,
        "split": "stratified, a fifth held out (train_test_split, random_state = seed)",
        "train_size": len(seen),
        "held_out_size": len(unseen),
        "held_out_accuracy": round(accuracy(model, pngs, unseen_labels), 4),
        "measured_with": {tool: version(tool) for tool in tools},
    }
    (MODEL / "1" / "model.onnx").write_bytes(model)
    (MODEL / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
    for digit in range(10):
        for number, index in enumerate(np.flatnonzero(unseen_labels == digit)[:5], 1):
            (SAMPLES / f"{digit}_{number:02}.png").write_bytes(pngs[index])
    print(json.dumps(report, indent=2), f"{len(model)} bytes")


if __name__ == "__main__":
    main()
