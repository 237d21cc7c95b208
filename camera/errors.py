"""The one exception tree of Veilcam.

VeilcamError
├── ConfigError      a setting is unknown, mistyped or out of range
├── InputError       a file or argument the user gave cannot be used
│   ├── SourceError  a camera, clip, picture or stream cannot be read
│   └── SinkError    an output cannot be opened or written
└── GraphError       a bundle or model graph is missing, changed or has the wrong shape

Messages say what was wrong, what was got, what is wanted and what to do, and hold no pixels.
"""


class VeilcamError(Exception):
    """Root of every error Veilcam raises on purpose; `exit_code` is the command line's."""

    exit_code = 2


class ConfigError(VeilcamError):
    """A setting is unknown, mistyped or out of range."""


class InputError(VeilcamError):
    """A file or argument given by the user cannot be used."""


class SourceError(InputError):
    """A camera, clip, picture or stream cannot be opened or read."""


class SinkError(InputError):
    """An output cannot be opened or written."""


class GraphError(VeilcamError):
    """A bundle or a model graph is missing, changed, or has the wrong schema or shapes."""
