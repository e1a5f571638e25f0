"""The one exception that a script shows its user as a single line, with exit code 2."""


class UserError(Exception):
    """Wrong usage or wrong data. The message says which file or flag, what is wrong, and what to do."""


NO_WINDOWS = "Windows: bssan_tf needs Linux or macOS, for its file locks; use it in WSL 2"
