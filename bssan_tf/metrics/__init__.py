"""What a score matrix is worth, in pure NumPy: recalls, precisions, intervals."""
