"""The command lines: each has `build_parser` and `main`; `python -m bssan_tf NAME` and the scripts run them."""

NAMES = ("train", "evaluate", "visualize", "search", "reproduce")
