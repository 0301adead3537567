"""Memory planning: which bytes of an arena each tensor of a network gets, proved and executed.

`program` says what runs, `liveness` turns it into an allocation `problem`, `allocate` solves that,
`verify` and `interpret` check the plan without sharing code with what made it.
"""
