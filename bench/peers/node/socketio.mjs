// Socket.IO on Node: a room for every channel, WebSocket from the start.

import { createServer } from "node:http";
import { Server } from "socket.io";

const ANSWER = '{"replies":[]}';

const http = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const { commands } = JSON.parse(Buffer.concat(parts));
    for (const { publish } of commands) io.to(publish.channel).emit("event", publish.data);
    response.writeHead(200, { "content-type": "application/json", "content-length": ANSWER.length });
    response.end(ANSWER);
  });
});

const io = new Server(http, { transports: ["websocket"], serveClient: false });

io.on("connection", (socket) => {
  socket.join(new URLSearchParams(socket.request.url.split("?")[1]).getAll("channel"));
});

http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
