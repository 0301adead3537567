"""Nothing dead, nothing twice, stable names."""
