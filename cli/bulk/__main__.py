"""Entry point of `python -m cli.bulk`, the same as `jitney bulk`."""

import sys

from cli.bulk import main

sys.exit(main(sys.argv[1:]))
