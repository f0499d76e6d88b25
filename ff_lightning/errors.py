"""The one exception for input that cannot work."""


class InputError(ValueError):
    """What was passed cannot work; the message names the argument, what was given and what is allowed.

    The command line prints it as one line, without a traceback.
    """
