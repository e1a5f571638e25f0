"""A trained run as a tool for any photos and sentences: scores, explanations, search."""
