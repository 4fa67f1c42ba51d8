"""
``python -m modelinspect``.

``python -m`` puts the current folder first on ``sys.path``, so that a ``json.py``
beside a downloaded model would be imported instead of Python's own. It is taken
off again before anything else is imported; ``python -P -m modelinspect`` never
puts it there.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

from modelinspect.cli.app import main

if __name__ == "__main__":
    main()
