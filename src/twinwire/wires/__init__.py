"""The wires: events to bytes and back, without I/O."""
