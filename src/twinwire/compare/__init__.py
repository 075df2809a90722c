"""`twinwire bench compare`: Server-Sent Events and WebSocket side by side, as a measurement.

1. `speak`, `figures`, `verdict`, `plots` and `page` are pure: bytes, numbers and words.
   `connections`, `asking`, `stages`, `proxies`, `own` and `run` do the I/O, and do not say what it
   means.
2. What is compared is measured in turns, wire by wire and round by round, so that what else the
   machine does meanwhile meets both.
3. Figures differ only where `figures.compare` says so, and every sentence keeps to that.
4. The load is light clients on raw sockets in this process. The server is in a process of its own.
"""
