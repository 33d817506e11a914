"""The version, read by the build and by `hyperseek --version`."""

__version__ = "0.1.0"
