/* The floor: what a C server needs for a fan-out and nothing else, the limit that twinwire is measured against.
 *
 * floor PORT naive    every event is send()t to every socket by itself, as most servers do
 * floor PORT batch    what has arrived is joined once for all who want the same bytes, and sent once to each
 * floor PORT paced    the same, but 50 ms at least from one round of sends to the next: fewer and larger ones
 * floor PORT MODE CERTIFICATE KEY    the same over TLS, from PEM files
 *
 * GET /sse?channel=A&channel=B is an event stream, GET /ws?channel=A&channel=B the same as Centrifuge
 * pushes (every command is answered without a look at it), POST /api/batch publishes. Requests have just the
 * form that the load client gives them: nothing is checked. There is no replay and no ping.
 *
 * Those who made the same request form a lane. A lane's bytes are written down once, with their HTTP chunks
 * or WebSocket frames; a member is a place in them.
 */

#define _GNU_SOURCE
#include <signal.h>
#include <sys/epoll.h>

#include "conn.h"

#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" /* the answer to the load client's only key */

enum { BACKLOG = 64 << 20, TRIM = 1 << 20, READ = 256 << 10, PACE_US = 50000 };

struct lane {
    char *target;
    bool ws, dirty;
    struct buffer pending; /* events, not yet framed */
    struct buffer sent;    /* framed bytes that not all members have taken yet */
    uint64_t base;         /* where `sent` begins, counted from the lane's birth */
    struct client **members;
    unsigned count;
};

struct channel {
    char *name;
    struct lane **lanes;
    unsigned count;
};

struct client {
    struct conn conn;
    bool open; /* the TLS handshake is done */
    struct lane *lane;
    uint64_t place;
    bool full; /* waits for the socket to drain */
    struct buffer in;
    struct client *next_dead;
};

static bool naive;
static int poller;
static struct lane **lanes;
static unsigned lane_count;
static struct lane **dirty; /* those that have something pending */
static unsigned dirty_count;
static struct channel *channels; /* a hash table of CHANNELS places */
enum { CHANNELS = 4096 };
static uint64_t epoch, seq;
static struct client *dead; /* closed, but this round's events may still name them */

static struct channel *channel_named(const char *name, size_t length)
{
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 1099511628211u;
    for (unsigned i = 0; i < CHANNELS; i++) {
        struct channel *c = &channels[(hash + i) % CHANNELS];
        if (!c->name)
            c->name = strndup(name, length);
        if (strlen(c->name) == length && !memcmp(c->name, name, length))
            return c;
    }
    die("more than %d channels", CHANNELS);
}

static struct lane *lane_for(const char *target, bool ws)
{
    for (unsigned i = lane_count; i-- > 0; ) /* those who want the same tend to come together */
        if (!strcmp(lanes[i]->target, target))
            return lanes[i];
    struct lane *lane = calloc(1, sizeof *lane);
    lane->target = strdup(target);
    lane->ws = ws;
    lanes = grow(lanes, (lane_count + 1) * sizeof *lanes);
    lanes[lane_count++] = lane;
    for (const char *at = target; (at = strstr(at, "channel=")); ) {
        at += 8;
        struct channel *c = channel_named(at, strcspn(at, "&"));
        c->lanes = grow(c->lanes, (c->count + 1) * sizeof *c->lanes);
        c->lanes[c->count++] = lane;
    }
    return lane;
}

static void frame(struct buffer *out, bool ws, const char *data, size_t length)
{
    if (!ws) {
        append_format(out, "%zx\r\n", length);
        append(out, data, length);
        append(out, "\r\n", 2);
        return;
    }
    unsigned char header[10] = {0x81, (unsigned char)length};
    size_t bytes = length < 126 ? 0 : length < 65536 ? 2 : 8;
    if (bytes)
        header[1] = bytes == 2 ? 126 : 127;
    for (size_t i = 0; i < bytes; i++)
        header[2 + i] = (unsigned char)(length >> 8 * (bytes - 1 - i));
    append(out, header, 2 + bytes);
    append(out, data, length);
}

static void client_close(struct client *c)
{
    struct lane *lane = c->lane;
    for (unsigned i = 0; lane && i < lane->count; i++)
        if (lane->members[i] == c)
            lane->members[i] = lane->members[--lane->count];
    conn_close(&c->conn);
    c->next_dead = dead;
    dead = c;
}

static void bury(void)
{
    for (struct client *c; (c = dead); ) {
        dead = c->next_dead;
        free(c->in.data);
        free(c);
    }
}

/* Send what the client has not taken yet; false if that failed. */
static bool client_flush(struct client *c)
{
    struct lane *lane = c->lane;
    size_t done = (size_t)(c->place - lane->base), left = lane->sent.length - done;
    ssize_t sent = left ? conn_send(&c->conn, lane->sent.data + done, left) : 0;
    if (sent < 0 && errno != EAGAIN)
        return false;
    c->place += sent > 0 ? (size_t)sent : 0;
    bool full = sent < (ssize_t)left;
    if (full != c->full) {
        c->full = full;
        struct epoll_event event = {.events = EPOLLIN | (full ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->conn.fd, &event);
    }
    return left - (size_t)(sent > 0 ? sent : 0) < BACKLOG;
}

/* One write to each member; then forget what all have. */
static void lane_tick(struct lane *lane)
{
    lane->dirty = false;
    if (lane->pending.length)
        frame(&lane->sent, lane->ws, lane->pending.data, lane->pending.length);
    lane->pending.length = 0;
    uint64_t end = lane->base + lane->sent.length, least = end;
    for (unsigned i = lane->count; i-- > 0; ) {
        struct client *c = lane->members[i];
        if (!c->full && !client_flush(c))
            client_close(c);
        else if (c->place < least)
            least = c->place;
    }
    size_t drop = (size_t)(least - lane->base);
    if (least == end || drop > TRIM) {
        memmove(lane->sent.data, lane->sent.data + drop, lane->sent.length - drop);
        lane->sent.length -= drop;
        lane->base = least;
    }
}

static void encode(struct buffer *out, bool ws, const char *name, size_t name_length, const char *data, size_t length)
{
    if (ws)
        append_format(out, "{\"push\":{\"channel\":\"%.*s\",\"pub\":{\"data\":%.*s,\"offset\":%llu}}}", (int)name_length, name,
                      (int)length, data, (unsigned long long)seq);
    else
        append_format(out, "id: %llu-%llu\ndata: %.*s\n\n", (unsigned long long)epoch, (unsigned long long)seq, (int)length, data);
}

static void publish(const char *name, size_t name_length, const char *data, size_t length)
{
    static struct buffer encoded[2], framed; /* once for each wire */
    encoded[0].length = encoded[1].length = 0;
    struct channel *channel = channel_named(name, name_length);
    seq++;
    for (unsigned i = 0; i < channel->count; i++) {
        struct lane *lane = channel->lanes[i];
        struct buffer *event = &encoded[lane->ws];
        if (!event->length)
            encode(event, lane->ws, name, name_length, data, length);
        if (!naive) {
            if (lane->ws && lane->pending.length)
                append(&lane->pending, "\n", 1);
            append(&lane->pending, event->data, event->length);
            if (!lane->dirty) {
                dirty = grow(dirty, (dirty_count + 1) * sizeof *dirty);
                dirty[dirty_count++] = lane;
            }
            lane->dirty = true;
            continue;
        }
        framed.length = 0;
        frame(&framed, lane->ws, event->data, event->length);
        for (unsigned k = lane->count; k-- > 0; )
            if (conn_send_all(&lane->members[k]->conn, framed.data, framed.length))
                client_close(lane->members[k]);
    }
}

/* Where the JSON object at `at` ends. */
static const char *object_end(const char *at)
{
    unsigned depth = 0;
    for (bool text = false; ; at++) {
        if (text && *at == '\\')
            at++;
        else if (*at == '"')
            text = !text;
        else if (!text && *at == '{')
            depth++;
        else if (!text && *at == '}' && !--depth)
            return at + 1;
    }
}

static bool answer_batch(struct client *c, const char *body)
{
    static struct buffer reply, response;
    reply.length = response.length = 0;
    static const char start[] = "\"publish\":{\"channel\":\"";
    for (const char *at = body; (at = strstr(at, start)); ) {
        const char *name = at + sizeof start - 1, *data = strstr(name, "\"data\":") + 7;
        at = object_end(data);
        publish(name, strcspn(name, "\""), data, (size_t)(at - data));
        append_format(&reply, "%s{\"publish\":{\"offset\":%llu,\"epoch\":\"%llu\"}}", reply.length ? "," : "{\"replies\":[",
                      (unsigned long long)seq, (unsigned long long)epoch);
    }
    append(&reply, "]}", 2);
    append_format(&response, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", reply.length);
    append(&response, reply.data, reply.length);
    return !conn_send_all(&c->conn, response.data, response.length);
}

static bool begin_stream(struct client *c, const char *target, bool ws)
{
    static struct buffer head, first;
    head.length = first.length = 0;
    if (ws) {
        append_format(&head, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: " WS_ACCEPT "\r\n\r\n");
    } else {
        append_format(&head, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
                             "transfer-encoding: chunked\r\n\r\n");
        append_format(&first, "retry: 1000\nid: %llu-%llu\n\n", (unsigned long long)epoch, (unsigned long long)seq);
        frame(&head, false, first.data, first.length);
    }
    struct lane *lane = lane_for(target, ws);
    if (lane->dirty)
        lane_tick(lane);
    lane->members = grow(lane->members, (lane->count + 1) * sizeof *lane->members);
    lane->members[lane->count++] = c;
    c->lane = lane;
    c->place = lane->base + lane->sent.length;
    return !conn_send_all(&c->conn, head.data, head.length);
}

/* Answer every command of one frame that has an id. */
static bool answer_commands(struct client *c, const char *at, const char *end)
{
    static struct buffer text, out;
    text.length = out.length = 0;
    while (at < end && (at = memmem(at, (size_t)(end - at), "\"id\":", 5))) {
        at += 5;
        append_format(&text, "%s{\"id\":%ld,\"rpc\":{}}", text.length ? "\n" : "", strtol(at, NULL, 10));
    }
    if (!text.length)
        return true;
    frame(&out, true, text.data, text.length);
    return !conn_send_all(&c->conn, out.data, out.length);
}

/* The first request or frame in `in`: how long it is, 0 if it is not whole yet, -1 at the end. */
static ssize_t serve_one(struct client *c, char *in, size_t length)
{
    if (c->lane && c->lane->ws) {
        if (length < 6)
            return 0;
        unsigned code = in[1] & 0x7f;
        size_t head = code < 126 ? 6 : code == 126 ? 8 : 14, size = code < 126 ? code : 0;
        for (size_t i = 2; i + 4 < head && length >= head; i++)
            size = size << 8 | (unsigned char)in[i];
        if (length < head + size)
            return 0;
        for (size_t i = 0; i < size; i++)
            in[head + i] ^= in[head - 4 + i % 4];
        bool going = (in[0] & 0x0f) != 8 && answer_commands(c, in + head, in + head + size);
        return going ? (ssize_t)(head + size) : -1;
    }
    char *body = strstr(in, "\r\n\r\n");
    if (!body)
        return 0;
    body += 4;
    char *content = strcasestr(in, "\r\ncontent-length:");
    size_t size = content && content < body ? strtoul(content + 17, NULL, 10) : 0;
    if ((size_t)(body - in) + size > length)
        return 0;
    char saved = body[size];
    body[size] = 0;
    bool going;
    if (!strncmp(in, "POST ", 5)) {
        going = answer_batch(c, body);
    } else {
        char *target = in + 4;
        target[strcspn(target, " \r")] = 0;
        going = begin_stream(c, target, !strncmp(target, "/ws", 3));
    }
    body[size] = saved;
    return going ? body + size - in : -1;
}

static bool client_read(struct client *c)
{
    if (!c->open) {
        int done = conn_handshake(&c->conn, true);
        if (done <= 0)
            return done == 0;
        c->open = true;
    }
    ssize_t got = conn_recv(&c->conn, reserve(&c->in, READ), READ - 1);
    if (got < 0 && errno == EAGAIN)
        return true;
    if (got <= 0)
        return false;
    c->in.length += (size_t)got;
    c->in.data[c->in.length] = 0;
    size_t used = 0;
    for (ssize_t one; used < c->in.length; used += (size_t)one) {
        one = serve_one(c, c->in.data + used, c->in.length - used);
        if (one < 0)
            return false;
        if (!one)
            break;
    }
    memmove(c->in.data, c->in.data + used, c->in.length - used + 1);
    c->in.length -= used;
    if (c->lane && !c->in.length) { /* thousands of streams say nothing more */
        free(c->in.data);
        c->in = (struct buffer){0};
    }
    return true;
}

int main(int argc, char **argv)
{
    if ((argc != 3 && argc != 5) || (strcmp(argv[2], "naive") && strcmp(argv[2], "batch") && strcmp(argv[2], "paced")))
        die("usage: floor PORT naive|batch|paced [CERTIFICATE KEY]");
    uint64_t pace = *argv[2] == 'p' ? PACE_US : 0, ticked = 0;
    if (argc == 5)
        tls_server(argv[3], argv[4]);
    naive = *argv[2] == 'n';
    raise_file_limit();
    signal(SIGPIPE, SIG_IGN);
    channels = calloc(CHANNELS, sizeof *channels);
    struct timespec born;
    clock_gettime(CLOCK_REALTIME, &born);
    epoch = (uint64_t)born.tv_sec * 1000;

    struct sockaddr_in address = loopback(atoi(argv[1]));
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(door, (struct sockaddr *)&address, sizeof address) || listen(door, 4096))
        die("port %s: %s", argv[1], strerror(errno));
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, door, &(struct epoll_event){.events = EPOLLIN});

    for (struct epoll_event events[256];;) {
        uint64_t waited = clock_us() - ticked;
        int timeout = !dirty_count ? -1 : waited < pace ? (int)((pace - waited) / 1000) + 1 : 0;
        int count = epoll_wait(poller, events, 256, timeout);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0; ) {
                    no_delay(fd);
                    c = calloc(1, sizeof *c);
                    c->conn.fd = fd;
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
                }
            } else if (c->conn.fd >= 0 && (((events[i].events & EPOLLOUT) && !client_flush(c)) || ((events[i].events & ~(uint32_t)EPOLLOUT) && !client_read(c)))) {
                client_close(c);
            }
        }
        if (dirty_count && clock_us() - ticked >= pace) {
            ticked = clock_us();
            for (unsigned i = 0; i < dirty_count; i++)
                if (dirty[i]->dirty)
                    lane_tick(dirty[i]);
            dirty_count = 0;
        }
        bury();
    }
}
