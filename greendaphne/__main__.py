"""``python -m greendaphne``."""

import sys

from .cli import main

sys.exit(main())
