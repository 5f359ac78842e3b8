"""Packages that only some choices need: loaded at the first use, and asked for by name when absent."""

from __future__ import annotations

from importlib import import_module, metadata
from types import ModuleType

from tasks.errors import ConfigError


def load(module: str, chosen: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its full name; the package has the name of its first part.
        chosen: The choice that needs it, for the message: `metrics.segmenter rjieba`.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(module.partition(".")[0], chosen) from error


def version_of(package: str, chosen: str) -> str:
    """Return the installed version of a package, without importing it.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise _missing(package, chosen) from error


def _missing(package: str, chosen: str) -> ConfigError:
    return ConfigError(
        f"{chosen}: the package {package} is needed (found none that can be imported). "
        f"Run: pip install {package}"
    )
