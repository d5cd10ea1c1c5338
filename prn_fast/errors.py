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


class StorageError(PRNError, OSError):
    """A file or folder that cannot be written: a full disk, no permission, an input/output error."""


class EngineError(PRNError):
    """An engine that cannot be built, found, opened or fed with the given input."""


class EngineUnavailableError(EngineError):
    """An engine that is away for now: its server cannot be reached, is starting, or is busy; try again."""


class LinescanError(PRNError):
    """A line camera, line ring or inspection that cannot be built, reached or fed with the given lines."""


def one_line(error: BaseException) -> str:
    """The first line of an error of another library, for use inside one of ours; see `printable`."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0], 300)


def printable(text: str, most: int = 200) -> str:
    """Any text, made fit for one line of a message.

    White space becomes single spaces, other unprintable characters are escaped, and what is longer than `most`
    characters is cut.
    """
    line = " ".join(text.split())
    line = "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."
