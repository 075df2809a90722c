"""Notices to everybody who looks, from a FastAPI application.

```console
$ twinwire serve --app examples.notifications:app --port 8000 &
$ curl -s -X POST 'http://127.0.0.1:8000/notices/shop?text=Closed+on+Monday&level=warning'
"1763800000000-1"
$ curl -sN --max-time 1 'http://127.0.0.1:8000/sse?channel=notices.*&last_event_id=earliest' || true
id: 1763800000000-1
event: warning
data: {"topic":"shop","text":"Closed on Monday"}
```

http://127.0.0.1:8000/ is a page that shows them. It says `last_event_id=earliest`, so that a
visitor first sees the notices that are still kept. Whenever the connection breaks, the browser
itself goes on from the last one it has seen.
"""

from typing import Literal

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from twinwire import Hub

hub = Hub(
    allow_subscribe=["notices.*"],
    channels=[{"pattern": "notices.*", "log_events": 20}],  # the last twenty of each topic are kept
    log_age=0,
)
app = FastAPI(lifespan=hub.lifespan)


@app.post("/notices/{topic}")
async def notify(topic: str, text: str, level: Literal["info", "warning"] = "info") -> str:
    notice = {"topic": topic, "text": text}
    return str(await hub.publish(f"notices.{topic}", notice, type=level))


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return """<!doctype html>
<meta charset="utf-8">
<title>Notices</title>
<ul id="notices"></ul>
<script>
const notices = new EventSource("/sse?channel=notices.*&last_event_id=earliest");
for (const level of ["info", "warning"])
  notices.addEventListener(level, (event) => {
    const { topic, text } = JSON.parse(event.data);
    const item = document.createElement("li");
    item.textContent = `${level}: ${topic}: ${text}`;
    document.getElementById("notices").prepend(item);
  });
</script>
"""


# Last, since it takes every path that is left: /sse, /ws, /api/…
app.mount("/", hub.app)
