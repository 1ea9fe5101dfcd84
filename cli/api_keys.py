"""`jitney keys create|list|revoke`: API keys, made and revoked in the queue; whoever reaches that owns it anyway."""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from cli.serve.redis_address import QueueAddress, QueueNotFound, locate
from jobs.contract import ids
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.client import RedisClient
from jobs.tenants import api_keys
from jobs.tenants.api_keys import ApiKey

TIMEOUT_S: Final = 5.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78


async def run(given: argparse.Namespace, queue: QueueAddress) -> int:
    """Do what was asked; returns the exit code, raises StoreUnavailable."""
    connection = RedisClient(queue.address.url, TIMEOUT_S, url_file=queue.address.file)
    try:
        if given.what == "create":
            return await _create_key(connection, given)
        if given.what == "revoke":
            return await _revoke_key(connection, given.id)
        return _list_keys(await api_keys.read_keys(connection))
    finally:
        await connection.aclose()


async def _create_key(connection: RedisClient, given: argparse.Namespace) -> int:
    key, text = await api_keys.create_key(connection, given.tenant, "admin" if given.admin else "key", given.note)
    print(text)
    print(f"key {key.id} of tenant {key.tenant}, role {key.role}; it is shown this once, kept nowhere", file=sys.stderr)
    return 0


async def _revoke_key(connection: RedisClient, key_id: str) -> int:
    if not await api_keys.revoke_key(connection, key_id):
        print(f"jitney keys: there is no key {key_id[:64]!r}; `jitney keys list` names them", file=sys.stderr)
        return 1
    print(f"key {key_id} is revoked", file=sys.stderr)
    return 0


def _list_keys(known: dict[str, ApiKey]) -> int:
    print(f"{'id':16}  {'tenant':20}  {'role':5}  {'made':16}  note")
    for key_id, key in sorted(known.items(), key=lambda one: one[1].created_s):
        made = time.strftime("%Y-%m-%d %H:%M", time.gmtime(key.created_s))
        print(f"{key_id:16}  {key.tenant or '(not readable)':20}  {key.role:5}  {made:16}  {key.note}".rstrip())
    return 0


def _parse_tenant(text: str) -> str:
    if ids.TENANT_NAME.fullmatch(text):
        return text
    message = f"{text[:80]!r} is no tenant's name: 1 to 64 of a-z, 0-9, _ and -, the first a letter or a digit"
    raise argparse.ArgumentTypeError(message)


def _parse_note(text: str) -> str:
    if len(text) <= api_keys.MAX_NOTE and text.isprintable():
        return text
    raise argparse.ArgumentTypeError(f"a note has at most {api_keys.MAX_NOTE} printable characters")


def main(argv: Sequence[str]) -> int:
    """The verb `keys`; returns the exit code."""
    where = (
        "The queue is the one that JITNEY_REDIS_URL or JITNEY_REDIS_URL_FILE names or, without them, "
        "the one that runs in JITNEY_DATA_DIR "
        "(.data). Which one it is goes to stderr."
    )
    parser = argparse.ArgumentParser(prog="jitney keys", description="API keys of the gateway.", epilog=where)
    verbs = parser.add_subparsers(dest="what", required=True, metavar="create|list|revoke")
    create = verbs.add_parser("create", help="make a key and print it, once")
    create.add_argument("--tenant", type=_parse_tenant, required=True, help="whose jobs are sent with it")
    create.add_argument("--admin", action="store_true", help="it may also read /metrics and others' dead letters")
    create.add_argument("--note", type=_parse_note, default="", help="what it is for; `list` shows it")
    verbs.add_parser("list", help="list all keys: ids, tenants and roles, never the keys")
    revoke = verbs.add_parser("revoke", help="let a key open no door any more")
    revoke.add_argument("id", help="as `list` shows it")
    given = parser.parse_args(argv)
    logging.getLogger("jitney.jobs").setLevel(logging.CRITICAL)  # what goes wrong is said below
    try:
        queue = locate(os.environ)
        print(f"jitney keys: the queue is {queue}", file=sys.stderr)
        return asyncio.run(run(given, queue))
    except ValueError as error:
        print(f"jitney keys: {error}", file=sys.stderr)
        return EX_CONFIG
    except (QueueNotFound, StoreUnavailable) as error:
        print(f"jitney keys: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
