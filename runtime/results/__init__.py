"""What was measured: kept, listed, compared."""
