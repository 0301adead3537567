"""How artifacts reach a device and how its answers come home."""
