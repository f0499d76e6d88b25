"""``python -m ff_lightning``: the same as the console script ``ff-lightning``."""

import sys

from ff_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
