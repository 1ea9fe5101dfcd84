"""Writes the content of bodies and answers: schemas of Python types, by pydantic, and their examples."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from api.openapi.operations import NOTIFICATIONS, OPERATIONS
from api.openapi.schemas.bodies import Body
from api.openapi.schemas.errors import OpenAIError, PredictProblem, Problem
from api.openapi.schemas.inference import InferenceError

REFS: Final = "#/components/schemas/{model}"


class _SchemaWriter(GenerateJsonSchema):
    """Writes no titles of fields, and no default null: a field that has it may be absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        written = super().default_schema(schema)
        if written.get("default", ...) is None:
            del written["default"]
        return written


class ContentWriter:
    """Holds the schemas of all types that operations and errors have. `schemas`: those with a name."""

    def __init__(self) -> None:
        types = {id(type_): type_ for type_ in _all_types()}
        written, definitions = TypeAdapter.json_schemas(
            [(key, "validation", TypeAdapter(type_)) for key, type_ in types.items()],
            ref_template=REFS,
            schema_generator=_SchemaWriter,
        )
        self._by_type = {key: schema for (key, _), schema in written.items()}
        self.schemas: dict[str, JsonSchemaValue] = definitions["$defs"]
        for schema in self.schemas.values():
            schema.pop("title", None)

    def write(self, content: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
        """Return the `content` of a body or an answer from its types by media type."""
        return {name: self._media(type_, example) for name, type_ in content.items()}

    def _media(self, type_: Any, example: Any) -> dict[str, Any]:
        example = example or _example(type_)
        return {"schema": self._by_type[id(type_)], **({} if example is None else {"example": example})}


def _all_types() -> Iterator[Any]:
    yield from (Problem, PredictProblem, OpenAIError, InferenceError)
    for _, content in NOTIFICATIONS.values():
        yield from content.values()
    for operation in OPERATIONS.values():
        yield from (operation.body or {}).values()
        for answer in operation.answers.values():
            yield from answer.content.values()


def _example(type_: Any) -> Any:
    """Return the example of a body. Of a union: that of the first type that has one."""
    return next(
        (each.example for each in get_args(type_) or (type_,) if isinstance(each, type) and issubclass(each, Body)),
        None,
    )
