"""The words of a language model as they come, to a client that may lose its connection.

```console
$ twinwire serve --app examples.tokens:app --port 8000 &
$ curl -s -X POST 'http://127.0.0.1:8000/answers/a1?question=What+is+a+log%3F'
{"listen":"/sse?channel=answers.a1&last_event_id=earliest"}
$ curl -sN --max-time 2 'http://127.0.0.1:8000/sse?channel=answers.a1&last_event_id=earliest' ||:
data: A
...
data:  log
...
event: done
data: {"tokens":11}
```

The model runs on its own: it writes to a channel, and a client reads the channel. So the answer
goes on when the client's connection breaks, the browser comes back with the position of the last
token it has, and two tabs see the same answer. `earliest` makes sure that no token is missed
between the POST and the stream. Tokens are published as text: their spaces and line breaks arrive
as they are.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI

from twinwire import Hub

hub = Hub(allow_subscribe=["answers.*"], log_age=600)  # an answer can be read for ten minutes
app = FastAPI(lifespan=hub.lifespan)
running: set[asyncio.Task[None]] = set()


@app.post("/answers/{name}", status_code=202)
async def ask(name: str, question: str) -> dict[str, str]:
    task = asyncio.create_task(answer(f"answers.{name}", question))
    running.add(task)  # the event loop alone would let go of it
    task.add_done_callback(running.discard)
    return {"listen": f"/sse?channel=answers.{name}&last_event_id=earliest"}


async def answer(channel: str, question: str) -> None:
    count = 0
    async for token in model(question):
        await hub.publish(channel, token)
        count += 1
    await hub.publish(channel, {"tokens": count}, type="done")


async def model(question: str) -> AsyncIterator[str]:
    """Stands for a model."""
    for token in (
        "A",
        " log",
        " is",
        " a",
        " list",
        " to",
        " which",
        " one",
        " only",
        " adds",
        ".",
    ):
        await asyncio.sleep(0.05)
        yield token


# Last, since it takes every path that is left: /sse, /ws, /api/…
app.mount("/", hub.app)
