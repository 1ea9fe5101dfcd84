"""Defines the base class of all environment settings, and formats validation errors as one line."""

import os
import re
from typing import Any, Final

from pydantic import AliasChoices, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.config import environment
from jobs.config.compared_settings import ALL_SETTINGS

_PASSWORD: Final = re.compile(r"//[^@/]*@")
MAX_SHOWN_CHARS: Final = 200  # characters of a value in a message
MAX_SECONDS: Final = 1e9  # 31 years: what Redis and the system still take for a time
MAX_INTEGER: Final = (1 << 53) - 1  # as far as Lua counts


# `populate_by_name`: a field with names of its own in the environment is still a keyword argument in Python.
SETTINGS_CONFIG: Final = SettingsConfigDict(
    frozen=True, env_ignore_empty=True, env_prefix=environment.PREFIX, populate_by_name=True
)


def environment_names(name: str) -> AliasChoices:
    """Return the variables of a setting that platforms also set without the prefix: `JITNEY_<name>`, then `<name>`."""
    return AliasChoices(environment.PREFIX + name, name)


class Settings(BaseSettings):
    """Settings of one part, from the environment. Numbers that Redis or Lua cannot count to are refused."""

    model_config = SETTINGS_CONFIG

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment alone, without what Kubernetes injects: `JITNEY_PORT=tcp://…` is no port."""
        del settings_cls, dotenv_settings, file_secret_settings
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value
                for name, value in env_settings.env_vars.items()
                if not environment.is_of_kubernetes(name.upper(), value or "")
            }
        return init_settings, env_settings

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_variable(cls, values: Any) -> Any:
        for refusal in environment.unknown(os.environ, ALL_SETTINGS):
            raise ValueError(refusal)
        return values

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_counted(cls, value: Any) -> Any:
        if isinstance(value, float) and not abs(value) <= MAX_SECONDS:
            raise ValueError(f"must be at most {MAX_SECONDS:.0f}")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise ValueError(f"must be at most {MAX_INTEGER}")
        return value


def format_validation_error(error: ValidationError) -> str:
    """Say which variables make no sense, and what would, on one line."""
    return "; ".join(_explained(one) for one in error.errors())


def _explained(one: ErrorDetails) -> str:
    if not one["loc"]:  # checked as a whole: the message names the variable
        return one["msg"].removeprefix("Value error, ")
    name, value = (
        environment.PREFIX + str(one["loc"][0]).upper().removeprefix(environment.PREFIX),
        _PASSWORD.sub("//***@", " ".join(str(one["input"]).split())),
    )
    inside = ".".join(str(part) for part in one["loc"][1:])
    what = f"{name}=… {inside}={value[:MAX_SHOWN_CHARS]}" if inside else f"{name}={value[:MAX_SHOWN_CHARS]}"
    return f"{what}: {one['msg'].removeprefix('Value error, ')[:MAX_SHOWN_CHARS]}"
