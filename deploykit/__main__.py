"""`python -m deploykit`: the same as the console script."""

import sys

from deploykit.cli.main import main

sys.exit(main())
