"""Calls a service with all that tritonclient's HTTP client can do. Runs in an environment of its own, not in ours.

Arguments: host:port, a file of input arrays by model, and a file for the outputs, which the test compares.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ADDRESS, INPUTS, OUTPUTS = sys.argv[1:4]


def tensor(name: str, array: Any, datatype: str = "", *, binary: bool = True) -> Any:
    array = array.astype(ml_dtypes.bfloat16) if datatype == "BF16" else array
    each = http.InferInput(name, array.shape, datatype or np_to_triton_dtype(array.dtype))
    each.set_data_from_numpy(array, binary_data=binary)
    return each


def failure(call: Callable[..., Any], *args: Any, **more: Any) -> tuple[str | None, str]:
    """Return the status and the message of the error that a call raises."""
    try:
        call(*args, **more)
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("no error")


def describe(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("mnist", "7")
    assert not client.is_model_ready("nothing")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    found = client.get_model_metadata("mnist")
    assert found["inputs"] == [{"name": "Input3", "datatype": "FP32", "shape": [-1, 1, 28, 28]}], found
    assert client.get_model_metadata("mnist", "1")["versions"] == ["1"]
    assert client.get_model_config("mnist")["max_batch_size"] == 64
    assert client.get_model_config("mnist", "1")["output"][0]["data_type"] == "TYPE_FP32"
    names = {entry["name"] for entry in client.get_model_repository_index()}
    assert {"mnist", "double", "digits"} <= names, names
    stats = client.get_inference_statistics("double")["model_stats"][0]
    assert (stats["name"], stats["version"]) == ("double", "1")
    assert len(client.get_inference_statistics()["model_stats"]) == len(names)


def infer_all(client: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Run each model on its array in all forms; return the outputs, which must be the same."""
    results = {}
    for model, array in arrays.items():
        found = client.get_model_metadata(model)
        name, datatype, output = found["inputs"][0]["name"], found["inputs"][0]["datatype"], found["outputs"][0]["name"]
        first: Any = None
        for is_binary in (True, False):
            if not is_binary and datatype in {"FP16", "BF16"}:  # this client sends them as bytes only
                continue
            given = [tensor(name, array, datatype, binary=is_binary)]
            for asked in (None, True, False):
                outputs = None if asked is None else [http.InferRequestedOutput(output, binary_data=asked)]
                if asked is False and datatype == "BF16":  # nor does it read such JSON
                    continue
                for packed in (None, "gzip", "deflate"):
                    result = client.infer(
                        model,
                        given,
                        outputs=outputs,
                        request_id="7",
                        request_compression_algorithm=packed,
                        response_compression_algorithm=packed,
                    )
                    assert result.get_response()["id"] == "7"
                    assert result.get_response()["model_version"] == "1"
                    assert result.get_output(output)["datatype"] == datatype
                    values = result.as_numpy(output)
                    if datatype == "BYTES":  # bytes, or text of JSON
                        values = np.array([str(each, "utf-8") if type(each) is bytes else each for each in values.flat])
                        values = values.reshape(array.shape)
                    values = values.astype(np.float32) if datatype == "BF16" else values
                    first = values if first is None else first
                    assert values.dtype == first.dtype, (model, values.dtype)
                    assert np.array_equal(values, first), model
        results[model] = first
    return results


def options(client: Any, array: Any) -> None:
    given = [tensor("x", array)]
    pinned = client.infer("double", given, model_version="1", priority=2, timeout=5_000_000, headers={"X-Any": "1"})
    assert np.array_equal(pinned.as_numpy("y"), 2 * array)
    classes = client.infer("double", given, outputs=[http.InferRequestedOutput("y", class_count=2)]).as_numpy("y")
    assert classes.shape == (len(array), 2)
    score, index = classes[0][0].decode().split(":")
    assert (float(score), int(index)) == (2 * array[0].max(), array[0].argmax())
    calls = [client.async_infer("double", given) for _ in range(20)]
    assert all(np.array_equal(call.get_result().as_numpy("y"), 2 * array) for call in calls)
    body, length = client.generate_request_body(given)
    assert length < len(body)


def errors(client: Any, array: Any) -> None:
    assert failure(client.infer, "nothing", [tensor("x", array)])[0] == "404"
    assert failure(client.infer, "double", [tensor("x", array)], model_version="7")[0] == "404"
    status, message = failure(client.infer, "double", [tensor("z", array)])
    assert (status, "takes the inputs ['x']" in message) == ("400", True), message
    assert failure(client.infer, "double", [tensor("x", array.astype(np.float64))])[0] == "400"
    assert failure(client.infer, "double", [tensor("x", array[0])])[0] == "400"
    asked = [http.InferRequestedOutput("z")]
    assert failure(client.infer, "double", [tensor("x", array)], outputs=asked)[0] == "400"
    assert failure(client.get_model_metadata, "nothing")[0] == "404"


def repository(client: Any) -> None:
    client.unload_model("other")
    assert not client.is_model_ready("other")
    assert failure(client.load_model, "other", config="{}")[0] == "400"
    client.load_model("other")
    assert client.is_model_ready("other")


def image(client: Any, data: Any) -> None:
    picture = np.array([data.tobytes()], dtype=np.object_)
    answer = client.infer("digits", [tensor("image", picture, "BYTES")]).as_numpy("output")
    assert b'"predictions"' in answer[0], answer


async def infer_async(array: Any) -> None:
    async with aio.InferenceServerClient(ADDRESS) as client:
        given = [aio.InferInput("x", array.shape, "FP32")]
        given[0].set_data_from_numpy(array)
        results = await asyncio.gather(*[client.infer("double", given) for _ in range(20)])
        assert all(np.array_equal(result.as_numpy("y"), 2 * array) for result in results)
        assert await client.is_server_ready()


def main() -> None:
    arrays = dict(np.load(INPUTS))
    picture, double = arrays.pop("picture"), arrays["double"]
    arrays = {name: array.astype(np.object_) if array.dtype.kind == "U" else array for name, array in arrays.items()}
    client = http.InferenceServerClient(ADDRESS, concurrency=8)
    describe(client)
    outputs = infer_all(client, arrays)
    options(client, double)
    errors(client, double)
    repository(client)
    image(client, picture)
    asyncio.run(infer_async(double))
    client.close()
    np.savez(OUTPUTS, **outputs)


main()
