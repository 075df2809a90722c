/* The load client's options, and the targets: what each client asks for. */

#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include "measure.h"

static struct {
    char *wire, *targets, *target, *headers, *live_at, *channel, *publish_target, *publish_headers, *publish_format, *rpc_target, *rpc_method, *data;
    double port, publish_port, clients, connecting, connect_timeout, settle, seconds, cap, quiet;
    double rate, interval, most, channels, keys, padding;
    double tls, compressed, check_every, last;
    double stalled, slow, slow_rate, rcvbuf, reconnect;
    double storm_at, storm_away, rpc_clients, rpc_rate;
} option = {
    .wire = "sse", .headers = "", .live_at = "block", .channel = "bench", .publish_target = "/api/batch",
    .publish_headers = "", .publish_format = "batch", .rpc_target = "/ws\t{\"id\":1,\"connect\":{}}", .rpc_method = "echo", .data = "",
    .clients = 1, .check_every = 1, .connecting = 128, .connect_timeout = 60, .settle = .3, .seconds = 3, .cap = 30, .quiet = 3,
    .interval = .005, .most = 1000, .channels = 1, .slow_rate = 65536, .reconnect = -1, .storm_at = -1,
};

static const struct {
    const char *name;
    char **text;
    double *number;
    const char *help;
} options[] = {
    {"port", 0, &option.port, "of the server, on 127.0.0.1"},
    {"wire", &option.wire, 0, "sse or ws"},
    {"clients", 0, &option.clients, "how many"},
    {"target", &option.target, 0, "PATH[<TAB>COMMAND]...: the request's path, and for ws what is sent first"},
    {"targets", &option.targets, 0, "file of such lines, one a client, from the start again when they run out"},
    {"headers", &option.headers, 0, "more request headers, each ended by \\r\\n"},
    {"live-at", &option.live_at, 0, "sse: a client is live at its first `block` or at the response's `head`"},
    {"tls", 0, &option.tls, "1: over TLS, without a look at the certificate"},
    {"compressed", 0, &option.compressed, "1: offer gzip (sse) or permessage-deflate (ws)"},
    {"check-every", 0, &option.check_every, "of so many clients, one is checked; of the others only bytes are counted"},
    {"last", 0, &option.last, "1: report when the last client had each event"},
    {"connecting", 0, &option.connecting, "connections begun but not live at a time"},
    {"connect-timeout", 0, &option.connect_timeout, "seconds until all must be live"},
    {"settle", 0, &option.settle, "seconds of quiet before the publishing"},
    {"rate", 0, &option.rate, "events a second; 0: only listen for --seconds"},
    {"seconds", 0, &option.seconds, "to publish for"},
    {"cap", 0, &option.cap, "seconds after which to stop although not all has arrived"},
    {"quiet", 0, &option.quiet, "or when nothing has arrived for so long after the last event was published"},
    {"interval", 0, &option.interval, "between two requests of the publisher"},
    {"most", 0, &option.most, "events in a round of requests"},
    {"channel", &option.channel, 0, "to publish on"},
    {"channels", 0, &option.channels, "publish at random on CHANNEL.0 to CHANNEL.(N-1)"},
    {"keys", 0, &option.keys, "give events one of so many keys"},
    {"padding", 0, &option.padding, "more bytes in an event's data"},
    {"data", &option.data, 0, "what is in an event's data: `ticks` for those of a market"},
    {"publish-format", &option.publish_format, 0, "batch, pushpin, raw or form: see publish.h"},
    {"publish-port", 0, &option.publish_port, "of the server's door for it, if that is not --port; below 1024: how far from --port"},
    {"publish-target", &option.publish_target, 0, "where to POST"},
    {"publish-headers", &option.publish_headers, 0, "such as X-API-Key: ...\\r\\n"},
    {"stalled", 0, &option.stalled, "of the clients: so many read nothing once they are live"},
    {"slow", 0, &option.slow, "of the clients: so many read slowly"},
    {"slow-rate", 0, &option.slow_rate, "bytes a second of a slow one"},
    {"rcvbuf", 0, &option.rcvbuf, "SO_RCVBUF of the stalled and slow ones"},
    {"reconnect", 0, &option.reconnect, "seconds after which a closed client returns to its position; -1: never"},
    {"storm-at", 0, &option.storm_at, "seconds into the publishing at which all drop at once (or at SIGUSR1)"},
    {"storm-away", 0, &option.storm_away, "seconds until they all return at once to their positions"},
    {"rpc-clients", 0, &option.rpc_clients, "WebSocket clients that call a command meanwhile"},
    {"rpc-rate", 0, &option.rpc_rate, "calls a second of each; 0: again as soon as answered"},
    {"rpc-target", &option.rpc_target, 0, "as --target"},
    {"rpc-method", &option.rpc_method, 0, "the command's name"},
};

struct target {
    char *path, *commands; /* commands are joined by newlines: one frame */
    unsigned replies;      /* commands that want one */
    unsigned *channels, channel_count;
};

static struct target *targets;
static unsigned target_count;

static void add_channel(struct target *t, unsigned channel)
{
    t->channels = grow(t->channels, (t->channel_count + 1) * sizeof *t->channels);
    t->channels[t->channel_count++] = channel;
}

/* Which of the publisher's channels the request asks for, by its `channel=` parameters. */
static void read_channels(struct target *t)
{
    size_t stem = strlen(option.channel);
    for (char *at = t->path; (at = strstr(at, "channel=")); ) {
        at += 8;
        if (strncmp(at, option.channel, stem))
            continue;
        if (option.channels == 1) {
            add_channel(t, 0);
        } else if (at[stem + 1] == '*' || at[stem + 1] == '>') {
            for (unsigned i = 0; i < (unsigned)option.channels; i++)
                add_channel(t, i);
        } else {
            add_channel(t, (unsigned)strtoul(at + stem + 1, NULL, 10));
        }
    }
    for (unsigned i = 0; i < t->channel_count; i++)
        if (t->channels[i] >= (unsigned)option.channels)
            die("%s: no such channel", t->path);
}

static struct target read_target(char *line)
{
    struct target t = {.path = strsep(&line, "\t")};
    struct buffer commands = {0};
    while (line) {
        char *command = strsep(&line, "\t");
        t.replies += strstr(command, "\"id\":") || !strcmp(command, "40"); /* Centrifuge's and Socket.IO's */
        append_format(&commands, "%s%s", commands.length ? "\n" : "", command);
    }
    append(&commands, "", 1);
    t.commands = commands.data;
    read_channels(&t);
    return t;
}

static void add_target(char *line)
{
    targets = grow(targets, (target_count + 1) * sizeof *targets);
    targets[target_count++] = read_target(line);
}

static void read_targets(void)
{
    if (option.target)
        add_target(strdup(option.target));
    FILE *file = option.targets ? fopen(option.targets, "r") : NULL;
    if (option.targets && !file)
        die("%s: %s", option.targets, strerror(errno));
    char *line = NULL;
    size_t size = 0;
    for (ssize_t length; file && (length = getline(&line, &size, file)) > 0; ) {
        line[length - (line[length - 1] == '\n')] = 0;
        add_target(strdup(line));
    }
    if (!target_count)
        die("--target or --targets is missing");
}

static void read_options(int argc, char **argv)
{
    size_t count = sizeof options / sizeof *options;
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        while (k < count && strcmp(argv[i] + (strncmp(argv[i], "--", 2) ? 0 : 2), options[k].name))
            k++;
        if (k == count || i + 1 == argc) {
            for (k = 0; k < count; k++)
                fprintf(stderr, "--%-16s %s\n", options[k].name, options[k].help);
            exit(2);
        }
        if (options[k].text)
            *options[k].text = argv[i + 1];
        else
            *options[k].number = atof(argv[i + 1]);
    }
}

#endif
