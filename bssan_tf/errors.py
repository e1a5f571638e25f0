"""The one exception that a script shows its user as a single line, with exit code 2."""


class UserError(Exception):
    """Wrong usage or wrong data. The message says which file or flag, what is wrong, and what to do."""
