/* The load client's publisher: events at a steady rate through POST /api/batch on one connection.
 *
 * It lives in the client's process, so that the server has its core to itself. One request is in flight
 * at a time; what falls due meanwhile goes into the next one. An event is born when it falls due, not when
 * it is sent: a server that holds the publisher back cannot hide the delay.
 *
 * Data: {"n":N,"t":T}, and padding or the fields of a price tick. N counts all events from 1, over all
 * channels; T is `clock_us`.
 */

#ifndef BENCH_PUBLISH_H
#define BENCH_PUBLISH_H

#include "conn.h"
#include "histogram.h"

struct publisher {
    /* what to do */
    const char *target, *headers, *channel; /* one of several is CHANNEL.0, CHANNEL.1, … */
    int port;
    unsigned channels, keys, padding, most; /* `most` events in one request */
    bool ticks;
    double rate, seconds, interval;         /* events fall due at every `interval` seconds */

    /* how far it is */
    struct conn conn;
    uint64_t began, sent, answered, offered, requests, errors, flight; /* `flight`: when the request left */
    unsigned random;
    bool broken;
    char trouble[240];
    struct buffer body, request, reply;
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
    append_format(&p->body, "{\"n\":%llu,\"t\":%llu", (unsigned long long)n, (unsigned long long)due_at(p, n));
    if (p->ticks) { /* a price walks, quantities jump, as in a market */
        int bid = p->price[channel] += (int)(p->random >> 28) - 7, spread = 1 + (int)(p->random >> 12) % 4;
        append_format(&p->body, ",\"symbol\":\"S%03u\",\"bid\":%d.%05d,\"ask\":%d.%05d,\"bid_size\":%u,\"ask_size\":%u", channel,
                      bid / 100000, bid % 100000, (bid + spread) / 100000, (bid + spread) % 100000,
                      (p->random >> 9) % 50 * 100000, (p->random >> 17) % 50 * 100000);
    }
    if (p->padding) {
        append(&p->body, ",\"p\":\"", 6);
        memset(reserve(&p->body, p->padding), 'x', p->padding);
        p->body.length += p->padding;
        append(&p->body, "\"", 1);
    }
    append(&p->body, "}", 1);
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
        append_format(&p->body, "%s{\"publish\":{\"channel\":\"", n == p->sent + 1 ? "{\"commands\":[" : ",");
        if (p->channels > 1)
            append_format(&p->body, "%s.%u", p->channel, channel);
        else
            append(&p->body, p->channel, strlen(p->channel));
        if (p->keys)
            append_format(&p->body, "\",\"key\":\"k%u", (p->random >> 4) % p->keys);
        append_format(&p->body, "\",\"data\":");
        publisher_data(p, n, channel);
        append(&p->body, "}}", 2);
        p->count[channel]++;
        p->sum[channel] += n;
    }
    append(&p->body, "]}", 2);
    append_format(&p->request,
                  "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
                  p->target, p->port, p->headers, p->body.length);
    append(&p->request, p->body.data, p->body.length);
    p->sent = last;
    p->requests++;
    p->flight = now;
    if (conn_send_all(&p->conn, p->request.data, p->request.length)) {
        p->broken = true;
        publisher_fail(p, "connection lost while sending", 29);
    }
}

/* Read the answer. */
static void publisher_receive(struct publisher *p)
{
    for (;;) {
        ssize_t got = conn_recv(&p->conn, reserve(&p->reply, 65536), 65535);
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0) {
            conn_close(&p->conn);
            p->broken = true;
            publisher_fail(p, "connection lost", 15);
            return;
        }
        p->reply.length += (size_t)got;
    }
    p->reply.data[p->reply.length] = 0;
    char *body = strstr(p->reply.data, "\r\n\r\n");
    if (!body)
        return;
    char *length = strcasestr(p->reply.data, "\r\ncontent-length:");
    size_t expected = length && length < body ? strtoul(length + 17, NULL, 10) : 0;
    size_t present = p->reply.length - (size_t)(body + 4 - p->reply.data);
    if (present < expected)
        return;
    if (strncmp(p->reply.data, "HTTP/1.1 200", 12)) {
        publisher_fail(p, p->reply.data, p->reply.length);
        p->broken = true;
    } else if (strstr(body, "\"error\"")) {
        publisher_fail(p, body + 4, expected);
    }
    record(&p->round_trip, clock_us() - p->flight);
    p->flight = 0;
    p->answered = p->sent;
    p->reply.length = 0;
}

#endif
