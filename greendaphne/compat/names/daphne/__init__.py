"""``import daphne`` in a process that has neither daphne nor called ``greendaphne.compat.install()``: calls it and imports again.

The file ``greendaphne-names.pth`` of the installation puts this module's directory at the end of ``sys.path``, so an installed daphne takes
precedence.
"""

import os
import sys
from importlib import import_module

from greendaphne import compat

_directory = os.path.dirname(__path__[0])
if _directory in sys.path:
    sys.path[:] = [each for each in sys.path if each != _directory]
    compat.install()
    # The import system takes the module that is here when this one has been executed.
    del sys.modules[__name__]
    import_module(__name__)
