"""Channels that cannot influence the outputs are removed, exactly.

`bounds` walks forward and bounds every channel of every tensor; a channel whose bounds meet is
constant. `relations` says, operator by operator, how the channels of its tensors hang together.
`needs` walks backward over the relations: which channels does anything read? `remove_channels` cuts
the rest out of weights, biases and everything in between.
"""
