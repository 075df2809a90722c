// Drives the official JavaScript client for a test: a command a line in, a JSON object a line out.
//
//   {"id":1,"do":"subscribe","args":["prices.*"]}   →   {"id":1,"result":null}
//                                                   or  {"id":1,"error":{"code":103,"message":…}}
//
// What the client fires is told unasked: {"on":"publication","channel":…,"data":…,"offset":…}

import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const [url, options] = [process.argv[2], JSON.parse(process.argv[3] ?? "{}")];
const client = new Centrifuge(url, { websocket: WebSocket, ...options });

const say = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const tell = (emitter, kind, pick) =>
  emitter.on(kind, (context) => say({ on: kind, ...pick(context) }));

const ended = ({ channel, code, reason }) => ({ channel, code, reason });
tell(client, "connecting", ended);
tell(client, "connected", ({ client }) => ({ client }));
tell(client, "disconnected", ended);
tell(client, "error", ({ type, error }) => ({ type, error }));

const actions = {
  async connect() {
    client.connect();
    await client.ready();
  },
  async disconnect() {
    client.disconnect();
  },
  async subscribe(channel, options = {}) {
    const subscription = client.newSubscription(channel, options);
    tell(subscription, "subscribing", ended);
    tell(subscription, "subscribed", ({ channel, wasRecovering, recovered, streamPosition }) => ({
      channel,
      was_recovering: wasRecovering,
      recovered,
      ...streamPosition,
    }));
    tell(subscription, "unsubscribed", ended);
    tell(subscription, "publication", ({ channel, data, offset, tags, info }) => ({
      channel,
      data,
      offset,
      tags,
      user: info?.client,
    }));
    for (const kind of ["join", "leave"]) {
      tell(subscription, kind, ({ channel, info }) => ({
        channel,
        user: info.user,
        client: info.client,
      }));
    }
    subscription.subscribe();
    await subscription.ready();
  },
  async unsubscribe(channel) {
    const subscription = client.getSubscription(channel);
    subscription.unsubscribe();
    client.removeSubscription(subscription);
  },
  publish: (channel, data) => client.publish(channel, data),
  rpc: async (method, data) => (await client.rpc(method, data)).data,
  history: (channel, options) => client.history(channel, options),
  presence: (channel) => client.presence(channel),
  presence_stats: (channel) => client.presenceStats(channel),
};

const input = createInterface({ input: process.stdin });
input.on("line", async (line) => {
  const { id, do: action, args } = JSON.parse(line);
  try {
    say({ id, result: (await actions[action](...args)) ?? null });
  } catch (error) {
    say({ id, error: { code: error.code ?? 0, message: error.message ?? String(error) } });
  }
});
input.on("close", () => client.disconnect());
