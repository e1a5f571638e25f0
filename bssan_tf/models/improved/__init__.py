"""What `improved` adds to the networks of the paper; networks.py joins it."""
