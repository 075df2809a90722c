/* One client of the load client: it connects, checks what the scanner finds, comes back to its position. */

#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <sys/epoll.h>

#include "conn.h"
#include "histogram.h"
#include "inflate.h"
#include "options.h"

/* RFC 6455's own example. One key for all: nothing here depends on its being random. */
#define WS_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WS_ACCEPT "s3pplmbitxaq9kygzzhzrbk+xoo=" /* as the scanner shows it, in lower case */

enum { READ = 256 << 10 };

enum state { WAITING, CONNECTING, SECURING, STARTING, LIVE, CLOSED };
enum role { HEALTHY, SLOW, STALLED, RPC };

struct client {
    struct scan scan; /* first: the scanner's callbacks get a client */
    struct packed packed;
    struct conn conn;
    enum state state;
    enum role role;
    bool checked; /* or only its bytes are counted, once it is live */
    unsigned replies_left;
    const struct target *target;
    uint64_t since;                              /* began to connect, or may from then on */
    uint64_t received, sum, last_n, epoch, seq;  /* how far it has got */
    uint64_t live_n;                             /* back from the storm when it has got this far */
    uint64_t call, called;                       /* RPC: number and time of the last one */
    bool calling;
};

/* All of them: the streams first, then those that call commands. */
static struct client *clients;
static unsigned client_count, stream_count, live_count, connecting_count;
static unsigned *queue, queue_head, queue_length; /* who is to connect, a ring */

static int bulk, urgent; /* epoll sets: the streams; the publisher and the callers */
static char *read_buffer;
static uint64_t now; /* when the bytes being scanned were read */

static enum phase { CONNECT, SETTLE, RUN, DRAIN, OVER } phase;

static uint64_t *last_at; /* by event, if wanted: when the last client had it */

static struct {
    enum { NO_STORM, AWAY, RETURNING } state;
    uint64_t dropped_at, back_at, away_events;
    unsigned dropped, returned;
} storm;

/* What is reported. */
static struct histogram latency, connect_time, rpc_time, storm_head, storm_live, last_client;
static uint64_t deliveries, last_delivery, last_read, duplicates, out_of_order, bad_positions, gaps, controls, stampless, positions;
static uint64_t bytes_read, reads, refused, closed, stalled_closed, reconnects, rpc_errors;
static char trouble[240];

static void note(const char *text, size_t length)
{
    if (!*trouble)
        snprintf(trouble, sizeof trouble, "%.*s", (int)(length < 200 ? length : 200), text);
    for (char *c = trouble; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = *c == '"' ? '\'' : ' ';
}

static void enqueue(struct client *c, uint64_t not_before)
{
    c->state = WAITING;
    c->since = not_before;
    queue[(queue_head + queue_length++) % client_count] = (unsigned)(c - clients);
}

static void watch(struct client *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(c->role == RPC ? urgent : bulk, operation, c->conn.fd, &event);
}

static void client_close(struct client *c)
{
    if (c->state == CONNECTING || c->state == SECURING || c->state == STARTING)
        connecting_count--;
    if (c->state == LIVE)
        live_count--;
    conn_close(&c->conn);
    c->state = CLOSED;
    c->calling = false;
}

/* The other side ended it, or we had to. */
static void client_lost(struct client *c)
{
    bool was_live = c->state == LIVE;
    client_close(c);
    if (!was_live && phase == CONNECT) {
        refused++;
        enqueue(c, clock_us() + 100000);
        return;
    }
    closed += c->role != STALLED;
    stalled_closed += c->role == STALLED;
    if (option.reconnect >= 0 || storm.state == RETURNING) {
        reconnects++;
        enqueue(c, clock_us() + (uint64_t)((option.reconnect > 0 ? option.reconnect : 0) * 1e6));
    }
}

static void client_live(struct client *c)
{
    c->state = LIVE;
    live_count++;
    connecting_count--;
    if (storm.state == RETURNING)
        record(&storm_head, now - storm.back_at);
    else
        record(&connect_time, now - c->since);
    if (c->role == STALLED || c->role == SLOW)
        watch(c, EPOLL_CTL_MOD, EPOLLRDHUP);
}

static void send_frame(struct client *c, int opcode, const char *text, size_t length)
{
    /* Masked with zeros, which leaves the text as it is. */
    static struct buffer frame;
    frame.length = 0;
    unsigned char header[14] = {0x80 | (unsigned char)opcode, 0x80};
    size_t size = 2;
    if (length < 126) {
        header[1] |= (unsigned char)length;
    } else {
        size_t bytes = length < 65536 ? 2 : 8;
        header[1] |= bytes == 2 ? 126 : 127;
        for (size_t i = 0; i < bytes; i++)
            header[size++] = (unsigned char)(length >> 8 * (bytes - 1 - i));
    }
    size += 4;
    append(&frame, header, size);
    append(&frame, text, length);
    conn_send_all(&c->conn, frame.data, frame.length); /* a failure shows at the next read */
}

static void send_request(struct client *c)
{
    static struct buffer request;
    request.length = 0;
    append_format(&request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s", c->target->path, (int)option.port, option.headers);
    if (c->scan.wire == WS) {
        append_format(&request, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: " WS_KEY "\r\n%s\r\n", option.compressed ? WS_OFFER : "");
    } else {
        append_format(&request, "Accept: text/event-stream\r\n%s", option.compressed ? "Accept-Encoding: gzip\r\n" : "");
        if (c->epoch)
            append_format(&request, "Last-Event-ID: %llu-%llu\r\n", (unsigned long long)c->epoch, (unsigned long long)c->seq);
        append_format(&request, "\r\n");
    }
    conn_send_all(&c->conn, request.data, request.length);
}

/* The first commands; a client that has a position asks for recovery from there. */
static void send_commands(struct client *c)
{
    static struct buffer text;
    text.length = 0;
    static const char subscribe[] = "\"subscribe\":{";
    for (const char *at = c->target->commands, *next; *at; at = next) {
        const char *found = strstr(at, subscribe);
        next = found ? found + sizeof subscribe - 1 : at + strlen(at);
        append(&text, at, (size_t)(next - at));
        if (found && c->epoch)
            append_format(&text, "\"recover\":true,\"epoch\":\"%llu\",\"offset\":%llu,", (unsigned long long)c->epoch, (unsigned long long)c->seq);
    }
    if (text.length)
        send_frame(c, 1, text.data, text.length);
}

static void client_connect(struct client *c)
{
    struct sockaddr_in address = loopback((int)option.port);
    c->conn.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->conn.fd < 0)
        die("socket: %s", strerror(errno));
    no_delay(c->conn.fd);
    if (option.rcvbuf > 0 && (c->role == SLOW || c->role == STALLED))
        setsockopt(c->conn.fd, SOL_SOCKET, SO_RCVBUF, &(int){(int)option.rcvbuf}, sizeof(int));
    scan_reset(&c->scan);
    unpack_end(&c->packed);
    c->replies_left = c->target->replies;
    c->since = clock_us();
    c->state = CONNECTING;
    connecting_count++;
    if (connect(c->conn.fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        client_lost(c);
        return;
    }
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void connect_some(void)
{
    unsigned limit = storm.state == RETURNING ? UINT32_MAX : (unsigned)option.connecting;
    while (queue_length && connecting_count < limit) {
        struct client *c = &clients[queue[queue_head]];
        if (c->since > clock_us())
            return;
        queue_head = (queue_head + 1) % client_count;
        queue_length--;
        client_connect(c);
    }
}

static bool on_head(struct scan *s, int status, const char *head, size_t length)
{
    struct client *c = (struct client *)s;
    if (status != (s->wire == WS ? 101 : 200) || (s->wire == WS && !memmem(head, length, WS_ACCEPT, strlen(WS_ACCEPT)))) {
        note(head, length);
        return false;
    }
    if (option.compressed)
        unpack_begin(&c->packed, s, head, length);
    if (s->wire == WS)
        send_commands(c);
    if (s->wire == WS ? !c->replies_left : *option.live_at == 'h')
        client_live(c);
    return true;
}

static inline bool on_unit(struct scan *s, const struct unit *unit)
{
    struct client *c = (struct client *)s;
    if (__builtin_expect(c->state == STARTING && s->wire == SSE, 0))
        client_live(c);
    if (unit->seq) {
        if (unit->epoch > c->epoch)
            c->epoch = unit->epoch;
        else if ((unit->epoch && unit->epoch < c->epoch) || (unit->kind == EVENT ? unit->seq <= c->seq : unit->seq < c->seq))
            bad_positions++;
        c->seq = unit->seq;
    }
    if (__builtin_expect(unit->kind != EVENT, 0)) {
        gaps += unit->kind == GAP;
        controls += unit->kind == CONTROL;
        positions += unit->kind == POSITION;
        return true;
    }
    if (!unit->n) {
        stampless++;
        return true;
    }
    if (unit->n <= c->last_n) {
        duplicates += unit->n == c->last_n;
        out_of_order += unit->n < c->last_n;
        return true;
    }
    c->last_n = unit->n;
    c->received++;
    c->sum += unit->n;
    if (c->role == HEALTHY) {
        deliveries++;
        record(&latency, now > unit->born ? now - unit->born : 0);
        if (last_at)
            last_at[unit->n] = now;
        if (__builtin_expect(unit->n >= c->live_n, 0)) {
            c->live_n = UINT64_MAX;
            storm.returned++;
            record(&storm_live, now - storm.back_at);
        }
    }
    return true;
}

static bool on_reply(struct scan *s, const char *line, size_t length)
{
    struct client *c = (struct client *)s;
    const char *end = line + length;
    if (length == 2 && !memcmp(line, "{}", 2)) {
        send_frame(c, 1, "{}", 2);
        return true;
    }
    if (*line == '2')
        send_frame(c, 1, "3", 1); /* Engine.IO's ping and pong */
    if (*line == '2' || *line == '0')
        return true; /* its handshake; Socket.IO's answer is still to come */
    bool error = FIND(line, end, "\"error\"") || STARTS(line, end, "44");
    if (error)
        note(line, length);
    if (c->replies_left) {
        const char *epoch = FIND(line, end, "\"epoch\":\"");
        const char *offset = FIND(line, end, "\"offset\":");
        const char *publications = FIND(line, end, "\"publications\":[");
        uint64_t born = epoch ? (epoch += 9, digits(&epoch)) : 0;
        if (born > c->epoch) {
            c->epoch = born;
            c->seq = offset && !publications ? (offset += 9, digits(&offset)) : 0;
        }
        if (FIND(line, end, "\"recovered\":false") || (FIND(line, end, "\"was_recovering\":true") && !FIND(line, end, "\"recovered\":true")))
            gaps++;
        if (error)
            return false;
        if (!--c->replies_left)
            client_live(c);
        return !publications || scan_publications(s, publications, end);
    }
    if (c->calling) {
        record(&rpc_time, now - c->called);
        rpc_errors += error;
        c->calling = false;
        c->call++;
    }
    return true;
}

static bool on_control(struct scan *s, int opcode, const char *payload, size_t length)
{
    if (opcode == 9)
        send_frame((struct client *)s, 10, payload, length);
    if (opcode == 8) {
        if (length > 2)
            note(payload + 2, length - 2);
        return false;
    }
    return true;
}

/* Have the kernel throw away what is there (MSG_TRUNC): what nobody looks at is not copied either. */
static void count_bytes(struct client *c)
{
    ssize_t got = recv(c->conn.fd, NULL, 1 << 30, MSG_TRUNC);
    if (got < 0 && errno == EAGAIN)
        return;
    last_read = now = clock_us();
    reads++;
    bytes_read += got > 0 ? (uint64_t)got : 0;
    if (got <= 0)
        client_lost(c);
}

static void client_read(struct client *c, size_t most)
{
    if (!c->checked && c->state == LIVE) {
        count_bytes(c);
        return;
    }
    do {
        ssize_t got = conn_recv(&c->conn, read_buffer, most);
        if (got < 0 && errno == EAGAIN)
            return;
        now = clock_us();
        if (got <= 0) {
            client_lost(c);
            return;
        }
        reads++;
        bytes_read += (uint64_t)got;
        uint64_t before = c->received;
        bool going = option.compressed ? unpack(&c->packed, &c->scan, read_buffer, (size_t)got) : scan(&c->scan, read_buffer, (size_t)got);
        if (c->received != before && c->role == HEALTHY)
            last_delivery = now;
        if (!going) {
            client_lost(c);
            return;
        }
        if (!c->checked && c->state == LIVE)
            unpack_end(&c->packed);
    } while (most == READ && conn_pending(&c->conn));
}

static void client_ready(struct client *c, uint32_t events)
{
    if (c->conn.fd < 0)
        return;
    if (c->state == CONNECTING) {
        int error = 0;
        getsockopt(c->conn.fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        if (error) {
            client_lost(c);
            return;
        }
        c->state = SECURING;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
    if (c->state == SECURING) {
        int done = conn_handshake(&c->conn, false);
        if (done > 0) {
            c->state = STARTING;
            send_request(c);
        } else if (done < 0) {
            note("the TLS handshake failed", 24);
            client_lost(c);
        }
    } else if (c->state == LIVE && c->role == STALLED) {
        client_lost(c);
    } else if (c->state == LIVE && c->role == SLOW) {
        if (events & (EPOLLHUP | EPOLLERR))
            client_lost(c);
        else
            watch(c, EPOLL_CTL_MOD, 0); /* the end will be read in its time */
    } else {
        client_read(c, READ);
    }
}

static void read_slowly(void)
{
    static uint64_t last;
    uint64_t at = clock_us();
    if (!option.slow || at - last < 20000)
        return;
    double seconds = last ? (double)(at - last) / 1e6 : .02;
    size_t most = (size_t)(option.slow_rate * (seconds < .1 ? seconds : .1));
    last = at;
    for (struct client *c = clients; c < clients + stream_count; c++)
        if (c->role == SLOW && c->state == LIVE)
            client_read(c, most < READ ? most : READ);
}

#endif
