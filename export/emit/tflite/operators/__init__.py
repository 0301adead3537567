"""How each operator is written: one module per family, one table (`table`)."""
