"""Mixed precision: which blocks run on integers, chosen for a budget."""
