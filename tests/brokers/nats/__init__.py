"""Tests of the NATS broker, against a real server."""
