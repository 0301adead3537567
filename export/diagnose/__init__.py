"""Where the accuracy of an artifact went: per step, per block, with what to do about it."""
