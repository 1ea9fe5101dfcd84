"""`jitney keys create|list|revoke`: manages API keys directly in Redis, without a gateway."""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial

from cli.queue_command import WHICH_QUEUE, parse_tenant, run_on_queue
from jobs.redis_client.client import RedisClient
from jobs.tenants import api_keys
from jobs.tenants.api_keys import ApiKey


async def run(args: argparse.Namespace, connection: RedisClient) -> int:
    """Run one subcommand and return its exit code. Raises StoreUnavailable."""
    if args.what == "create":
        return await _create_key(connection, args)
    if args.what == "revoke":
        return await _revoke_key(connection, args.id)
    return _list_keys(await api_keys.read_keys(connection))


async def _create_key(connection: RedisClient, args: argparse.Namespace) -> int:
    key, text = await api_keys.create_key(connection, args.tenant, args.role, args.note)
    print(text)
    print(f"key {key.id} of tenant {key.tenant}, role {key.role}; it is shown only once", file=sys.stderr)
    return 0


async def _revoke_key(connection: RedisClient, key_id: str) -> int:
    if not await api_keys.revoke_key(connection, key_id):
        print(f"jitney keys: no key {key_id[:64]!r}; `jitney keys list` shows all keys", file=sys.stderr)
        return 1
    print(f"key {key_id} is revoked", file=sys.stderr)
    return 0


def _list_keys(known: dict[str, ApiKey]) -> int:
    print(f"{'id':16}  {'tenant':20}  {'role':7}  {'created':16}  note")
    for key_id, key in sorted(known.items(), key=lambda item: item[1].created_s):
        created = time.strftime("%Y-%m-%d %H:%M", time.gmtime(key.created_s))
        print(f"{key_id:16}  {key.tenant or '(not readable)':20}  {key.role:7}  {created:16}  {key.note}".rstrip())
    return 0


def _parse_note(text: str) -> str:
    if len(text) <= api_keys.MAX_NOTE and text.isprintable():
        return text
    raise argparse.ArgumentTypeError(f"a note may have at most {api_keys.MAX_NOTE} printable characters")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("jitney keys", description="Manage the API keys of gateways.", epilog=WHICH_QUEUE)
    verbs = parser.add_subparsers(dest="what", required=True, metavar="create|list|revoke")
    create = verbs.add_parser("create", help="create a key and print it once")
    create.add_argument("--tenant", type=parse_tenant, required=True, help="the tenant of the jobs sent with this key")
    role = create.add_mutually_exclusive_group()
    role.add_argument(
        "--role",
        choices=api_keys.ROLES,
        default="caller",
        help="caller: own jobs; admin: everything; metrics: /metrics and /metrics/process alone (default: caller)",
    )
    role.add_argument("--admin", dest="role", action="store_const", const="admin", help="the same as --role admin")
    create.add_argument("--note", type=_parse_note, default="", help="a comment that `list` shows")
    verbs.add_parser("list", help="list ids, tenants and roles of all keys, but not the keys themselves")
    revoke = verbs.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", help="the key id, as `list` shows it")
    return run_on_queue("jitney keys", partial(run, parser.parse_args(argv)))
