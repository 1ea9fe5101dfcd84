"""`python -m background`: reads the settings and runs the background process."""

import argparse
import logging
import sys
from collections.abc import Sequence

from jobs.config.fast_imports import fast_imports

with fast_imports():
    from pydantic import ValidationError

    from background.settings import BackgroundSettings
    from jobs.bulk.settings import BulkSettings
    from jobs.config import logs
    from jobs.config.settings_base import EX_CONFIG, format_validation_error
    from jobs.store.settings import StoreSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one background process; returns the exit code."""
    argparse.ArgumentParser(
        prog="jitney background",
        description="Deliver signed webhooks, with retries on a schedule, and run bulk jobs.",
        epilog="Settings: docs/reference/settings.md (JITNEY_WEBHOOK_…, JITNEY_BULK_…). What receivers see: "
        "docs/reference/http-api.md.",
    ).parse_args(argv)
    try:
        settings, store_settings, bulk_settings = BackgroundSettings(), StoreSettings(), BulkSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney background: {format_validation_error(error)}\n")
        return EX_CONFIG
    logs.set_up("background", settings.log_level, settings.log_format)
    logging.getLogger("httpcore2").setLevel(max(logging.INFO, logging.root.level))  # its debug log has every header
    with fast_imports():
        from background.process import run  # noqa: PLC0415 (importing rq is slow and reads RQ_KEY_PREFIX)

    return run(settings, store_settings, bulk_settings)


if __name__ == "__main__":
    sys.exit(main())
