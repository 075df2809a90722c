/* The scanner finds the same units however the bytes are cut: whole, byte by byte, and at every single place.
 * Prints nothing and exits 0 if so. */

#define _GNU_SOURCE
#include "inflate.h"

static struct buffer found;
static struct packed packed;

static bool on_head(struct scan *s, int status, const char *head, size_t length)
{
    unpack_begin(&packed, s, head, length);
    append_format(&found, "head %d\n", status);
    return true;
}

static bool on_unit(struct scan *s, const struct unit *u)
{
    (void)s;
    append_format(&found, "%s %llu-%llu n=%llu t=%llu\n", (const char *[]){"event", "position", "gap", "control"}[u->kind],
                  (unsigned long long)u->epoch, (unsigned long long)u->seq, (unsigned long long)u->n, (unsigned long long)u->born);
    return true;
}

static bool on_reply(struct scan *s, const char *line, size_t length)
{
    append_format(&found, "reply %.*s\n", (int)length, line);
    const char *publications = FIND(line, line + length, "\"publications\":[");
    return !publications || scan_publications(s, publications, line + length);
}

static bool on_control(struct scan *s, int opcode, const char *payload, size_t length)
{
    (void)s, (void)payload, (void)length;
    append_format(&found, "control %d\n", opcode);
    return opcode != 8;
}

static char *room;

static void feed(struct scan *s, const struct buffer *stream, size_t from, size_t to)
{
    memset(room, 'x', 4096);
    memcpy(room, stream->data + from, to - from);
    if (to > from)
        unpack(&packed, s, room, to - from);
}

static void check(const char *name, enum wire wire, const struct buffer *stream, const char *expected)
{
    for (size_t cut = 0; cut <= stream->length + 1; cut++) {
        struct scan s = {.wire = wire};
        unpack_end(&packed);
        found.length = 0;
        if (cut > stream->length) {
            for (size_t i = 0; i < stream->length; i++)
                feed(&s, stream, i, i + 1);
        } else {
            feed(&s, stream, 0, cut);
            if (s.state != ENDED)
                feed(&s, stream, cut, stream->length);
        }
        append(&found, "", 1);
        if (strcmp(found.data, expected))
            die("%s, cut at %zu of %zu:\n%s--- instead of\n%s", name, cut, stream->length, found.data, expected);
    }
}

static void add_chunk(struct buffer *stream, const char *text, size_t length)
{
    append_format(stream, "%zX\r\n%.*s\r\n", length, (int)length, text);
}

static void add_frame(struct buffer *stream, int first, const char *text, size_t length, size_t bytes)
{
    unsigned char header[10] = {(unsigned char)first, (unsigned char)(bytes == 0 ? length : bytes == 2 ? 126 : 127)};
    for (size_t i = 0; i < bytes; i++)
        header[2 + i] = (unsigned char)(length >> 8 * (bytes - 1 - i));
    append(stream, header, 2 + bytes);
    append(stream, text, length);
}

#ifdef WITH_ZLIB

/* The stream so far, and after it `text`, deflated up to a full flush. */
static void deflate_onto(struct buffer *out, int window_bits, const char *text, size_t length)
{
    z_stream stream = {0};
    deflateInit2(&stream, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
    stream.next_in = (Bytef *)(uintptr_t)text;
    stream.avail_in = (uInt)length;
    stream.next_out = (Bytef *)reserve(out, length + 100);
    stream.avail_out = (uInt)length + 100;
    deflate(&stream, Z_FULL_FLUSH);
    out->length += length + 100 - stream.avail_out;
    deflateEnd(&stream);
}

static void check_packed_blocks(const char *blocks, size_t length, const char *expected)
{
    struct buffer stream = {0}, first = {0}, second = {0};
    append_format(&stream, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n");
    deflate_onto(&first, 15 + 16, blocks, length / 2);
    deflate_onto(&second, -15, blocks + length / 2, length - length / 2);
    for (struct buffer *part = &first; part; part = part == &first ? &second : NULL) {
        append_format(&stream, "%zx\r\n", part->length);
        append(&stream, part->data, part->length);
        append(&stream, "\r\n", 2);
    }
    append_format(&stream, "0\r\n\r\nignored");
    check("gzip in chunks", SSE, &stream, expected);
}

static void check_packed_messages(const char *one, const char *two, const char *expected)
{
    struct buffer stream = {0}, message = {0};
    append_format(&stream, "HTTP/1.1 101 Switching Protocols\r\n"
                           "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n");
    deflate_onto(&message, -15, one, strlen(one));
    add_frame(&stream, 0x41, message.data, 7, 0);
    add_frame(&stream, 0x89, "ping", 4, 0);
    add_frame(&stream, 0x80, message.data + 7, message.length - 4 - 7, 2); /* RFC 7692 7.2.1 */
    add_frame(&stream, 0x81, two, strlen(two), 0);
    message.length = 0;
    deflate_onto(&message, -15, two, strlen(two));
    add_frame(&stream, 0xc1, message.data, message.length - 4, 0);
    check("deflated messages", WS, &stream, expected);
}

#endif

int main(void)
{
    room = (char *)grow(NULL, KEPT_MAX + 8192) + KEPT_MAX;
    static const char blocks[] =
        "retry: 1000\nid: 1763800000000-41\n\n"
        "id: 1763800000000-42\ndata: {\"n\":1,\"t\":1234567890123}\n\n"
        ": comment\n\n"
        "id: 1763800000000-12345678\r\nevent: tick\r\ndata: { \"p\": 5, \"n\": 2, \"t\": 99 }\r\n\r\n"
        "event: gap\ndata: {\"from\":\"1-2\"}\n\n"
        "id: 1763800000000-12345679\nevent: heartbeat\ndata: {}\n\n"
        "id: 1763800000:0\ndata: {\"n\":3,\"t\":98}\n\n"
        "id: 1763800000:[0],-\ndata: {\"n\":4,\"t\":97}\n\n"
        "data: {\"channel\":\"a\",\"pub\":{\"data\":{\"n\":5,\"t\":96}}}\n\n"
        "data: plain\n\n";
    static const char units[] =
        "position 1763800000000-41 n=0 t=0\n"
        "event 1763800000000-42 n=1 t=1234567890123\n"
        "position 0-0 n=0 t=0\n"
        "event 1763800000000-12345678 n=2 t=99\n"
        "gap 0-0 n=0 t=0\n"
        "control 1763800000000-12345679 n=0 t=0\n"
        "event 0-0 n=3 t=98\n"
        "event 0-0 n=4 t=97\n"
        "event 0-0 n=5 t=96\n"
        "event 0-0 n=0 t=0\n";
    struct buffer expected = {0};
    append_format(&expected, "head 200\n%s", units);
    append(&expected, "", 1);

    struct buffer plain = {0};
    append_format(&plain, "HTTP/1.1 200 OK\r\nX: y\r\n\r\n%s", blocks);
    check("a body without chunks", SSE, &plain, expected.data);

    for (size_t size = 1; size < sizeof blocks; size += 7) {
        struct buffer chunked = {0};
        append_format(&chunked, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (size_t at = 0; at < sizeof blocks - 1; at += size)
            add_chunk(&chunked, blocks + at, at + size < sizeof blocks ? size : sizeof blocks - 1 - at);
        append_format(&chunked, "0\r\n\r\nignored");
        check("chunks", SSE, &chunked, expected.data);
        free(chunked.data);
    }

    static const char push[] = "{\"push\":{\"channel\":\"bench\",\"pub\":{\"data\":{\"n\":7,\"t\":1234567890123},\"offset\":42}}}";
    static const char odd[] = "{\"push\": {\"pub\":{\"offset\":43,\"data\":{\"x\":[1],\"n\": 8,\"t\": 5}},\"channel\":\"a\"}}";
    static const char recovered[] = "{\"id\":2,\"subscribe\":{\"publications\":[{\"data\":{\"n\":3,\"t\":4},\"offset\":5},"
                                    "{\"data\":{\"n\":4,\"t\":5,\"p\":\"x\"},\"offset\":6}],\"offset\":6}}";
    static const char other[] = "{\"push\":{\"channel\":\"bench\",\"unsubscribe\":{\"code\":2500,\"reason\":\"x\"}}}";
    static const char bare[] = "{\"n\":9,\"t\":6}", socketio[] = "42[\"event\",{\"n\":10,\"t\":7}]";
    struct buffer frames = {0}, joined = {0};
    append_format(&frames, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    append_format(&joined, "%s\n%s\n%s\n", push, odd, push);
    add_frame(&frames, 0x81, "{}", 2, 0);
    add_frame(&frames, 0x81, push, sizeof push - 1, 2);
    add_frame(&frames, 0x01, joined.data, 100, 8);
    add_frame(&frames, 0x89, "ping", 4, 0);
    add_frame(&frames, 0x00, joined.data + 100, 50, 0);
    add_frame(&frames, 0x80, joined.data + 150, joined.length - 150, 2);
    add_frame(&frames, 0x81, recovered, sizeof recovered - 1, 2);
    add_frame(&frames, 0x81, other, sizeof other - 1, 0);
    add_frame(&frames, 0x81, bare, sizeof bare - 1, 0);
    add_frame(&frames, 0x81, "0{\"sid\":\"x\"}", 12, 0);
    add_frame(&frames, 0x81, socketio, sizeof socketio - 1, 0);
    add_frame(&frames, 0x81, "2", 1, 0);
    add_frame(&frames, 0x81, "", 0, 0);
    add_frame(&frames, 0x88, "\x03\xe8", 2, 0);
    add_frame(&frames, 0x81, "{}", 2, 0);
    struct buffer results = {0};
    append_format(&results,
                  "head 101\nreply {}\nevent 0-42 n=7 t=1234567890123\n"
                  "event 0-42 n=7 t=1234567890123\ncontrol 9\nevent 0-0 n=8 t=5\nevent 0-42 n=7 t=1234567890123\n"
                  "reply %s\nevent 0-5 n=3 t=4\nevent 0-6 n=4 t=5\n"
                  "gap 0-0 n=0 t=0\n"
                  "event 0-0 n=9 t=6\nreply 0{\"sid\":\"x\"}\nevent 0-0 n=10 t=7\nreply 2\n"
                  "control 8\n", recovered);
    append(&results, "", 1);
    check("frames", WS, &frames, results.data);

#ifdef WITH_ZLIB
    inflate_check();
    check_packed_blocks(blocks, sizeof blocks - 1, expected.data);
    check_packed_messages(push, odd, "head 101\ncontrol 9\nevent 0-42 n=7 t=1234567890123\nevent 0-0 n=8 t=5\nevent 0-0 n=8 t=5\n");
#endif
    return 0;
}
