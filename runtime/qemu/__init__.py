"""C artifacts on simulated boards: exact instruction counts, never called latency."""
