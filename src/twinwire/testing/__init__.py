"""For tests of what is built on twinwire, and of brokers; needs pytest."""
