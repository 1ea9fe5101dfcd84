"""Defines the two bases of all schemas: bodies that callers send, and bodies that the service answers.

A field with the default None may be absent. A field of an answer that may be null says so with `| None`.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Binary = Annotated[str, Field(json_schema_extra={"format": "binary"})]  # bytes as they are


def without_nulls(schema: JsonSchemaValue) -> None:
    """Change the schema of an object in place: an optional field may be absent, but not null."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", []):
            without_null(field)


def without_null(schema: JsonSchemaValue) -> None:
    """Change the schema of a value in place: null is not allowed."""
    null = {"type": "null"}
    if null in (branches := schema.get("anyOf", [])):
        others = [branch for branch in branches if branch != null]
        del schema["anyOf"]
        schema.update(others[0] | schema if len(others) == 1 else {"anyOf": others})


class Body(BaseModel):
    """A JSON object. `example`: shown at each operation that has this body."""

    model_config = ConfigDict(extra="forbid", defer_build=True, use_attribute_docstrings=True)

    example: ClassVar[dict[str, Any] | None] = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        cls._change_schema(handler.resolve_ref_schema(schema))
        return schema

    @classmethod
    def _change_schema(cls, schema: JsonSchemaValue) -> None:
        """Change the schema of the object in place."""


class RequestBody(Body):
    """A JSON object that callers send. Unknown fields are refused."""

    @classmethod
    def _change_schema(cls, schema: JsonSchemaValue) -> None:
        without_nulls(schema)


class ResponseBody(Body):
    """A JSON object that the service answers. A later version may add fields."""

    @classmethod
    def _change_schema(cls, schema: JsonSchemaValue) -> None:
        """Let the object have other fields."""
        schema.pop("additionalProperties", None)
