"""Trains the bundled digits model, a small CNN, and writes it to models/digits as an ONNX file.

Data: the 1,797 handwritten digits in scikit-learn (8 x 8, values 0..16; UCI "Optical Recognition of Handwritten
Digits"); nothing is downloaded. A stratified fifth is held out and used once, to measure the written file. The recipe
was chosen on a part of the rest and on a few drawings. Most training images are augmented: moved, rotated, scaled,
bent, and often redrawn along the centre line of the digit with another brush.

    pip install -e ".[train]"
    python scripts/train_digits.py

It takes a few minutes on two cores and writes models/digits/1/model.onnx, models/digits/accuracy.json and
samples/digits/*.png. models/digits/model.toml describes the same preprocessing as `preprocess` here.
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
BOX, CANVAS = 48, 72  # sides of a digit for augmentation, without and with its empty margin
# Zhang-Suen thinning: the shifts to a pixel's neighbours, clockwise from above, and, for both halves of a round, the
# groups of neighbours that must have a gap before the pixel is removed.
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
Tensor = Any  # of torch; Any, so that this file type-checks without torch


def png(digit: Array) -> bytes:
    """Return an 8 x 8 digit as a PNG: 8-bit grey, enlarged smoothly, bright ink on black."""
    pixels, out = (digit / 16 * 255).round().astype(np.uint8), io.BytesIO()
    Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC).save(out, "PNG", optimize=True)
    return out.getvalue()


def preprocess(data: bytes) -> Array:
    """Preprocess an image as the server does with models/digits/model.toml."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)[None] / np.float32(255)


def centre_lines(ink: Array) -> Array:
    """Thin the strokes of [N, H, W] booleans to lines one pixel wide (Zhang and Suen, 1984)."""
    while True:
        before = ink.sum()
        for groups in HALVES:
            around = np.stack([np.roll(ink, shift, (1, 2)) for shift in NEIGHBOURS])
            count, crossings = around.sum(0), (~around & np.roll(around, -1, 0)).sum(0)
            inside = np.any([around[list(group)].all(0) for group in groups], axis=0)
            ink = ink & ~((count >= 2) & (count <= 6) & (crossings == 1) & ~inside)
        if ink.sum() == before:
            return ink


def augmentation_layers(digits: Array) -> Tensor:
    """Return [N, 3, H, W]: the grey digit, and the distance of each pixel to its centre line at two thresholds."""
    grey = nnf.interpolate(torch.from_numpy(digits)[:, None].float() / 16, BOX, mode="bicubic")
    layers = [nnf.pad(grey[:, 0].clamp(0, 1), [(CANVAS - BOX) // 2] * 4)]
    where = torch.cartesian_prod(torch.arange(CANVAS), torch.arange(CANVAS)).float()
    for threshold in (0.4, 0.55):
        lines = torch.from_numpy(centre_lines((layers[0] > threshold).numpy()))
        distances = [torch.cdist(where, line.nonzero().float()).min(1).values for line in lines]
        layers.append(torch.stack(distances).view(-1, CANVAS, CANVAS) / BOX)
    return torch.stack(layers, 1)


def uniform(count: int, low: float = 0, high: float = 1) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high)


def pixel_sources(count: int, scale: Tensor, side: int) -> Tensor:
    """Return the source position of each pixel: random scale, squeeze, rotation, shear, shift and bend."""
    angle, shear = uniform(count, -0.22, 0.22), uniform(count, -0.28, 0.28)
    margin, axis = (1.05 - scale).clamp(min=0.05), torch.linspace(-1, 1, side)
    y = axis.view(1, side, 1, 1) - margin * uniform(count, -1, 1)
    x = axis.view(1, 1, side, 1) - margin * uniform(count, -1, 1)
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    x = (x + shear * y) / uniform(count, 0.75, 1.25)
    bend = nnf.interpolate(torch.randn(count, 2, 4, 4) * 0.04, side, mode="bicubic").permute(0, 2, 3, 1)
    return torch.cat([x, y], 3) / scale * (BOX / CANVAS) + bend


def redraw(source: Tensor) -> Tensor:
    """Return [N, 1, SIZE, SIZE]: each digit moved on the canvas, with changed ink or redrawn with a brush."""
    count, side = len(source), 2 * SIZE
    scale, low, axis = uniform(count, 0.5, 1.05), uniform(count, 0, 0.45), torch.linspace(0, 1, side)
    moved = nnf.grid_sample(source, pixel_sources(count, scale, side), padding_mode="border", align_corners=False)
    inked = ((moved[:, :1] - low) / uniform(count, 0.4, 1.0) / (1 - low)).clamp(0, 1)
    distance = torch.where(uniform(count) < 0.5, moved[:, 1:2], moved[:, 2:3]) * scale
    dot = torch.hypot(axis - uniform(count), axis[:, None] - uniform(count))  # a dot of the pen
    distance = torch.where(uniform(count) < 0.06, torch.minimum(distance, dot), distance)
    drawn = ((uniform(count, 0.022, 0.08) - distance) * side + 0.5).clamp(0, 1)
    image = torch.where(uniform(count) < 0.35, inked, drawn)
    image = torch.where(uniform(count) < 0.25, nnf.avg_pool2d(image, 3, 1, 1), image)
    small = nnf.interpolate(image, SIZE, mode="bilinear", antialias=True)
    grain = torch.randn(small.shape) * uniform(count, -0.04, 0.04).clamp(min=0)
    return (small * uniform(count, 0.6, 1.0) + grain).clamp(0, 1)


def train(digits: Array, labels: Array) -> Tensor:
    """Train on preprocessed digits (a quarter of each batch) and augmented ones (the rest)."""
    torch.manual_seed(SEED)
    plain = torch.from_numpy(np.stack([preprocess(png(digit)) for digit in digits]))
    source, targets, steps = augmentation_layers(digits), torch.from_numpy(labels).long(), len(digits) // BATCH
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
            repeated = pick.repeat(3)
            batch = torch.cat([plain[pick], redraw(source[repeated])])
            loss = nnf.cross_entropy(net(batch), targets[torch.cat([pick, repeated])])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.4f}")
    return net


def to_onnx(net: Tensor) -> onnx.ModelProto:
    """Convert the trained layers to ONNX nodes, one by one, without dropout."""
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
    """Return the accuracy of the ONNX file on PNGs, with ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": np.stack([preprocess(image) for image in images])})[0]
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
