"""The directory: the blind map from subject key to home, and the distributor of the signed topology."""

from domicile.directory.main import DirectorySettings, serve_directory

__all__ = ["DirectorySettings", "serve_directory"]
