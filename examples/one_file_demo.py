"""Serves a model and a demo page in one file and one process: no queue, no workers, no batches.

python3 examples/one_file_demo.py [MODEL_FOLDER]      then open http://127.0.0.1:5000 (JITNEY_PORT sets the port), or
curl -F image=@photo.jpg http://127.0.0.1:5000/predict

It is enough for a demo: every request runs alone, and requests in progress are lost with the process. For production,
`JITNEY_MODELS_DIR=... make run` serves the same folder, and the same request works there.
"""

import os
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse

from batching.collation import split_outputs, stack_items
from jitney import Refused, list_models, load_model

PAGE = """<!doctype html><meta charset=utf-8><title>Demo</title>
<style>body { font: 1.1rem system-ui; max-width: 32rem; margin: 4rem auto } li { margin: .3rem 0 }</style>
<h1>What is it?</h1><input type=file accept="image/*" aria-label="A picture"><ol></ol><script>
document.querySelector("input").onchange = async ({ target }) => {
  const body = new FormData(); body.append("image", target.files[0]);
  const answer = await (await fetch("/predict", { method: "POST", body })).json();
  const line = (textContent) => Object.assign(document.createElement("li"), { textContent });
  const text = ({ label, probability }) => `${label}: ${(100 * probability).toFixed(1)} %`;
  document.querySelector("ol").replaceChildren(...(answer.predictions?.map(text) ?? [answer.detail]).map(line));
};</script>"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "models" / "digits").resolve()
(listed,) = list_models(folder.parent, [folder.name])
model = load_model(listed)
app = FastAPI()


@app.get("/", response_class=HTMLResponse)
def page():
    return PAGE


@app.post("/predict")
def predict(image: UploadFile):
    try:
        arrays = model.preprocess("image", image.file.read(), {})
        (outputs,) = split_outputs(model.run(stack_items([arrays])), 1)
        predictions = model.postprocess(outputs, {})["predictions"]
    except Refused as error:
        return JSONResponse({"success": False, "detail": str(error)}, 400)
    return {
        "success": True,
        "predictions": [{name: row[name] for name in ("label", "probability")} for row in predictions],
    }


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("JITNEY_PORT", "5000")), log_level="warning")
