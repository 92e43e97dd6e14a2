"""A Jupyter notebook kit for Stable Video Diffusion: from a photo to a clip, measured and repeatable.

Example:
    >>> import svdkit
    >>> svdkit.sample_photos()
    ('rocket', 'coffee', 'cat')

Importing does nothing: a name is fetched from its module when it is first used, so that ``import svdkit`` needs neither
torch nor any of the libraries behind it. Which names there are stands in ``__init__.pyi``.
"""

from __future__ import annotations

import sys
from types import ModuleType

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]  # noqa: PLE0604 - the names of the stub


class _Package(ModuleType):
    """The package module; keeps ``svdkit.generate`` the function.

    Python binds every imported submodule to its package, so whoever imports svdkit/generate first would turn the
    function ``svdkit.generate`` into a module. ``from svdkit.generate import encode`` is not affected.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
