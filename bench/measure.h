/* What the load client and the floor share: a clock, growing buffers, addresses. */

#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

/* Microseconds of CLOCK_MONOTONIC: one clock for all processes of a machine, and it never jumps. */
static inline uint64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static inline void *grow(void *memory, size_t size)
{
    void *grown = realloc(memory, size);
    if (!grown)
        die("out of memory at %zu bytes", size);
    return grown;
}

struct buffer {
    char *data;
    size_t length, capacity;
};

static inline char *reserve(struct buffer *b, size_t more)
{
    if (b->length + more > b->capacity) {
        b->capacity = (b->length + more) * 2;
        b->data = grow(b->data, b->capacity);
    }
    return b->data + b->length;
}

static inline void append(struct buffer *b, const void *data, size_t length)
{
    if (length)
        memcpy(reserve(b, length), data, length);
    b->length += length;
}

__attribute__((format(printf, 2, 3))) static void append_format(struct buffer *b, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    vsnprintf(reserve(b, (size_t)length + 1), (size_t)length + 1, format, again);
    b->length += (size_t)length;
    va_end(arguments);
    va_end(again);
}

static inline void raise_file_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void no_delay(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

#endif
