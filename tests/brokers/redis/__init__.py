"""The broker on real servers: Valkey from its wheel, and Redis where it is installed."""
