"""Operator tables: what each runtime version executes, as generated data."""
