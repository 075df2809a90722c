/* The load client's publisher: events at a steady rate over HTTP, on one connection.
 *
 * It lives in the client's process, so that the server has its core to itself. One round is in flight
 * at a time; what falls due meanwhile goes into the next one. An event is born when it falls due, not when
 * it is sent: a server that holds the publisher back cannot hide the delay.
 *
 * Data: {"n":N,"t":T}, and padding or the fields of a price tick. N counts all events from 1, over all
 * channels; T is `clock_us`.
 *
 * A round in the formats there are:
 *   batch    POST TARGET, all events as commands to publish: the shape of twinwire's and Centrifugo's API
 *   pushpin  POST TARGET, all events as items for both of Pushpin's transports
 *   raw      POST TARGETCHANNEL for every event, its data for a body, pipelined: as for nchan
 *   form     POST TARGET for every event, topic and data as a form, pipelined: as for Mercure
 */

#ifndef BENCH_PUBLISH_H
#define BENCH_PUBLISH_H

#include <sys/epoll.h>

#include "conn.h"
#include "histogram.h"

enum publish_format { BATCH, PUSHPIN, RAW, FORM };

static enum publish_format format_named(const char *name)
{
    static const char *const names[] = {"batch", "pushpin", "raw", "form"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return (enum publish_format)i;
    die("--publish-format %s: no such format", name);
}

struct publisher {
    /* what to do */
    enum publish_format format;
    const char *target, *headers, *channel; /* one of several is CHANNEL.0, CHANNEL.1, … */
    int port;
    unsigned channels, keys, padding, most; /* `most` events in one round */
    bool ticks;
    double rate, seconds, interval;         /* events fall due at every `interval` seconds */

    /* how far it is */
    int poller; /* the epoll set that tells of answers */
    struct conn conn;
    uint64_t began, sent, answered, offered, requests, errors, flight; /* `flight`: when the round left */
    unsigned random, unanswered; /* `unanswered`: requests of the round */
    bool broken, closes; /* `closes`: the other side will end the connection */
    char trouble[240];
    struct buffer name, data, body, request, reply;
    uint64_t *count, *sum; /* by channel, for what each client must have got */
    int *price;            /* by channel, in hundred thousandths */
    struct histogram round_trip;
};

static void publisher_fail(struct publisher *p, const char *why, size_t length)
{
    if (!p->errors++)
        snprintf(p->trouble, sizeof p->trouble, "%.*s", (int)(length < 200 ? length : 200), why);
}

static void publisher_connect(struct publisher *p)
{
    struct sockaddr_in address = loopback(p->port);
    p->conn.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (p->conn.fd < 0 || connect(p->conn.fd, (struct sockaddr *)&address, sizeof address) || conn_handshake(&p->conn, false) < 1)
        die("the publisher cannot connect to port %d: %s", p->port, strerror(errno));
    no_delay(p->conn.fd);
    fcntl(p->conn.fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(p->poller, EPOLL_CTL_ADD, p->conn.fd, &event);
}

static void publisher_begin(struct publisher *p)
{
    p->offered = (uint64_t)(p->rate * p->seconds + .5);
    p->count = calloc(p->channels, sizeof *p->count);
    p->sum = calloc(p->channels, sizeof *p->sum);
    p->price = calloc(p->channels, sizeof *p->price);
    for (unsigned i = 0; i < p->channels; i++)
        p->price[i] = 100000 + (int)(i * 7919 % 900000);
    p->random = 1;
    publisher_connect(p);
    p->began = clock_us();
}

static bool publisher_done(const struct publisher *p)
{
    return p->broken || p->answered == p->offered;
}

static uint64_t due_by(const struct publisher *p, uint64_t now)
{
    uint64_t ticks = (uint64_t)((double)(now - p->began) / 1e6 / p->interval);
    uint64_t due = (uint64_t)((double)ticks * p->rate * p->interval + 1e-6);
    return due < p->offered ? due : p->offered;
}

/* When event `n`, counted from 1, falls due. */
static uint64_t due_at(const struct publisher *p, uint64_t n)
{
    double ticks = (double)n / (p->rate * p->interval);
    uint64_t whole = (uint64_t)(ticks - 1e-6) + 1;
    return p->began + (uint64_t)((double)whole * p->interval * 1e6);
}

/* When publisher_send has something to do next. */
static uint64_t publisher_next(const struct publisher *p)
{
    return p->flight || p->sent == p->offered || p->broken ? UINT64_MAX : due_at(p, p->sent + 1);
}

/* The stamps first: that is where the scanner looks for them. */
static void publisher_data(struct publisher *p, uint64_t n, unsigned channel)
{
    p->data.length = 0;
    append_format(&p->data, "{\"n\":%llu,\"t\":%llu", (unsigned long long)n, (unsigned long long)due_at(p, n));
    if (p->ticks) { /* a price walks, quantities jump, as in a market */
        int bid = p->price[channel] += (int)(p->random >> 28) - 7, spread = 1 + (int)(p->random >> 12) % 4;
        append_format(&p->data, ",\"symbol\":\"S%03u\",\"bid\":%d.%05d,\"ask\":%d.%05d,\"bid_size\":%u,\"ask_size\":%u", channel,
                      bid / 100000, bid % 100000, (bid + spread) / 100000, (bid + spread) % 100000,
                      (p->random >> 9) % 50 * 100000, (p->random >> 17) % 50 * 100000);
    }
    if (p->padding) {
        append(&p->data, ",\"p\":\"", 6);
        memset(reserve(&p->data, p->padding), 'x', p->padding);
        p->data.length += p->padding;
        append(&p->data, "\"", 1);
    }
    append(&p->data, "}", 2); /* with a 0, for it is used as a string */
}

static void write_request(struct publisher *p, const char *name)
{
    append_format(&p->request,
                  "POST %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/%s\r\n%sContent-Length: %zu\r\n\r\n",
                  p->target, name, p->port, p->format == FORM ? "x-www-form-urlencoded" : "json", p->headers, p->body.length);
    append(&p->request, p->body.data, p->body.length);
    p->body.length = 0;
    p->requests++;
    p->unanswered++;
}

/* JSON as the inside of a JSON string. */
static void append_quoted(struct buffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            append(out, "\\", 1);
        append(out, text, 1);
    }
}

static void write_event(struct publisher *p, bool first, unsigned key)
{
    const char *name = p->name.data, *data = p->data.data;
    switch (p->format) {
    case BATCH:
        append_format(&p->body, "%s{\"publish\":{\"channel\":\"%s", first ? "{\"commands\":[" : ",", name);
        if (p->keys)
            append_format(&p->body, "\",\"key\":\"k%u", key);
        append_format(&p->body, "\",\"data\":%s}}", data);
        break;
    case PUSHPIN:
        append_format(&p->body, "%s{\"channel\":\"%s\",\"formats\":{\"http-stream\":{\"content\":\"data: ", first ? "{\"items\":[" : ",", name);
        append_quoted(&p->body, data);
        append_format(&p->body, "\\n\\n\"},\"ws-message\":{\"content\":\"");
        append_quoted(&p->body, data);
        append_format(&p->body, "\"}}}");
        break;
    case RAW:
        append_format(&p->body, "%s", data);
        write_request(p, name);
        break;
    case FORM: /* nothing in our data needs to be escaped there */
        append_format(&p->body, "topic=%s&data=%s", name, data);
        write_request(p, "");
        break;
    }
}

static void publisher_send(struct publisher *p, uint64_t now)
{
    uint64_t due = due_by(p, now);
    if (p->flight || p->broken || due <= p->sent)
        return;
    uint64_t last = due - p->sent > p->most ? p->sent + p->most : due;
    p->body.length = p->request.length = 0;
    for (uint64_t n = p->sent + 1; n <= last; n++) {
        p->random = p->random * 1664525 + 1013904223;
        unsigned channel = (p->random >> 8) % p->channels;
        p->name.length = 0;
        if (p->channels > 1)
            append_format(&p->name, "%s.%u", p->channel, channel);
        else
            append_format(&p->name, "%s", p->channel);
        append(&p->name, "", 1);
        publisher_data(p, n, channel);
        write_event(p, n == p->sent + 1, p->keys ? (p->random >> 4) % p->keys : 0);
        p->count[channel]++;
        p->sum[channel] += n;
    }
    if (p->format == BATCH || p->format == PUSHPIN) {
        append(&p->body, "]}", 2);
        write_request(p, "");
    }
    p->sent = last;
    p->flight = now;
    if (conn_send_all(&p->conn, p->request.data, p->request.length)) {
        p->broken = true;
        publisher_fail(p, "connection lost while sending", 29);
    }
}

/* The answer at `at`: how long it is, 0 if it is not whole yet. */
static size_t read_answer(struct publisher *p, const char *at)
{
    const char *end = p->reply.data + p->reply.length, *body = strstr(at, "\r\n\r\n");
    if (!body)
        return 0;
    body += 4;
    const char *length = strcasestr(at, "\r\ncontent-length:");
    size_t expected = length && length < body ? strtoul(length + 17, NULL, 10) : 0;
    if ((size_t)(end - body) < expected)
        return 0;
    const char *close = strcasestr(at, "\r\nconnection: close");
    p->closes = close && close < body;
    if (strncmp(at, "HTTP/1.1 2", 10)) {
        publisher_fail(p, at, (size_t)(end - at));
        p->broken = true;
    } else if (memmem(body, expected, "\"error\"", 7)) {
        publisher_fail(p, body, expected);
    }
    return (size_t)(body - at) + expected;
}

/* Read the round's answers. */
static void publisher_receive(struct publisher *p)
{
    bool ended = false;
    for (;;) {
        ssize_t got = conn_recv(&p->conn, reserve(&p->reply, 65536), 65535);
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0) {
            ended = true;
            break;
        }
        p->reply.length += (size_t)got;
    }
    p->reply.data[p->reply.length] = 0;
    size_t used = 0;
    for (size_t one; p->unanswered && (one = read_answer(p, p->reply.data + used)); used += one)
        p->unanswered--;
    memmove(p->reply.data, p->reply.data + used, p->reply.length - used);
    p->reply.length -= used;
    if (ended && !p->closes) {
        conn_close(&p->conn);
        p->broken = true;
        publisher_fail(p, "connection lost", 15);
        return;
    }
    if (p->unanswered || !p->flight)
        return;
    if (p->closes) { /* Pushpin's door takes one request a connection */
        conn_close(&p->conn);
        publisher_connect(p);
        p->closes = false;
    }
    record(&p->round_trip, clock_us() - p->flight);
    p->flight = 0;
    p->answered = p->sent;
}

#endif
