"""python -m minialbert: the same as the command `minialbert`."""

import sys

from minialbert.cli import main

sys.exit(main())
