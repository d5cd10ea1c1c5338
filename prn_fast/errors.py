"""Errors meant for people: each says which file or argument, what was wrong, and what to do.

Every command prints such an error as one line and exits with code 2.
"""


class PRNError(Exception):
    """Base of all errors that a user of prn_fast can cause and mend."""


class ConfigError(PRNError):
    """A configuration value or command-line argument that cannot work."""


class DataError(PRNError):
    """An image, mask or folder that is missing, unreadable or does not fit."""


class WeightsError(PRNError):
    """Weights that are missing, do not fit the network, or are not finite."""


class PackageError(PRNError):
    """A model package that is damaged, incomplete, altered or too new."""


class EngineError(PRNError):
    """An engine that cannot be built, found, opened or fed with the given input."""


class LinescanError(PRNError):
    """A line camera, line ring or inspection that cannot be built, reached or fed with the given lines."""
