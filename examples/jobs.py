"""The progress of a job, to whoever watches it, whenever they begin to.

```console
$ twinwire serve --app examples.jobs:app --port 8000 &
$ curl -s -X POST http://127.0.0.1:8000/jobs/report-7
{"watch":"/sse?channel=jobs.report-7&mode=latest"}
$ curl -sN --max-time 2 'http://127.0.0.1:8000/sse?channel=jobs.report-7&mode=latest' || true
...
data: {"done":10,"of":10}
...
data: {"rows":4200}
$ curl -sN --max-time 1 'http://127.0.0.1:8000/sse?channel=jobs.report-7&mode=latest' || true
data: {"done":10,"of":10}
...
data: {"rows":4200}
```

Progress has the key `progress`, the outcome the key `result`. In mode `latest` a watcher gets the
newest event of each key at once, and then what is new: who opens the page late, or again, knows how
things stand, and who reads slowly skips progress that is out of date.
"""

import asyncio

from fastapi import FastAPI

from twinwire import Hub

hub = Hub(allow_subscribe=["jobs.*"])
app = FastAPI(lifespan=hub.lifespan)
running: set[asyncio.Task[None]] = set()


@app.post("/jobs/{name}", status_code=202)
async def begin(name: str) -> dict[str, str]:
    task = asyncio.create_task(work(f"jobs.{name}"))
    running.add(task)  # the event loop alone would let go of it
    task.add_done_callback(running.discard)
    return {"watch": f"/sse?channel=jobs.{name}&mode=latest"}


async def work(channel: str) -> None:
    for step in range(1, 11):
        await asyncio.sleep(0.1)  # what takes its time
        await hub.publish(channel, {"done": step, "of": 10}, key="progress")
    await hub.publish(channel, {"rows": 4200}, key="result")


# Last, since it takes every path that is left: /sse, /ws, /api/…
app.mount("/", hub.app)
