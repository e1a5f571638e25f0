"""What a run keeps in its folder, and how its data are found again."""
