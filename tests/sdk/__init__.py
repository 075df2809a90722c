"""Real SDKs and a real browser against a real server."""
