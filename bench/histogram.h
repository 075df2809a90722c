/* A histogram of microseconds with 32 buckets to every power of two: each is 3 % wide at most. */

#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include "measure.h"

enum { SUBBITS = 6, SUB = 1 << SUBBITS };

struct histogram {
    uint64_t count, sum, max;
    uint64_t bucket[(64 - SUBBITS + 2) * (SUB / 2)];
};

static inline void record(struct histogram *h, uint64_t value)
{
    unsigned shift = value < SUB ? 0 : (unsigned)(63 - __builtin_clzll(value)) - SUBBITS + 1;
    h->bucket[shift * (SUB / 2) + (value >> shift)]++;
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
}

static double quantile_ms(const struct histogram *h, double q)
{
    uint64_t rank = (uint64_t)(q * (double)h->count), seen = 0;
    for (unsigned i = 0; i < sizeof h->bucket / sizeof *h->bucket; i++) {
        seen += h->bucket[i];
        if (seen > rank) {
            unsigned shift = i < SUB ? 0 : i / (SUB / 2) - 1;
            uint64_t top = ((uint64_t)(i - shift * (SUB / 2)) + 1) << shift;
            return (double)(top - 1 < h->max ? top - 1 : h->max) / 1e3;
        }
    }
    return (double)h->max / 1e3;
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf(",\"%s\":{\"count\":%llu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}",
           name, (unsigned long long)h->count, h->count ? (double)h->sum / (double)h->count / 1e3 : 0.0,
           quantile_ms(h, .5), quantile_ms(h, .9), quantile_ms(h, .99), quantile_ms(h, .999), (double)h->max / 1e3);
}

#endif
