"""`python -m scripts.bulk`: the verb `bulk` by itself."""

import sys

from scripts.bulk import main

sys.exit(main(sys.argv[1:]))
