"""Defines the two bases of all schemas: bodies that callers send, and bodies that the service answers.

A field with the default None may be absent. A field of an answer that may be null says so with `| None`.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Binary = Annotated[str, Field(json_schema_extra={"format": "binary"})]  # bytes as they are
_NULL = {"type": "null"}


class Body(BaseModel):
    """A JSON object. `example`: shown at each operation that has this body."""

    model_config = ConfigDict(extra="forbid", defer_build=True, use_attribute_docstrings=True)

    example: ClassVar[dict[str, Any]] = {}

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
        """Let an optional field be absent, but not null."""
        for name, field in schema.get("properties", {}).items():
            branches = field.get("anyOf", [])
            if name not in schema.get("required", []) and _NULL in branches:
                others = [branch for branch in branches if branch != _NULL]
                del field["anyOf"]
                field.update(others[0] | field if len(others) == 1 else {"anyOf": others})


class ResponseBody(Body):
    """A JSON object that the service answers. A later version may add fields."""

    @classmethod
    def _change_schema(cls, schema: JsonSchemaValue) -> None:
        """Let the object have other fields."""
        schema.pop("additionalProperties", None)
