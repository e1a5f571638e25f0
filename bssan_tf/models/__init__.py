"""The network of the paper: its two attentions, W2R, O2W, and the graphs over both."""
