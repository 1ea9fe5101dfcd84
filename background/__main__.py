"""`python -m background`: reads the settings, delivers, and takes bulks forward."""

import argparse
import logging
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from background.settings import BackgroundSettings
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_base import format_validation_error
from jobs.store.settings import StoreSettings

EX_CONFIG = 78  # the supervisor does not restart what a restart can not mend


def main(argv: Sequence[str] | None = None) -> int:
    """Run one delivering process; returns the exit code."""
    argparse.ArgumentParser(
        prog="jitney background",
        description="Delivers webhooks, signed, again and again on a schedule; and takes bulks forward.",
        epilog="docs/configuration.md has all settings (WEBHOOK_…, BULK_…), docs/api.md what receivers see.",
    ).parse_args(argv)
    try:
        settings, store_settings, bulk_settings = BackgroundSettings(), StoreSettings(), BulkSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney background: {format_validation_error(error)}\n")
        return EX_CONFIG
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s deliver %(levelname)s %(message)s")
    logging.getLogger("httpcore2").setLevel(max(logging.INFO, logging.root.level))  # at debug it tells of every header
    from background.process import run  # noqa: PLC0415 (rq reads its prefix when it is imported, and takes its time)

    return run(settings, store_settings, bulk_settings)


if __name__ == "__main__":
    sys.exit(main())
