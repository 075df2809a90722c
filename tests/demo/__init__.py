"""The demo: its market, its application and its page in a browser."""
