/* The load client: thousands of SSE or WebSocket clients and a publisher on one core, one JSON object out.
 *
 * Every client checks what it receives: positions and the publisher's counter must rise with every event,
 * and in the end each client must have got exactly the events of its channels, by number and by sum.
 *
 * A run goes through phases: connect everybody, settle, publish, drain, report.
 * The publisher and the clients that call commands wait in an epoll set of their own, which is served after
 * every single read of a stream: what they measure is the server, not our queue.
 *
 * Times are in seconds on the command line, in µs inside.
 */

#define _GNU_SOURCE
#include <signal.h>

#include "client.h"
#include "publish.h"

enum { UNCHECKED_QUIET = 100000 }; /* µs without a byte: those that are not checked have everything, too */

static struct publisher publisher;
static uint64_t phase_since, first_connect, all_live, began, bytes_before, expected_total, rpc_late;
static volatile sig_atomic_t interrupted, storm_signal;

/* Calls fall due at fixed times, spread over the clients; one that had to wait counts from when it was due. */
static uint64_t next_call(const struct client *c)
{
    if (c->calling || c->state != LIVE || phase != RUN)
        return UINT64_MAX;
    if (option.rpc_rate <= 0)
        return began;
    unsigned index = (unsigned)(c - clients) - stream_count;
    double offset = (double)index / (option.rpc_clients * option.rpc_rate);
    return began + (uint64_t)((offset + (double)c->call / option.rpc_rate) * 1e6);
}

static uint64_t call_some(void)
{
    uint64_t at = clock_us(), soonest = UINT64_MAX;
    for (struct client *c = clients + stream_count; c < clients + client_count; c++) {
        uint64_t due = next_call(c);
        if (due <= at) {
            char text[160];
            int length = snprintf(text, sizeof text, "{\"id\":%llu,\"rpc\":{\"method\":\"%s\",\"data\":{\"call\":%llu}}}",
                                  (unsigned long long)c->call + 100, option.rpc_method, (unsigned long long)c->call);
            c->called = option.rpc_rate > 0 ? due : at;
            rpc_late += at - due > 1000 && option.rpc_rate > 0;
            c->calling = true;
            send_frame(c, 1, text, (size_t)length);
        } else if (due < soonest) {
            soonest = due;
        }
    }
    return soonest;
}

/* The publisher and the RPC clients; returns when something of theirs falls due. */
static uint64_t serve_urgent(void)
{
    static uint64_t next_rpc;
    struct epoll_event events[64];
    int count = epoll_wait(urgent, events, 64, 0);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == &publisher)
            publisher_receive(&publisher);
        else
            client_ready(events[i].data.ptr, events[i].events);
    }
    if (phase != RUN)
        return UINT64_MAX;
    uint64_t at = clock_us();
    if (client_count > stream_count && (count > 0 || at >= next_rpc))
        next_rpc = call_some();
    uint64_t next = client_count > stream_count ? next_rpc : UINT64_MAX;
    if (option.rate > 0) {
        if (publisher_next(&publisher) <= at)
            publisher_send(&publisher, at);
        uint64_t next_event = publisher_next(&publisher);
        next = next_event < next ? next_event : next;
    }
    return next;
}

static uint64_t expected_of(const struct client *c, uint64_t *sum)
{
    uint64_t count = 0;
    *sum = 0;
    for (unsigned i = 0; publisher.count && i < c->target->channel_count; i++) {
        count += publisher.count[c->target->channels[i]];
        *sum += publisher.sum[c->target->channels[i]];
    }
    return count;
}

static void begin_storm(void)
{
    storm.state = AWAY;
    storm.dropped_at = clock_us();
    storm.away_events = publisher.answered;
    for (struct client *c = clients; c < clients + stream_count; c++) {
        if (c->state == LIVE && c->role == HEALTHY) {
            client_close(c);
            storm.dropped++;
        }
    }
}

static void end_storm(void)
{
    storm.state = RETURNING;
    storm.back_at = clock_us();
    storm.away_events = publisher.answered - storm.away_events;
    for (struct client *c = clients; c < clients + stream_count; c++) {
        if (c->state == CLOSED && c->role == HEALTHY) {
            c->live_n = publisher.answered ? publisher.answered : 1;
            enqueue(c, 0);
        }
    }
}

static void enter(enum phase next)
{
    phase = next;
    phase_since = clock_us();
    if (phase == SETTLE) {
        all_live = phase_since;
        fprintf(stderr, "live %u\n", live_count);
    } else if (phase == RUN) {
        began = phase_since;
        bytes_before = bytes_read;
        if (option.rate > 0) {
            publisher_begin(&publisher);
            if (option.last)
                last_at = calloc(publisher.offered + 1, sizeof *last_at);
            began = publisher.began;
        }
    } else if (phase == DRAIN) {
        uint64_t sum;
        for (struct client *c = clients; c < clients + stream_count; c++)
            if (c->role == HEALTHY && c->checked)
                expected_total += expected_of(c, &sum);
    }
}

static void advance(void)
{
    uint64_t at = clock_us();
    if (interrupted) {
        enter(OVER);
        return;
    }
    double in_phase = (double)(at - phase_since) / 1e6, running = began ? (double)(at - began) / 1e6 : 0;
    double quiet = (double)(at - last_delivery) / 1e6;
    switch (phase) {
    case CONNECT:
        if (live_count == client_count)
            enter(SETTLE);
        else if (in_phase > option.connect_timeout)
            enter(OVER);
        break;
    case SETTLE:
        if (in_phase >= option.settle)
            enter(RUN);
        break;
    case RUN:
        if (storm.state == NO_STORM && (storm_signal || (option.storm_at >= 0 && running >= option.storm_at)))
            begin_storm();
        else if (storm.state == AWAY && (double)(at - storm.dropped_at) / 1e6 >= option.storm_away)
            end_storm();
        if (running >= option.cap)
            enter(OVER);
        else if (option.rate > 0 ? publisher_done(&publisher) && running >= option.seconds : running >= option.seconds)
            enter(option.rate > 0 ? DRAIN : OVER);
        break;
    case DRAIN:
        if ((deliveries >= expected_total && at - last_read > UNCHECKED_QUIET) || running >= option.cap || (in_phase > option.quiet && quiet > option.quiet))
            enter(OVER);
        break;
    case OVER:
        break;
    }
}

static void loop_until(enum phase end)
{
    struct epoll_event events[256];
    uint64_t checked = 0;
    while (phase < end) {
        uint64_t at = clock_us(), next = serve_urgent();
        if (at - checked >= 1000) {
            advance();
            read_slowly();
            connect_some();
            checked = at;
        }
        uint64_t wait = next <= at ? 0 : next - at < 2000 ? next - at : 2000;
        struct timespec timeout = {.tv_nsec = (long)wait * 1000};
        int count = epoll_pwait2(bulk, events, 256, &timeout, NULL);
        for (int i = 0; i < count; i++) {
            if (!events[i].data.ptr)
                continue; /* something urgent */
            client_ready(events[i].data.ptr, events[i].events);
            serve_urgent();
        }
        if (queue_length && count)
            connect_some();
    }
}

static void on_signal(int number)
{
    if (number == SIGUSR1)
        storm_signal = 1;
    else
        interrupted = 1;
}

static double cpu_seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

#define PRINT(name, value) printf(",\"" name "\":%llu", (unsigned long long)(value))

static void report(const struct rusage *before, const struct rusage *after)
{
    uint64_t missing = 0, extra = 0, wrong = 0, slow_received = 0, healthy = 0, checked = 0;
    for (struct client *c = clients; c < clients + stream_count; c++) {
        uint64_t sum, count = expected_of(c, &sum);
        if (c->role != HEALTHY) {
            slow_received += c->received;
            continue;
        }
        healthy++;
        if (!c->checked)
            continue;
        checked++;
        missing += count > c->received ? count - c->received : 0;
        extra += count < c->received ? c->received - count : 0;
        wrong += count == c->received && sum != c->sum;
    }
    double span = last_delivery > began ? (double)(last_delivery - began) / 1e6 : 0;
    double wall = phase_since > began && began ? (double)(phase_since - began) / 1e6 : 0;
    double user = cpu_seconds(&after->ru_utime) - cpu_seconds(&before->ru_utime);
    double kernel = cpu_seconds(&after->ru_stime) - cpu_seconds(&before->ru_stime);

    printf("{\"wire\":\"%s\",\"clients\":%u", option.wire, stream_count);
    PRINT("live", live_count);
    PRINT("refused", refused);
    PRINT("closed", closed);
    PRINT("stalled_closed", stalled_closed);
    PRINT("reconnects", reconnects);
    printf(",\"connect_seconds\":%.3f", all_live ? (double)(all_live - first_connect) / 1e6 : -1.0);
    print_histogram("connect_ms", &connect_time);
    if (option.rate > 0) {
        PRINT("offered", publisher.offered);
        PRINT("published", publisher.answered);
        PRINT("requests", publisher.requests);
        PRINT("publish_errors", publisher.errors);
        print_histogram("publish_ms", &publisher.round_trip);
        if (publisher.errors && !*trouble)
            note(publisher.trouble, strlen(publisher.trouble));
    }
    uint64_t delivered = checked ? deliveries * healthy / checked : 0; /* the checked stand for the others */
    PRINT("checked", checked);
    PRINT("compressed", packed_count);
    PRINT("deliveries", delivered);
    PRINT("missing", missing);
    PRINT("extra", extra);
    PRINT("wrong", wrong);
    PRINT("duplicates", duplicates);
    PRINT("out_of_order", out_of_order);
    PRINT("bad_positions", bad_positions);
    PRINT("gaps", gaps);
    PRINT("controls", controls);
    PRINT("positions", positions);
    PRINT("stampless", stampless);
    PRINT("slow_received", slow_received);
    printf(",\"seconds\":%.3f,\"wall_seconds\":%.3f,\"per_second\":%.0f", span, wall, span > 0 ? (double)delivered / span : 0.0);
    print_histogram("latency_ms", &latency);
    if (last_at) {
        for (uint64_t n = 1; n <= publisher.sent; n++)
            if (last_at[n])
                record(&last_client, last_at[n] - due_at(&publisher, n));
        print_histogram("last_ms", &last_client);
    }
    PRINT("bytes", bytes_read - bytes_before);
    PRINT("reads", reads);
    printf(",\"cpu_user\":%.3f,\"cpu_kernel\":%.3f,\"busy\":%.3f", user, kernel, wall > 0 ? (user + kernel) / wall : 0.0);
    if (option.rpc_clients > 0) {
        PRINT("rpc_errors", rpc_errors);
        PRINT("rpc_late", rpc_late);
        print_histogram("rpc_ms", &rpc_time);
    }
    if (storm.state == RETURNING) {
        printf(",\"storm\":{\"dropped\":%u,\"returned\":%u", storm.dropped, storm.returned);
        PRINT("missed", storm.away_events);
        PRINT("dropped_at", storm.dropped_at);
        PRINT("back_at", storm.back_at);
        print_histogram("head_ms", &storm_head);
        print_histogram("live_ms", &storm_live);
        printf("}");
    }
    printf(",\"trouble\":\"%s\"}\n", trouble);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    read_targets();
    raise_file_limit();
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGUSR1, on_signal);
    signal(SIGPIPE, SIG_IGN);
    if (option.tls)
        tls_client();
    if (option.compressed)
        inflate_check();

    bulk = epoll_create1(0);
    urgent = epoll_create1(0);
    struct epoll_event nested = {.events = EPOLLIN};
    epoll_ctl(bulk, EPOLL_CTL_ADD, urgent, &nested);
    read_buffer = (char *)grow(NULL, KEPT_MAX + READ + 8) + KEPT_MAX;

    publisher = (struct publisher){
        .format = format_named(option.publish_format), .target = option.publish_target, .headers = option.publish_headers,
        .port = (int)(option.publish_port < 1024 ? option.port + option.publish_port : option.publish_port), .channel = option.channel,
        .poller = urgent, .channels = (unsigned)option.channels, .keys = (unsigned)option.keys, .padding = (unsigned)option.padding,
        .most = (unsigned)option.most, .rate = option.rate, .seconds = option.seconds, .interval = option.interval,
        .ticks = !strcmp(option.data, "ticks"),
    };
    stream_count = (unsigned)option.clients;
    client_count = stream_count + (unsigned)option.rpc_clients;
    clients = calloc(client_count, sizeof *clients);
    queue = calloc(client_count, sizeof *queue);
    static struct target rpc;
    rpc = read_target(strdup(option.rpc_target));
    for (unsigned i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        bool stream = i < stream_count;
        c->role = !stream ? RPC : i < option.stalled ? STALLED : i < option.stalled + option.slow ? SLOW : HEALTHY;
        c->target = stream ? &targets[i % target_count] : &rpc;
        c->scan.wire = !stream || !strcmp(option.wire, "ws") ? WS : SSE;
        c->live_n = UINT64_MAX;
        c->conn.fd = -1;
        c->checked = !stream || i % (unsigned)option.check_every == 0;
        enqueue(c, 0);
    }

    struct rusage before, after;
    first_connect = phase_since = clock_us();
    loop_until(RUN);
    getrusage(RUSAGE_SELF, &before);
    loop_until(OVER);
    getrusage(RUSAGE_SELF, &after);
    report(&before, &after);
    return 0;
}
