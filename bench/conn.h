/* A connection: plain TCP, or TLS where OpenSSL's headers are (WITH_TLS, see lib.py).
 *
 * conn_recv and conn_send are recv and send; under TLS they carry on to the end of what is there, since
 * epoll knows nothing of what OpenSSL has read already.
 */

#ifndef BENCH_CONN_H
#define BENCH_CONN_H

#include <stdbool.h>

#include "measure.h"

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

struct conn {
    int fd;
#ifdef WITH_TLS
    SSL *ssl; /* NULL: plain */
#endif
};

#ifdef WITH_TLS

static SSL_CTX *tls;

static SSL_CTX *tls_begin(const SSL_METHOD *method)
{
    SSL_CTX *context = SSL_CTX_new(method);
    /* What a server sends is whole records of one tick: read many at once, and keep nothing between ticks. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 128 << 10);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    return context;
}

static inline void tls_client(void)
{
    tls = tls_begin(TLS_client_method());
}

static inline void tls_server(const char *certificate, const char *key)
{
    tls = tls_begin(TLS_server_method());
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls, 0);
    if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 || SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        die("%s, %s: not a certificate and its key", certificate, key);
}

/* What OpenSSL's result means as one of a system call. */
static inline ssize_t tls_result(struct conn *c, int result)
{
    if (result > 0)
        return result;
    int error = SSL_get_error(c->ssl, result);
    ERR_clear_error();
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

/* One step: 1 done, 0 it waits for the other side, -1 failed. */
static inline int conn_handshake(struct conn *c, bool server)
{
    if (!tls)
        return 1;
    if (!c->ssl) {
        c->ssl = SSL_new(tls);
        SSL_set_fd(c->ssl, c->fd);
        if (server)
            SSL_set_accept_state(c->ssl);
        else
            SSL_set_connect_state(c->ssl);
    }
    ssize_t result = tls_result(c, SSL_do_handshake(c->ssl));
    return result > 0 ? 1 : result < 0 && errno == EAGAIN ? 0 : -1;
}

#else

static inline void tls_client(void)
{
    die("--tls needs OpenSSL's headers (on Debian and Ubuntu: apt-get install libssl-dev)");
}

static inline void tls_server(const char *certificate, const char *key)
{
    (void)certificate, (void)key;
    tls_client();
}

static inline int conn_handshake(struct conn *c, bool server)
{
    (void)c, (void)server;
    return 1;
}

#endif

static inline ssize_t conn_recv(struct conn *c, char *data, size_t most)
{
#ifdef WITH_TLS
    if (c->ssl) {
        size_t got = 0;
        while (got < most) {
            ssize_t more = tls_result(c, SSL_read(c->ssl, data + got, (int)(most - got)));
            if (more <= 0)
                return got ? (ssize_t)got : more; /* an end or an error is found again */
            got += (size_t)more;
        }
        return (ssize_t)got;
    }
#endif
    return recv(c->fd, data, most, 0);
}

/* Whether conn_recv would return something that epoll will not tell of. */
static inline bool conn_pending(const struct conn *c)
{
#ifdef WITH_TLS
    return c->ssl && SSL_has_pending(c->ssl);
#else
    (void)c;
    return false;
#endif
}

static inline ssize_t conn_send(struct conn *c, const char *data, size_t length)
{
#ifdef WITH_TLS
    if (c->ssl) {
        size_t sent = 0;
        while (sent < length) {
            ssize_t more = tls_result(c, SSL_write(c->ssl, data + sent, (int)(length - sent)));
            if (more <= 0)
                return sent ? (ssize_t)sent : more;
            sent += (size_t)more;
        }
        return (ssize_t)sent;
    }
#endif
    return send(c->fd, data, length, MSG_NOSIGNAL);
}

/* Send all of it on a non-blocking socket, waiting up to a second whenever the socket is full. */
static inline int conn_send_all(struct conn *c, const char *data, size_t length)
{
    while (length) {
        ssize_t sent = conn_send(c, data, length);
        if (sent < 0 && errno == EAGAIN && poll(&(struct pollfd){.fd = c->fd, .events = POLLOUT}, 1, 1000) == 1)
            continue;
        if (sent <= 0)
            return -1;
        data += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static inline void conn_close(struct conn *c)
{
#ifdef WITH_TLS
    if (c->ssl)
        SSL_free(c->ssl);
    c->ssl = NULL;
#endif
    close(c->fd);
    c->fd = -1;
}

#endif
