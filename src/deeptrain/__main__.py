"""`python -m deeptrain` is `deeptrain`."""

import sys

from deeptrain.cli import main

sys.exit(main())
