/* Compressed streams for the scanner: gzip in an event stream's body, permessage-deflate in WebSocket messages
 * (WITH_ZLIB, see lib.py). Streams that are not compressed go to it as they are.
 *
 * Of a WebSocket, every message must stand for itself (`server_no_context_takeover`, RFC 7692 7.1.1.1): one
 * decompressor serves all clients. An event stream has its own for as long as it lasts.
 */

#ifndef BENCH_INFLATE_H
#define BENCH_INFLATE_H

#include "scan.h"

#ifdef WITH_ZLIB
#include <zlib.h>
#endif

#define WS_OFFER "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"

struct packed {
    bool on;
    bool deflated;      /* the WebSocket message that has begun */
    struct scan outer;  /* its chunks or frames */
    struct buffer message;
#ifdef WITH_ZLIB
    z_stream *stream;
#endif
};

static uint64_t packed_count; /* streams that the server has compressed */

#ifdef WITH_ZLIB

enum { UNPACKED = 256 << 10 };

static char *unpacked; /* room for the scanner in front and behind, as it wants it */

static inline void inflate_check(void)
{
    unpacked = (char *)grow(NULL, KEPT_MAX + UNPACKED + 8) + KEPT_MAX;
}

static z_stream *inflater(int window_bits)
{
    z_stream *stream = calloc(1, sizeof *stream);
    if (!stream || inflateInit2(stream, window_bits) != Z_OK)
        die("zlib: out of memory");
    return stream;
}

static inline void unpack_end(struct packed *p)
{
    if (p->stream) {
        inflateEnd(p->stream);
        free(p->stream);
    }
    free(p->message.data);
    *p = (struct packed){0};
}

/* The response's head has been scanned, up to where the body begins. */
static inline void unpack_begin(struct packed *p, struct scan *s, const char *head, size_t length)
{
    const char *end = head + length;
    if (!FIND(head, end, "\r\ncontent-encoding: gzip") && !FIND(head, end, "permessage-deflate"))
        return;
    if (s->wire == WS && !FIND(head, end, "server_no_context_takeover"))
        die("the server did not agree to messages that stand for themselves");
    packed_count++;
    p->on = true;
    p->outer = (struct scan){.wire = s->wire, .state = s->state, .left = s->left, .text = true};
    if (s->wire == SSE) {
        p->stream = inflater(15 + 16);
        s->state = IN_BODY;
        s->left = UINT64_MAX;
    }
}

static inline bool unpack_block(struct packed *p, struct scan *s, char *at, size_t length)
{
    p->stream->next_in = (Bytef *)at;
    p->stream->avail_in = (uInt)length;
    do {
        p->stream->next_out = (Bytef *)unpacked;
        p->stream->avail_out = UNPACKED;
        int result = inflate(p->stream, Z_SYNC_FLUSH);
        if (result != Z_OK && result != Z_BUF_ERROR)
            return false;
        size_t got = UNPACKED - p->stream->avail_out;
        if (got && !scan(s, unpacked, got))
            return false;
    } while (!p->stream->avail_out);
    return true;
}

static inline bool unpack_message(struct packed *p, struct scan *s)
{
    static z_stream *stream;
    static struct buffer text;
    text.length = 0;
    if (p->deflated) {
        append(&p->message, "\0\0\xff\xff", 4); /* RFC 7692 7.2.2 */
        if (!stream)
            stream = inflater(-15);
        inflateReset(stream);
        stream->next_in = (Bytef *)p->message.data;
        stream->avail_in = (uInt)p->message.length;
        do {
            stream->next_out = (Bytef *)reserve(&text, UNPACKED);
            stream->avail_out = UNPACKED;
            int result = inflate(stream, Z_SYNC_FLUSH);
            if (result != Z_OK && result != Z_BUF_ERROR)
                return false;
            text.length += UNPACKED - stream->avail_out;
        } while (!stream->avail_out);
    } else {
        append(&text, p->message.data, p->message.length);
    }
    p->message.length = 0;
    reserve(&text, 8);
    scan_lines(s, text.data, text.data + text.length, true);
    return s->state != ENDED;
}

static bool unpack_body(struct packed *p, struct scan *s, char *at, char *end)
{
    struct scan *outer = &p->outer;
    for (;;) {
        if (outer->state == IN_SIZE && at < end) {
            at = outer->wire == WS ? scan_frame_header(outer, at, end) : scan_chunk_size(outer, at, end);
            if (outer->state == IN_BODY && outer->wire == WS && outer->text && outer->header[0] & 0x0f)
                p->deflated = outer->header[0] & 0x40;
        }
        if (outer->state == ENDED)
            return false;
        if (outer->state != IN_BODY || (at == end && outer->left))
            return true;
        size_t take = outer->left < (uint64_t)(end - at) ? (size_t)outer->left : (size_t)(end - at);
        outer->left -= take;
        bool over = !outer->left;
        if (outer->wire == SSE) {
            if (!unpack_block(p, s, at, take))
                return false;
        } else if (!outer->text) {
            if (over && !on_control(s, outer->header[0] & 0x0f, at, take))
                return false;
        } else {
            append(&p->message, at, take);
            if (over && outer->final && !unpack_message(p, s))
                return false;
        }
        at += take;
        if (over)
            outer->state = IN_SIZE;
    }
}

#else

static inline void inflate_check(void)
{
    die("--compressed needs zlib's headers (on Debian and Ubuntu: apt-get install zlib1g-dev)");
}

static inline void unpack_end(struct packed *p)
{
    (void)p;
}

static inline void unpack_begin(struct packed *p, struct scan *s, const char *head, size_t length)
{
    (void)p, (void)s, (void)head, (void)length;
}

static inline bool unpack_body(struct packed *p, struct scan *s, char *at, char *end)
{
    (void)p;
    return scan(s, at, (size_t)(end - at));
}

#endif

/* As `scan`, of a stream that may be compressed: the head decides, so it is scanned by itself. */
static bool unpack(struct packed *p, struct scan *s, char *buffer, size_t length)
{
    char *at = buffer, *end = buffer + length;
    while (at < end && s->state == IN_HEAD) {
        char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline + 1 : end;
        if (!scan(s, at, (size_t)(stop - at)))
            return false;
        at = stop;
    }
    return at == end || (p->on ? unpack_body(p, s, at, end) : scan(s, at, (size_t)(end - at)));
}

#endif
