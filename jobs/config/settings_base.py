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
EX_CONFIG: Final = 78  # exit code of a process with an invalid configuration: its supervisor does not restart it
MAX_SHOWN_CHARS: Final = 200  # of a value in a message
MAX_SECONDS: Final = 1e9  # 31 years; Redis and the system still accept it as a time
MAX_INTEGER: Final = (1 << 53) - 1  # largest exact integer in Lua


# `populate_by_name`: a field with an environment alias can still be set by its own name in Python.
SETTINGS_CONFIG: Final = SettingsConfigDict(
    frozen=True, env_ignore_empty=True, env_prefix=environment.PREFIX, populate_by_name=True
)


def environment_names(name: str) -> AliasChoices:
    """Return the variables of a setting that platforms also set without the prefix: `JITNEY_<name>`, then `<name>`."""
    return AliasChoices(environment.PREFIX + name, name)


class Settings(BaseSettings):
    """Base of all settings. Refuses numbers that Redis or Lua cannot represent, and unknown JITNEY_ variables."""

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
        """Use keyword arguments and the environment, without the variables that Kubernetes injects."""
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


def split_list(text: str) -> list[str]:
    """Return the parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def format_validation_error(error: ValidationError) -> str:
    """Return the invalid variables and what is allowed, on one line."""
    return "; ".join(_format_error(details) for details in error.errors())


def _format_error(error: ErrorDetails) -> str:
    if not error["loc"]:  # a check of the whole model: its message names the variable
        return error["msg"].removeprefix("Value error, ")
    name, value = (
        environment.PREFIX + str(error["loc"][0]).upper().removeprefix(environment.PREFIX),
        _PASSWORD.sub("//***@", " ".join(str(error["input"]).split())),
    )
    inside = ".".join(str(part) for part in error["loc"][1:])
    what = f"{name}=… {inside}={value[:MAX_SHOWN_CHARS]}" if inside else f"{name}={value[:MAX_SHOWN_CHARS]}"
    return f"{what}: {error['msg'].removeprefix('Value error, ')[:MAX_SHOWN_CHARS]}"
