// The demo's page: prices over EventSource, and a command over a WebSocket that speaks the
// Centrifuge protocol by hand. What arrives only changes the state here; it is drawn once a frame.

const MINUTE = 60_000;
const BUCKET = 500; // ms of one point of a line
const $ = (id) => document.getElementById(id);

// Prices

const symbols = new Map();

class Row {
  constructor(symbol) {
    this.digits = 0;
    this.points = []; // [bucket, mid], the last minute
    this.tr = document.createElement("tr");
    const cell = (tag, className) => {
      const element = document.createElement(tag);
      element.className = className;
      this.tr.append(element);
      return element;
    };
    const name = cell("th", "");
    name.scope = "row";
    name.textContent = symbol;
    this.prices = {};
    for (const side of ["bid", "ask"]) {
      this.prices[side] = document.createElement("span");
      cell("td", "number price").append(this.prices[side]);
    }
    this.change = cell("td", "number change");
    this.line = svg("svg", { viewBox: "0 0 100 34", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.area = this.line.appendChild(svg("polygon"));
    this.path = this.line.appendChild(svg("polyline"));
    this.end = this.line.appendChild(svg("path"));
    cell("td", "line").append(this.line);
  }

  take({ bid, ask }, at) {
    const mid = (bid + ask) / 2;
    const bucket = Math.floor(at / BUCKET);
    const last = this.points.at(-1);
    if (last?.[0] >= bucket) last[1] = mid;
    else this.points.push([bucket, mid]);
    while (this.points[0][0] < bucket - MINUTE / BUCKET) this.points.shift();
    // A tape does not say how many decimals its prices have: as many as have been seen.
    this.digits = Math.min(19, Math.max(this.digits, decimals(bid), decimals(ask)));
    this.opened ??= mid;
    this.quote = { bid, ask };
  }

  draw(now) {
    for (const side of ["bid", "ask"]) this.drawPrice(side, this.quote[side]);
    this.shown = this.quote;
    const mid = (this.quote.bid + this.quote.ask) / 2;
    const change = (100 * (mid - this.opened)) / this.opened;
    const way = change < 0 ? "down" : "up";
    this.change.textContent = `${change < 0 ? "▼ −" : "▲ +"}${Math.abs(change).toFixed(3)} %`;
    this.change.className = `number change ${way}`;
    this.drawLine(now, way);
  }

  drawPrice(side, price) {
    const shown = this.prices[side];
    const text = formats[this.digits].format(price);
    if (shown.textContent === text) return;
    const strong = document.createElement("b");
    strong.textContent = text.slice(-2);
    shown.replaceChildren(text.slice(0, -2), strong);
    if (this.shown && price !== this.shown[side]) flash(shown, price > this.shown[side]);
  }

  drawLine(now, way) {
    const bucket = Math.floor(now / BUCKET);
    const mids = this.points.map(([, mid]) => mid);
    const low = Math.min(...mids);
    const range = Math.max(...mids) - low || 1;
    // The first seconds have the whole width; after a minute it is a minute's.
    const span = Math.max(bucket - this.points[0][0], 10_000 / BUCKET);
    const xy = this.points.map(([at, mid]) => [
      98 - (98 * (bucket - at)) / span,
      30 - (26 * (mid - low)) / range,
    ]);
    const begin = xy[0][0].toFixed(1);
    const end = xy.at(-1)[1].toFixed(1);
    const points = xy.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") + ` 98,${end}`;
    this.line.setAttribute("class", way);
    this.path.setAttribute("points", points);
    this.area.setAttribute("points", `${begin},34 ${points} 98,34`);
    this.end.setAttribute("d", `M98,${end}h0`);
  }
}

function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const formats = Array.from({ length: 20 }, (_, digits) =>
  new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);
const decimals = (price) => String(price).split(".")[1]?.length ?? 0;

const still = matchMedia("(prefers-reduced-motion: reduce)");

function flash(element, up) {
  if (still.matches) return;
  const colour = `var(--${up ? "up" : "down"}-soft)`;
  element.getAnimations().forEach((animation) => animation.cancel());
  element.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], 600);
}

function rowOf(symbol) {
  let row = symbols.get(symbol);
  if (row === undefined) {
    row = new Row(symbol);
    symbols.set(symbol, row);
    const next = [...symbols.keys()].sort().find((other) => other > symbol);
    $("prices").insertBefore(row.tr, next ? symbols.get(next).tr : null);
    $("empty").hidden = true;
  }
  return row;
}

// Listening: the browser's EventSource reconnects and resumes by itself

const stream = {
  position: "",
  events: 0,
  lost: false,
  reconnects: 0,
  gaps: 0,
  seconds: new Map(), // events by the second of their arrival
  skew: Infinity, // ms by which our clock is ahead of the server's, at most
};

function listen() {
  const resume = stream.position ? `&last_event_id=${stream.position}` : "";
  const source = new EventSource(`sse?channel=prices.*&format=event${resume}`);

  source.onopen = () => {
    if (stream.lost) stream.reconnects += 1;
    stream.lost = false;
    say("connected", "Connected");
    wake();
  };
  source.onmessage = ({ data, lastEventId }) => {
    const now = Date.now();
    const second = Math.floor(now / 1000);
    const event = JSON.parse(data);
    stream.position = lastEventId;
    stream.events += 1;
    stream.seconds.set(second, (stream.seconds.get(second) ?? 0) + 1);
    wake();
    // Anybody may publish here, and not everything is a quote.
    if (!Number.isFinite(event.data?.bid) || !Number.isFinite(event.data?.ask)) return;
    const row = rowOf(event.key ?? event.channel);
    // At its own time: what is replayed fills the hole that it has left.
    stream.skew = Math.min(stream.skew, now - event.time);
    row.take(event.data, event.time + stream.skew);
    changed.add(row);
    tell(event.tags?.source);
  };
  source.addEventListener("gap", ({ data }) => {
    const { from, to, reason } = JSON.parse(data);
    stream.gaps += 1;
    $("gaps").title = `The last one: ${from} to ${to}, ${reason}`;
    wake();
  });
  source.onerror = ({ data }) => {
    if (data !== undefined) {
      // Not the browser's event but the server's: it is of no use to come back.
      source.close();
      say("closed", `Closed by the server: ${JSON.parse(data).reason}`);
      return;
    }
    stream.lost = true;
    say("reconnecting", "Reconnecting…");
    if (source.readyState === EventSource.CLOSED) {
      // After an answer that is no event stream a browser gives up. We do not.
      setTimeout(listen, 2000);
    }
  };
}

function say(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

function tell(source) {
  const text = source === "simulated" ? "Simulated market, not real prices" : `Tape ${source}`;
  if (source === undefined || $("source").textContent === text) return;
  $("source").textContent = text;
  $("source").hidden = false;
}

// Drawing

const changed = new Set();
let awake = false;

function wake() {
  if (!awake) {
    awake = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  awake = false;
  const now = Date.now();
  for (const row of changed) row.draw(now);
  changed.clear();
  $("position").textContent = stream.position || "–";
  $("events").textContent = stream.events.toLocaleString("en-US");
  $("reconnects").textContent = stream.reconnects;
  $("gaps").textContent = stream.gaps;
  $("gaps").classList.toggle("some", stream.gaps > 0);
}

// Time passes for the lines and the pulse also when nothing comes.
setInterval(() => {
  for (const row of symbols.values()) changed.add(row);
  drawPulse(Math.floor(Date.now() / 1000));
  wake();
}, BUCKET);

const bars = Array.from({ length: 60 }, (_, index) =>
  $("pulse").appendChild(svg("rect", { x: index * 5, width: 3.6, y: 48, height: 0, rx: 1 })),
);

function drawPulse(second) {
  for (const old of stream.seconds.keys()) if (old < second - 60) stream.seconds.delete(old);
  const counts = bars.map((_, index) => stream.seconds.get(second - 60 + index) ?? 0);
  const most = Math.max(10, ...counts);
  bars.forEach((bar, index) => {
    const height = (46 * counts[index]) / most;
    bar.setAttribute("y", 48 - height);
    bar.setAttribute("height", height);
  });
  $("rate").textContent = counts.at(-1);
}

// Talking back: one connection, made with the first command

class Socket {
  #socket = null;
  #id = 0;
  #waiting = new Map();

  // The answer of a command, and the ms it took once there was a connection.
  async call(method, data) {
    this.#socket ??= this.#connect();
    const socket = await this.#socket;
    const begun = performance.now();
    const reply = await this.#ask(socket, { rpc: { method, data } });
    return { data: reply.rpc.data, ms: performance.now() - begun };
  }

  #connect() {
    const url = new URL("ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => {
      for (const line of data.split("\n")) this.#take(socket, line);
    };
    socket.onclose = ({ code, reason }) => {
      this.#socket = null;
      const error = new Error(reason || `connection lost (${code})`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
    return new Promise((resolve, reject) => {
      socket.addEventListener("close", () => reject(new Error("no connection")));
      socket.onopen = () =>
        this.#ask(socket, { connect: { name: "page" } }).then(() => resolve(socket), reject);
    });
  }

  #ask(socket, command) {
    const id = ++this.#id;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#send(socket, JSON.stringify({ id, ...command }));
    });
  }

  #send(socket, line) {
    frame("→", line);
    socket.send(line);
  }

  #take(socket, line) {
    frame("←", line);
    const reply = JSON.parse(line);
    if (line === "{}") return this.#send(socket, "{}"); // a ping, and its pong
    const asked = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.error) asked?.reject(new Error(`${reply.error.message} (${reply.error.code})`));
    else asked?.resolve(reply);
  }
}

function frame(way, line) {
  const item = document.createElement("li");
  item.dataset.way = way;
  item.textContent = item.title = line;
  $("frames").append(item);
  while ($("frames").children.length > 4) $("frames").firstChild.remove();
}

const socket = new Socket();

$("echo").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = $("answer");
  try {
    const { data, ms } = await socket.call("echo", $("text").value);
    answer.textContent = `“${data}” after ${ms.toFixed(1)} ms`;
    answer.className = "told";
  } catch (error) {
    answer.textContent = `No answer: ${error.message}`;
    answer.className = "told failed";
  }
});

listen();
