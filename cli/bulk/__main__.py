"""`python -m cli.bulk`: the verb `bulk` by itself."""

import sys

from cli.bulk import main

sys.exit(main(sys.argv[1:]))
