/* The load client's scanner: event streams, Centrifuge replies, bare data and Socket.IO events, out of HTTP
 * bodies and WebSocket frames that may be cut anywhere.
 *
 * Rules:
 * 1. Bytes are scanned where `recv` put them. Only a unit (an event-stream block, a line of a WebSocket
 *    message) that the read or a chunk's border cut in two is moved: to just before its other half.
 * 2. The buffer has KEPT_MAX bytes of room in front for such a half, and 8 behind to over-read.
 * 3. The usual layout of a unit is checked for with constant compares; anything else is searched for.
 * 4. Whoever includes this file defines the four `on_` functions. One that returns false ends the scan.
 */

#ifndef BENCH_SCAN_H
#define BENCH_SCAN_H

#include <stdbool.h>

#include "measure.h"

enum { KEPT_MAX = 4 << 20 };

enum wire { SSE, WS };

enum scan_state {
    IN_HEAD,  /* of the HTTP response */
    IN_SIZE,  /* between chunks or frames, collecting the next one's header */
    IN_BODY,  /* `left` bytes of the chunk or frame are still to come */
    ENDED,    /* the last chunk, a close frame or something broken: ignore the rest */
};

struct scan {
    enum wire wire;
    enum scan_state state;
    uint64_t left;
    unsigned char header[14]; /* of a WebSocket frame; `size` digits of a chunk header */
    unsigned header_length;
    bool extension; /* of a chunk header */
    bool text, final;
    struct buffer kept;
};

enum unit_kind { EVENT, POSITION, GAP, CONTROL };

struct unit {
    enum unit_kind kind;
    uint64_t epoch, seq; /* 0: it carries none */
    uint64_t n, born;    /* the publisher's counter from 1 and its clock in µs; 0: it carries none */
};

static bool on_head(struct scan *, int status, const char *head, size_t length);
static bool on_unit(struct scan *, const struct unit *);
static bool on_reply(struct scan *, const char *line, size_t length);
static bool on_control(struct scan *, int opcode, const char *payload, size_t length);

/* Decimal digits, eight at a time (Daniel Lemire's method); *at moves behind them. */
static inline uint64_t digits(const char **at)
{
    static const uint64_t power[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    uint64_t value = 0;
    for (;;) {
        uint64_t word;
        memcpy(&word, *at, 8);
        word ^= 0x3030303030303030;
        uint64_t others = ((word + 0x7676767676767676) | word) & 0x8080808080808080;
        unsigned count = others ? (unsigned)__builtin_ctzll(others) >> 3 : 8;
        if (!count)
            return value;
        word <<= 64 - 8 * count;
        word = word * 10 + (word >> 8);
        word = (((word & 0x000000FF000000FF) * 0x000F424000000064)
                + (((word >> 16) & 0x000000FF000000FF) * 0x0000271000000001)) >> 32;
        value = value * power[count] + word;
        *at += count;
        if (count < 8)
            return value;
    }
}

#define STARTS(at, end, text) ((size_t)((end) - (at)) >= sizeof text - 1 && !memcmp(at, text, sizeof text - 1))
#define FIND(at, end, text) ((const char *)memmem(at, (size_t)((end) - (at)), text, sizeof text - 1))

/* The number behind `"name":`, which is looked for at `at` first; 0 if there is none. */
#define NUMBER(at, end, name) (number(STARTS(at, end, name) ? (at) : FIND(at, end, name), sizeof name - 1, &(at)))

static inline uint64_t number(const char *found, size_t skip, const char **at)
{
    if (!found)
        return 0;
    found += skip;
    while (*found == ' ')
        found++;
    uint64_t value = digits(&found);
    *at = found;
    return value;
}

/* The stamps that publish.h puts at the front of an event's data; *at moves behind them. */
static inline void read_stamps(const char **at, const char *end, struct unit *unit)
{
    const char *data = *at;
    if (data < end && *data == '{')
        data++;
    unit->n = NUMBER(data, end, "\"n\":");
    if (data < end && *data == ',')
        data++;
    unit->born = unit->n ? NUMBER(data, end, "\"t\":") : 0;
    *at = data;
}

/* All whole blocks of an event stream; returns where the unfinished one begins. */
static inline char *scan_blocks(struct scan *s, char *block, char *end)
{
    for (;;) {
        struct unit unit = {.kind = EVENT};
        const char *line = block;
        bool data = false;
        for (;;) {
            const char *newline = memchr(line, '\n', (size_t)(end - line));
            if (!newline)
                return block;
            const char *stop = newline > line && newline[-1] == '\r' ? newline - 1 : newline;
            if (stop == line) {
                line = newline + 1;
                break;
            }
            if (STARTS(line, stop, "id: ")) {
                line += 4;
                uint64_t first = digits(&line);
                if (*line == '-') {
                    line++;
                    unit.epoch = first;
                    unit.seq = digits(&line);
                }
            } else if (STARTS(line, stop, "data: ")) {
                line += 6;
                if (!data)
                    read_stamps(&line, stop, &unit);
                data = true;
            } else if (STARTS(line, stop, "event: ")) {
                line += 7;
                if (STARTS(line, stop, "gap"))
                    unit.kind = GAP;
                else if (STARTS(line, stop, "heartbeat") || STARTS(line, stop, "reconnect") || STARTS(line, stop, "error"))
                    unit.kind = CONTROL;
            }
            line = newline + 1;
        }
        if (unit.kind == EVENT && !data)
            unit.kind = POSITION;
        block = (char *)line;
        if (!on_unit(s, &unit)) {
            s->state = ENDED;
            return end;
        }
        if (block == end)
            return end;
    }
}

/* Publications, from `at` on: of a push one, of a subscribe reply those it recovered. */
static inline bool scan_publications(struct scan *s, const char *at, const char *end)
{
    for (;;) {
        struct unit unit = {.kind = EVENT};
        read_stamps(&at, end, &unit);
        if (!unit.n)
            return true;
        const char *next = FIND(at, end, "\"n\":");
        const char *stop = next ? next : end;
        if (at < stop && *at == '}')
            at++;
        if (at < stop && *at == ',')
            at++;
        unit.seq = NUMBER(at, stop, "\"offset\":");
        if (!on_unit(s, &unit))
            return false;
        if (!next)
            return true;
        at = next;
    }
}

static inline bool scan_line(struct scan *s, const char *line, const char *end)
{
    if (STARTS(line, end, "{\"push\":{\"channel\":\"")) {
        const char *name = line + 20, *quote = memchr(name, '"', (size_t)(end - name));
        if (quote && STARTS(quote, end, "\",\"pub\":{\"data\":")) {
            struct unit unit = {.kind = EVENT};
            const char *at = quote + 16;
            read_stamps(&at, end, &unit);
            if (STARTS(at, end, "},"))
                at += 2;
            unit.seq = NUMBER(at, end, "\"offset\":");
            return on_unit(s, &unit);
        }
    }
    if (STARTS(line, end, "{\"n\":") || STARTS(line, end, "42[")) {
        struct unit unit = {.kind = EVENT};
        const char *at = line;
        read_stamps(&at, end, &unit);
        return on_unit(s, &unit);
    }
    if (!FIND(line, end, "\"push\":"))
        return line == end || on_reply(s, line, (size_t)(end - line));
    const char *publication = FIND(line, end, "\"pub\":");
    if (publication)
        return scan_publications(s, publication, end);
    return on_unit(s, &(struct unit){.kind = FIND(line, end, "\"unsubscribe\":") ? GAP : CONTROL});
}

/* All whole lines of a WebSocket message; its end ends a line, too. */
static inline char *scan_lines(struct scan *s, char *line, char *end, bool ends)
{
    while (line < end) {
        char *newline = memchr(line, '\n', (size_t)(end - line));
        if (!newline && !ends)
            return line;
        if (!scan_line(s, line, newline ? newline : end)) {
            s->state = ENDED;
            return end;
        }
        line = newline ? newline + 1 : end;
    }
    return end;
}

static char *scan_head(struct scan *s, char *head, char *end)
{
    const char *stop = FIND(head, end, "\r\n\r\n");
    if (!stop)
        return NULL;
    for (char *c = head; c < stop; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c |= 0x20;
    int status = STARTS(head, stop, "http/1.1 ") ? atoi(head + 9) : 0;
    bool chunked = FIND(head, stop, "transfer-encoding: chunked");
    s->state = chunked || s->wire == WS ? IN_SIZE : IN_BODY;
    s->left = UINT64_MAX; /* a body that is neither chunked nor framed ends with the connection */
    s->text = true;
    if (!on_head(s, status, head, (size_t)(stop - head)))
        s->state = ENDED;
    return (char *)stop + 4;
}

/* A chunk's size line; what precedes it, the end of the last chunk, is an empty line. */
static char *scan_chunk_size(struct scan *s, char *at, char *end)
{
    for (; at < end; at++) {
        unsigned char c = (unsigned char)*at | 0x20;
        if (*at == '\n' && s->header_length) {
            s->state = s->left ? IN_BODY : ENDED;
            s->header_length = 0;
            s->extension = false;
            return at + 1;
        }
        if (*at == ';')
            s->extension = true;
        if (s->extension || *at == '\r' || *at == '\n')
            continue;
        if (!s->header_length++)
            s->left = 0;
        s->left = s->left * 16 + (c >= 'a' ? c - 'a' + 10u : c - (unsigned)'0');
    }
    return at;
}

/* A frame's header. Servers do not mask. */
static char *scan_frame_header(struct scan *s, char *at, char *end)
{
    while (at < end) {
        s->header[s->header_length++] = (unsigned char)*at++;
        unsigned code = s->header[1] & 0x7f, need = code < 126 ? 2 : code == 126 ? 4 : 10;
        if (s->header_length < 2 || s->header_length < need)
            continue;
        s->left = need == 2 ? code : 0;
        for (unsigned i = 2; i < need; i++)
            s->left = s->left << 8 | s->header[i];
        s->text = !(s->header[0] & 0x08);
        s->final = s->header[0] & 0x80;
        s->header_length = 0;
        s->state = IN_BODY;
        break;
    }
    return at;
}

/* Scan what was read; false when the connection has nothing more to say. */
static bool scan(struct scan *s, char *buffer, size_t length)
{
    char *at = buffer, *end = buffer + length;
    char *unit = buffer - s->kept.length, *filled = buffer; /* unit..filled: a body without its framing */
    if (s->kept.length)
        memcpy(unit, s->kept.data, s->kept.length);
    if (s->state == IN_HEAD) {
        at = scan_head(s, unit, end);
        unit = at ? at : unit;
        filled = at ? at : end;
        at = at ? at : end;
    }
    for (;;) {
        if (s->state == IN_SIZE && at < end)
            at = s->wire == WS ? scan_frame_header(s, at, end) : scan_chunk_size(s, at, end);
        if (s->state != IN_BODY || (at == end && s->left))
            break;
        size_t take = s->left < (uint64_t)(end - at) ? (size_t)s->left : (size_t)(end - at);
        if (!s->text) { /* control frames are small: not worth keeping when cut, but for its first bytes */
            s->left -= take;
            if (!s->left && !on_control(s, s->header[0] & 0x0f, at, take))
                s->state = ENDED;
            at += take;
        } else {
            if (filled != at) {
                memmove(at - (filled - unit), unit, (size_t)(filled - unit));
                unit = at - (filled - unit);
            }
            s->left -= take;
            filled = at += take;
            unit = s->wire == WS ? scan_lines(s, unit, filled, !s->left && s->final) : scan_blocks(s, unit, filled);
        }
        if (s->state == IN_BODY && !s->left)
            s->state = IN_SIZE;
    }
    s->kept.length = 0;
    if (s->state == ENDED || filled - unit > KEPT_MAX) {
        s->state = ENDED;
        return false;
    }
    append(&s->kept, unit, (size_t)(filled - unit));
    return true;
}

static inline void scan_reset(struct scan *s)
{
    struct buffer kept = {.data = s->kept.data, .capacity = s->kept.capacity};
    *s = (struct scan){.wire = s->wire, .kept = kept};
}

#endif
