"""Where things lie, for tests that start programs."""

from pathlib import Path

SUPPORT = Path(__file__).parent
"""The modules that tests share; on PYTHONPATH, a started program finds them too."""
ROOT = SUPPORT.parent.parent
