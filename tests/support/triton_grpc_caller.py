"""Calls a service with all that tritonclient's gRPC client can do. Runs in an environment of its own, not in ours.

Arguments: host:port, a file of input arrays by model, a file for the outputs, which the test compares, and a file with
the service's own description of the protocol.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient import grpc
from tritonclient.grpc import aio, model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ADDRESS, INPUTS, OUTPUTS, PROTOCOL = sys.argv[1:]


def tensor(name: str, array: Any, datatype: str = "") -> Any:
    array = array.astype(ml_dtypes.bfloat16) if datatype == "BF16" else array
    each = grpc.InferInput(name, array.shape, datatype or np_to_triton_dtype(array.dtype))
    each.set_data_from_numpy(array)
    return each


def failure(call: Callable[..., Any], *args: Any, **more: Any) -> tuple[str, str]:
    """Return the status and the message of the error that a call raises."""
    try:
        call(*args, **more)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode."), error.message()
    raise AssertionError("no error")


def facts(messages: Iterable[Any], scope: str = "") -> Iterator[tuple[Any, ...]]:
    """Yield the fields of messages: what is sent, and under which number."""
    for message in messages:
        for field in message.field:
            kind = field.type_name.rpartition(".")[2]
            yield scope + message.name, field.name, field.number, field.label, field.type, kind
        yield from facts(message.nested_type, f"{scope}{message.name}.")


def protocol() -> None:
    """Compare the description of the protocol with the client's: it is a part of it."""
    ours, theirs = FileDescriptorProto.FromString(Path(PROTOCOL).read_bytes()), []
    for module in (service_pb2, model_config_pb2):
        theirs.append(FileDescriptorProto())
        module.DESCRIPTOR.CopyToProto(theirs[-1])
    known = {fact for each in theirs for fact in facts(each.message_type)}
    found = set(facts(ours.message_type))
    assert found <= known, sorted(found - known)
    values = {(value.name, value.number) for each in theirs for enum in each.enum_type for value in enum.value}
    assert {(value.name, value.number) for enum in ours.enum_type for value in enum.value} <= values
    methods = {method.name: method for each in theirs for service in each.service for method in service.method}
    for method in ours.service[0].method:
        their = methods[method.name]
        assert (method.input_type, method.output_type) == (their.input_type, their.output_type)
        assert (method.client_streaming, method.server_streaming) == (their.client_streaming, their.server_streaming)


def describe(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("mnist", "7")
    assert not client.is_model_ready("nothing")
    assert "statistics" in client.get_server_metadata().extensions
    found = client.get_model_metadata("mnist", as_json=True)
    assert found["inputs"] == [{"name": "Input3", "datatype": "FP32", "shape": ["-1", "1", "28", "28"]}], found
    assert list(client.get_model_metadata("mnist", "1").versions) == ["1"]
    assert client.get_model_config("mnist").config.max_batch_size == 64
    assert client.get_model_config("mnist", "1", as_json=True)["config"]["output"][0]["data_type"] == "TYPE_FP32"
    names = {model.name: model.state for model in client.get_model_repository_index().models}
    assert names["mnist"] == names["double"] == names["digits"] == "READY", names
    (stats,) = client.get_inference_statistics("double").model_stats
    assert (stats.name, stats.version) == ("double", "1")
    assert len(client.get_inference_statistics().model_stats) == len(names)
    assert client.get_inference_statistics(as_json=True)["model_stats"]


def infer_all(client: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Run each model on its array, also compressed; return the outputs, which must be the same."""
    results = {}
    for model, array in arrays.items():
        found = client.get_model_metadata(model)
        port, output = found.inputs[0], found.outputs[0].name
        first: Any = None
        for packed in (None, "gzip", "deflate"):
            outputs = None if packed else [grpc.InferRequestedOutput(output)]
            given = [tensor(port.name, array, port.datatype)]
            result = client.infer(model, given, outputs=outputs, request_id="7", compression_algorithm=packed)
            response = result.get_response()
            assert (response.id, response.model_name, response.model_version) == ("7", model, "1")
            assert result.get_output(output).datatype == port.datatype
            values = result.as_numpy(output)
            values = values.astype(np.float32) if port.datatype == "BF16" else values
            if port.datatype == "BYTES":
                values = np.array([each.decode() for each in values.flat]).reshape(array.shape)
            first = values if first is None else first
            assert np.array_equal(values, first), model
        results[model] = first
    return results


def options(client: Any, array: Any) -> None:
    given = [tensor("x", array)]
    more = {"priority": 2, "timeout": 5_000_000, "client_timeout": 20, "headers": {"x-any": "1"}}
    pinned = client.infer("double", given, model_version="1", parameters={"any": 1}, **more)
    assert np.array_equal(pinned.as_numpy("y"), 2 * array)
    classes = client.infer("double", given, outputs=[grpc.InferRequestedOutput("y", class_count=2)]).as_numpy("y")
    assert classes.shape == (len(array), 2)
    score, index = classes[0][0].decode().split(":")
    assert (float(score), int(index)) == (2 * array[0].max(), array[0].argmax())
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(20):
        client.async_infer("double", given, lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None, error
        assert np.array_equal(result.as_numpy("y"), 2 * array)


def stream(client: Any, array: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        name = "z" if number == 7 else "x"
        client.async_stream_infer("double", [tensor(name, array + number)], request_id=str(number))
    for number in range(20):
        result, error = answers.get(timeout=20)
        if number == 7:
            assert "takes the inputs ['x']" in error.message(), error
            continue
        assert error is None, error
        assert result.get_response().id == str(number)
        assert np.array_equal(result.as_numpy("y"), 2 * (array + number))
    client.stop_stream()


def errors(client: Any, array: Any) -> None:
    given = [tensor("x", array)]
    assert failure(client.infer, "nothing", given)[0] == "NOT_FOUND"
    assert failure(client.infer, "double", given, model_version="7")[0] == "NOT_FOUND"
    status, message = failure(client.infer, "double", [tensor("z", array)])
    assert (status, "takes the inputs ['x']" in message) == ("INVALID_ARGUMENT", True), message
    assert failure(client.infer, "double", [tensor("x", array.astype(np.float64))])[0] == "INVALID_ARGUMENT"
    assert failure(client.infer, "double", [tensor("x", array[0])])[0] == "INVALID_ARGUMENT"
    asked = [grpc.InferRequestedOutput("z")]
    assert failure(client.infer, "double", given, outputs=asked)[0] == "INVALID_ARGUMENT"
    assert failure(client.get_model_metadata, "nothing")[0] == "NOT_FOUND"
    shared = grpc.InferInput("x", array.shape, "FP32")
    shared.set_shared_memory("region", array.nbytes)
    assert failure(client.infer, "double", [shared])[0] == "INVALID_ARGUMENT"
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.unregister_system_shared_memory,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        assert failure(call)[0] == "UNIMPLEMENTED"


def repository(client: Any) -> None:
    client.unload_model("other")
    assert not client.is_model_ready("other")
    assert failure(client.load_model, "other", config="{}")[0] == "INVALID_ARGUMENT"
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

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(5):
                yield {"model_name": "double", "inputs": given, "request_id": str(number)}

        answers = [answer async for answer in client.stream_infer(requests())]
        assert [(result.get_response().id, error) for result, error in answers] == [(str(at), None) for at in range(5)]


def main() -> None:
    arrays = dict(np.load(INPUTS))
    picture, double = arrays.pop("picture"), arrays["double"]
    arrays = {name: array.astype(np.object_) if array.dtype.kind == "U" else array for name, array in arrays.items()}
    client = grpc.InferenceServerClient(ADDRESS)
    protocol()
    describe(client)
    outputs = infer_all(client, arrays)
    options(client, double)
    stream(client, double)
    errors(client, double)
    repository(client)
    image(client, picture)
    asyncio.run(infer_async(double))
    client.close()
    np.savez(OUTPUTS, **outputs)


main()
