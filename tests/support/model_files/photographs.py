"""More photographs: deterministic crops and mirror images of the shared ones."""

import random
from pathlib import Path

from PIL import Image, ImageOps


def cuts(photos: Path, folder: Path, each: int, seed: int) -> Path:
    """A number of crops of each photograph, half of them mirrored, of half to nearly full size."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for path in sorted(photos.iterdir()):
        with Image.open(path) as opened:
            whole = ImageOps.exif_transpose(opened).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
        picture.thumbnail((640, 640))
        for number in range(each):
            share = rng.uniform(0.5, 0.95)
            width, height = (round(side * share) for side in picture.size)
            left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
            cut = picture.crop((left, top, left + width, top + height))
            (ImageOps.mirror(cut) if number % 2 else cut).save(folder / f"{path.stem}-{number}.jpg", quality=92)
    return folder
