/*
 * wsload - a single-threaded WebSocket load generator for benchmarks on the
 * loopback interface.
 *
 *   gcc -O2 -Wall -Wextra -o wsload wsload.c -lz -lssl -lcrypto
 *
 * Without zlib: -DNO_ZLIB and no -lz.  Without OpenSSL: -DNO_TLS and neither
 * -lssl nor -lcrypto.
 *
 * Modes
 *   echo       every connection keeps --pipeline messages in flight.  With
 *              --rate R, all connections together send R messages/s on a fixed
 *              schedule, and latency counts from the scheduled time.
 *   broadcast  --conns subscribers and one publisher on one path; the server
 *              sends each message to all connections except its sender
 *   connect    open, handshake and close in a loop, --concurrency at a time
 *   idle       open --conns connections, print READY, hold them for --seconds
 *   ramp       as idle, and report the opening rate of each tenth
 *
 * With --tls, all connections use TLS 1.2 or 1.3, as the server prefers.  Each
 * handshake is a full one.  Certificates are not verified, because wsload
 * connects to the loopback interface only.  A handshake costs wsload nearly as
 * much as the server, so --mode connect needs a processor for wsload alone.
 * Byte counts are those inside TLS.
 *
 * Options for servers with their own protocol over WebSocket: with
 * --greetings N a connection counts as open after N messages, whatever their
 * contents, and --hello TEXT is sent after the first of them.  Every payload
 * begins with --prefix and ends with --suffix; the text between them needs no
 * escape in JSON.
 *
 * With --probe-ms M, one more connection sends a small echo every M ms.  Its
 * latency, from the scheduled time, is reported separately and is part of no
 * other figure.  It includes the time of wsload's own work, so it is reliable
 * only if cpu_pct is well below 100.
 *
 * The output is one line of JSON.  The exit status is 0 only if there was no
 * error: wsload verifies handshakes (101, Sec-WebSocket-Accept), parses frames
 * strictly, checks the opcode and the length of every reply, and compares the
 * payloads of a sample (--verify).  It accepts addresses in 127.0.0.0/8 only,
 * and every run has a time limit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifndef NO_ZLIB
#include <zlib.h>
#endif
#ifndef NO_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

#define NSEC 1000000000ull
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { OP_CONT = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum mode { M_ECHO, M_BROADCAST, M_CONNECT, M_IDLE, M_RAMP };
enum { P_PLAIN, P_DEFLATE, P_TAKEOVER, P_PROBE, N_POOLS };

static const char *const mode_names[] = {"echo", "broadcast", "connect", "idle", "ramp"};

static struct {
    const char *host, *path, *origin, *protocol, *probe_path, *hello, *prefix, *suffix;
    int port;
    enum mode mode;
    uint32_t conns, concurrency, pipeline, window, verify, watch[64], n_watch, greetings;
    size_t size;
    double seconds, warmup, settle, timeout, rate, probe_ms;
    uint8_t opcode;
    bool deflate, takeover, utf8, touch, spin, ack_all, tls;
} opt = {
    .host = "127.0.0.1", .path = "/echo", .origin = "http://localhost", .probe_path = "/echo", .port = 0,
    .prefix = "", .suffix = "",
    .mode = M_ECHO, .conns = 64, .concurrency = 64, .pipeline = 1, .window = 4,
    .size = 16, .seconds = 2, .warmup = 0.5, .settle = 0.2, .timeout = 30,
    .opcode = OP_TEXT,
};

/* ------------------------------------------------------------------ state */

struct pool {          /* prebuilt masked client frames, in one buffer */
    uint8_t *wire;
    size_t *off;       /* frame i is off[i] .. off[i + 1] */
    uint8_t **plain;   /* their payloads, each of `size` bytes */
    uint32_t n, verify;
    size_t size;
    uint8_t opcode;
};

enum state { S_FREE, S_CONNECT, S_TLS, S_HANDSHAKE, S_GREETED, S_OPEN, S_CLOSING };

struct conn {          /* the fields for each message are first, for the processor's cache */
    int fd;
    enum state state;
    uint32_t id;
    bool want_out;
    bool retry_data;               /* the next TLS write must have the same data again */
    /* receiving: the current frame */
    bool in_frame, fin;
    uint8_t op, hdr_len, hdr[10];
    uint64_t left;
    /* receiving: the current message */
    uint8_t msg_op;                /* 0: none */
    bool msg_deflated, msg_check;
    bool server_takeover;
    uint64_t msg_len, out_len;     /* payload bytes on the wire; inflated */
    uint64_t rcvd;
    /* sending: `owed` frames of the pool; of the first one, the bytes from tx_off */
    const struct pool *pool;
    uint32_t first, tx_frame;      /* frames of the pool: the first one sent, and the next one */
    uint32_t ctl_len, ctl_off;
    size_t tx_off;
    uint64_t owed, sent;
    uint64_t *stamp;               /* ring: the time of sending of each message */
#ifndef NO_TLS
    SSL *ssl;
#endif
#ifndef NO_ZLIB
    z_stream *z;
    bool z_done;
#endif
    uint8_t ctl_in_len, ctl_in[125];
    uint8_t ctl[160];              /* control frames, sent between frames: space for a Pong and a Close */
    /* handshake */
    uint64_t t_start;              /* when connect() was called */
    char *hs, accept[32];
    size_t hs_len;
    uint32_t greetings;            /* messages still expected before it is open */
};

struct schedule {                  /* events at fixed times */
    int fd;                        /* a timerfd for the next event */
    bool on;
    double start, every;           /* nanoseconds */
    uint64_t n;                    /* the number of past events */
};

static struct conn *conns, *publisher, *probe;
static uint32_t n_conns, n_live, n_pending, n_open;     /* the probe is not counted */
static int ep;
static uint64_t now, rng_state;

static struct pool pools[N_POOLS];
static uint32_t ring_mask;         /* the size of every stamp ring, minus one */

static bool sending, connecting;   /* whether to send more messages, or to open more connections */
static uint64_t acked;             /* broadcasts that count as received for the window */
static uint32_t *fanout;           /* ring: deliveries of each broadcast */
static struct schedule pacing, probing;
static uint64_t probe_from;        /* the first probe in the measured time */

static uint64_t n_errors, n_unclean, n_deflated, n_server_takeover, n_client_takeover;
static char first_error[200], tls_name[80];
static uint64_t n_msgs, n_handshakes, rx_bytes, tx_bytes, n_recv, n_send, n_polls;

static void on_open(struct conn *c);
static bool on_message(struct conn *c);
static bool on_greeting(struct conn *c);
static void conn_start(struct conn *c);
static bool flush_out(struct conn *c);

/* ---------------------------------------------------------- basic functions */

__attribute__((format(printf, 1, 2), noreturn))
static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("wsload: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(2);
}

static void *alloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p)
        die("out of memory");
    return p;
}

static uint64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC + (uint64_t)ts.tv_nsec;
}

static uint64_t rnd(void)          /* xorshift64*: fast, not secret */
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return rng_state * 0x2545F4914F6CDD1Dull;
}

static uint32_t rnd_mask(void)     /* a key with no zero byte */
{
    for (;;) {
        uint32_t m = (uint32_t)(rnd() >> 32);
        if ((m & 0xff) && (m & 0xff00) && (m & 0xff0000) && (m & 0xff000000))
            return m;
    }
}

static void base64(const uint8_t *in, size_t n, char *out)
{
    static const char abc[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        bool two = i + 1 < n, three = i + 2 < n;
        uint32_t v = (uint32_t)in[i] << 16 | (two ? in[i + 1] : 0u) << 8 | (three ? in[i + 2] : 0u);
        *out++ = abc[v >> 18];
        *out++ = abc[v >> 12 & 63];
        *out++ = two ? abc[v >> 6 & 63] : '=';
        *out++ = three ? abc[v & 63] : '=';
    }
    *out = 0;
}

static uint32_t rol(uint32_t v, int n) { return v << n | v >> (32 - n); }

static void sha1(const char *msg, size_t n, uint8_t digest[20])  /* n <= 119 */
{
    uint8_t buf[128] = {0};
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    size_t total = n + 9 <= 64 ? 64 : 128;
    memcpy(buf, msg, n);
    buf[n] = 0x80;
    buf[total - 2] = (uint8_t)(n * 8 >> 8);
    buf[total - 1] = (uint8_t)(n * 8);
    for (size_t at = 0; at < total; at += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (size_t i = 0; i < 16; i++) {
            const uint8_t *p = buf + at + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++)
            w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999
                       : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                       : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                : (b ^ c ^ d) + 0xCA62C1D6;
            f += rol(a, 5) + e + w[i];
            e = d, d = c, c = rol(b, 30), b = a, a = f;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - i % 4 * 8));
}

/* -------------------------------------------------------------- histograms */

#define SUB 128                    /* buckets per power of two: within 0.8 % */

struct hist {
    uint64_t n, max, bucket[58 * SUB];
    double sum;
};
static struct hist handshake, latency, complete, probed;

static void hist_add(struct hist *h, uint64_t ns)
{
    unsigned e = ns < SUB ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 7;
    h->bucket[e * SUB + (ns >> e)]++;
    h->n++;
    h->sum += (double)ns;
    if (ns > h->max)
        h->max = ns;
}

static double hist_us(const struct hist *h, double quantile)
{
    uint64_t rank = (uint64_t)(quantile * (double)h->n), seen = 0;
    for (uint32_t i = 0; i < sizeof h->bucket / sizeof *h->bucket; i++) {
        seen += h->bucket[i];
        if (seen > rank) {
            uint32_t e = i < 2 * SUB ? 0 : i / SUB - 1;
            uint64_t v = ((uint64_t)(i - e * SUB) << e) + ((1ull << e) >> 1);
            return (double)MIN(v, h->max) / 1e3;
        }
    }
    return (double)h->max / 1e3;
}

static void hist_json(const char *name, const struct hist *h)
{
    if (h->n)
        printf(", \"%s\": {\"mean\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
               "\"p999\": %.1f, \"max\": %.1f}",
               name, h->sum / (double)h->n / 1e3, hist_us(h, .5), hist_us(h, .9),
               hist_us(h, .99), hist_us(h, .999), (double)h->max / 1e3);
}

/* ---------------------------------------------------------- frames to send */

static size_t put_frame(uint8_t *out, uint8_t b0, const uint8_t *data, size_t n)
{
    uint8_t mask[4], *p = out;
    uint32_t m = rnd_mask();
    memcpy(mask, &m, 4);
    *p++ = b0;
    if (n < 126) {
        *p++ = 0x80 | (uint8_t)n;
    } else if (n < 65536) {
        *p++ = 0x80 | 126;
        *p++ = (uint8_t)(n >> 8);
        *p++ = (uint8_t)n;
    } else {
        *p++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *p++ = (uint8_t)((uint64_t)n >> shift);
    }
    memcpy(p, mask, 4);
    p += 4;
    for (size_t i = 0; i < n; i++)
        p[i] = data[i] ^ mask[i & 3];
    return (size_t)(p + n - out);
}

static void make_text(uint8_t *out, size_t size, uint32_t seq)
{
    static const char *const words[] = {
        "the", "quick", "service", "returned", "a", "message", "from", "room", "lobby", "with",
        "status", "pending", "update", "user", "joined", "at", "noon", "price", "changed", "to",
        "seventeen", "while", "order", "was", "shipped", "by", "north", "gate", "and", "signed",
        "caf\xc3\xa9", "na\xc3\xafve", "\xe6\x9d\xb1\xe4\xba\xac", "\xf0\x9f\x98\x80"};
    static const char *const names[] = {"alice", "bob", "carol", "dmitri", "eve", "frank"};
    uint32_t n_words = opt.utf8 ? 34 : 30;
    size_t at = 0;
    while (at < size) {
        char rec[512];
        int n = snprintf(rec, sizeof rec, "{\"seq\":%06u,\"user\":\"%s\",\"ts\":17%08u,\"text\":\"",
                         seq, names[rnd() % 6], (unsigned)(rnd() % 100000000));
        for (uint64_t i = 6 + rnd() % 10; i > 0; i--)
            n += snprintf(rec + n, sizeof rec - (size_t)n, "%s ", words[rnd() % n_words]);
        n += snprintf(rec + n, sizeof rec - (size_t)n, "\",\"ok\":%s}\n", rnd() & 1 ? "true" : "false");
        size_t k = MIN((size_t)n, size - at);
        memcpy(out + at, rec, k);
        at += k;
    }
    /* the text must not end within a character: overwrite an incomplete one */
    for (at = size; at > 0 && (out[at - 1] & 0xC0) == 0x80; at--)
        ;
    if (at > 0 && out[at - 1] >= 0xC0) {
        size_t whole = out[at - 1] >= 0xF0 ? 4 : out[at - 1] >= 0xE0 ? 3 : 2;
        if (at - 1 + whole > size)
            memset(out + at - 1, '.', size - at + 1);
    }
}

/* Writes --prefix and --suffix into a payload, and replaces characters between them that JSON would escape. */
static void enclose(uint8_t *text, size_t size)
{
    size_t head = strlen(opt.prefix), tail = strlen(opt.suffix);
    if (!head && !tail)
        return;
    for (size_t i = 0; i < size; i++)
        if (text[i] == '"' || text[i] == '\\' || text[i] < ' ')
            text[i] = '.';
    memcpy(text, opt.prefix, head);
    memcpy(text + size - tail, opt.suffix, tail);
}

static void make_pool(struct pool *pool, uint8_t opcode, size_t size, uint32_t n, uint32_t verify, bool text)
{
    size_t at = 0;
    *pool = (struct pool){.n = n, .verify = verify, .size = size, .opcode = opcode};
    pool->plain = alloc(n, sizeof *pool->plain);
    pool->off = alloc(n + 1, sizeof *pool->off);
    pool->wire = alloc(n, size + 14);
    for (uint32_t i = 0; i < n; i++) {
        pool->plain[i] = alloc(size, 1);
        if (text) {
            make_text(pool->plain[i], size, i);
            if (pool != &pools[P_PROBE])
                enclose(pool->plain[i], size);
        } else {
            for (size_t k = 0; k < size; k++)
                pool->plain[i][k] = (uint8_t)(rnd() >> 33);
        }
        at += put_frame(pool->wire + at, 0x80 | opcode, pool->plain[i], size);
        pool->off[i + 1] = at;
    }
}

#ifndef NO_ZLIB
static void make_deflated(struct pool *pool, const struct pool *from, bool takeover)
{
    z_stream z = {0};
    if (deflateInit2(&z, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        die("deflateInit2 failed");
    size_t cap = deflateBound(&z, from->size) + 64, at = 0;
    uint8_t *buf = alloc(cap, 1);
    *pool = *from;
    pool->off = alloc(pool->n + 1, sizeof *pool->off);
    pool->wire = alloc(pool->n, cap + 14);
    for (uint32_t i = 0; i < pool->n; i++) {
        z.next_in = pool->plain[i], z.avail_in = (uInt)pool->size;
        z.next_out = buf, z.avail_out = (uInt)cap;
        if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in || z.avail_out < 8)
            die("deflate failed");
        at += put_frame(pool->wire + at, 0xC0 | pool->opcode, buf, cap - z.avail_out - 4);
        pool->off[i + 1] = at;
        if (!takeover || !pool->size)  /* zlib does not flush twice without data, so an empty message resets the stream */
            deflateReset(&z);
    }
    deflateEnd(&z);
    free(buf);
}
#endif

static void make_pools(void)
{
    uint32_t n = (uint32_t)MAX(4, MIN(64, (1u << 20) / (opt.size + 14)));
    if (opt.deflate)               /* no payload is repeated within a window of 32 KiB */
        n = (uint32_t)MAX(n, MIN(4096, (96u << 10) / (opt.size + 1)));
    make_pool(&pools[P_PLAIN], opt.opcode, opt.size, n, opt.verify, opt.opcode == OP_TEXT || opt.deflate);
    make_pool(&pools[P_PROBE], OP_TEXT, 16, 64, 1, true);
#ifndef NO_ZLIB
    if (opt.deflate)
        make_deflated(&pools[P_DEFLATE], &pools[P_PLAIN], false);
    /* Frame 0 refers to no earlier data, and frame i only to frames 0 .. i - 1.
       So the pool can be sent again from its start, and the stream stays valid
       for a peer that keeps its window. */
    if (opt.takeover)
        make_deflated(&pools[P_TAKEOVER], &pools[P_PLAIN], true);
#endif
}

/* ------------------------------------------------------------- connections */

static bool is_pending(enum state s) { return s >= S_CONNECT && s <= S_GREETED; }

static void set_state(struct conn *c, enum state s)
{
    if (c != probe) {              /* unsigned: no counter falls below 0 */
        n_live += (uint32_t)(s != S_FREE) - (uint32_t)(c->state != S_FREE);
        n_open += (uint32_t)(s == S_OPEN) - (uint32_t)(c->state == S_OPEN);
        n_pending += (uint32_t)is_pending(s) - (uint32_t)is_pending(c->state);
    }
    c->state = s;
}

static void conn_close(struct conn *c)
{
    if (c->state == S_FREE)
        return;
#ifndef NO_TLS
    if (c->ssl) {
        if (c->state == S_CLOSING)
            SSL_shutdown(c->ssl);  /* sends close_notify, and does not wait */
        SSL_free(c->ssl);
        ERR_clear_error();
        c->ssl = NULL;
    }
#endif
    set_state(c, S_FREE);
    close(c->fd);
    free(c->hs);
    free(c->stamp);
    c->hs = NULL, c->stamp = NULL;
#ifndef NO_ZLIB
    if (c->z) {
        inflateEnd(c->z);
        free(c->z);
        c->z = NULL;
    }
#endif
}

/* Counts an error that does not belong to a single connection. */
__attribute__((format(printf, 1, 2)))
static void fail(const char *fmt, ...)
{
    if (!n_errors++) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(first_error, sizeof first_error, fmt, ap);
        va_end(ap);
    }
}

/* Counts an error and closes the connection; returns false, for the caller to return. */
__attribute__((format(printf, 2, 3)))
static bool conn_fail(struct conn *c, const char *fmt, ...)
{
    char text[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (c == probe)
        fail("probe: %s", text);
    else
        fail("conn %u: %s", c->id, text);
    conn_close(c);
    return false;
}

static void watch(struct conn *c, int op, bool out)
{
    struct epoll_event ev = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(ep, op, c->fd, &ev) < 0)
        die("epoll_ctl: %s", strerror(errno));
    c->want_out = out;
}

/* --------------------------------------------------------------------- TLS */

#ifndef NO_TLS
static SSL_CTX *tls;

static int accept_any_certificate(X509_STORE_CTX *store, void *arg)
{
    (void)store, (void)arg;
    return 1;
}

static void tls_init(void)
{
    tls = SSL_CTX_new(TLS_client_method());
    if (!tls || !SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION))
        die("TLS: %s", ERR_reason_error_string(ERR_get_error()));
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_cert_verify_callback(tls, accept_any_certificate, NULL);  /* saves the work on the chain */
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                          SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls, 1);                             /* one recv() for several records */
}

/* Translates a failure of SSL_connect, SSL_read or SSL_write to the result and
   errno of recv() and send(). */
static int tls_result(struct conn *c, int rc)
{
    switch (SSL_get_error(c->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return errno ? -1 : 0;     /* 0: the end of the stream before OpenSSL 3 */
    }
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
    if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        ERR_clear_error();
        return 0;
    }
#endif
    errno = EPROTO;
    return -1;
}

/* Like recv(); reads several records at once, so that their replies are sent together. */
__attribute__((noinline))           /* keeps the path without TLS fast */
static ssize_t tls_recv(struct conn *c, void *p, size_t cap)
{
    size_t n = 0;
    do {
        errno = 0;
        int k = SSL_read(c->ssl, (uint8_t *)p + n, (int)(cap - n));
        if (k <= 0) {
            int rc = tls_result(c, k);
            return n ? (ssize_t)n : rc;
        }
        n += (size_t)k;
    } while (n < cap && SSL_has_pending(c->ssl));
    return (ssize_t)n;
}

/* Like send(); writes at most one record.  After EAGAIN, the next call needs the same bytes, and can add more. */
__attribute__((noinline))
static ssize_t tls_send(struct conn *c, const void *p, size_t n)
{
    errno = 0;
    int k = SSL_write(c->ssl, p, (int)MIN(n, 1u << 30));
    return k > 0 ? k : tls_result(c, k);
}

/* Returns whether OpenSSL can have buffered data, which epoll does not report. */
static inline bool tls_more(struct conn *c)
{
    return c->ssl && (SSL_has_pending(c->ssl) || SSL_get_shutdown(c->ssl) & SSL_RECEIVED_SHUTDOWN);
}
#endif

/* Returns the reason for the failure of the last operation on the connection. */
static const char *reason(const struct conn *c)
{
#ifndef NO_TLS
    unsigned long e = c->ssl ? ERR_peek_error() : 0;
    const char *text = e ? ERR_reason_error_string(e) : NULL;
    ERR_clear_error();
    if (text)
        return text;
#else
    (void)c;
#endif
    return strerror(errno);
}

static inline ssize_t conn_recv(struct conn *c, void *p, size_t cap)
{
#ifndef NO_TLS
    if (c->ssl)
        return tls_recv(c, p, cap);
#endif
    return recv(c->fd, p, cap, 0);
}

static inline ssize_t conn_send(struct conn *c, const struct iovec *iov, int n_iov)
{
#ifndef NO_TLS
    if (c->ssl)
        return tls_send(c, iov->iov_base, iov->iov_len);
#endif
    return n_iov == 1 ? send(c->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL) : writev(c->fd, iov, n_iov);
}

/* ----------------------------------------------------------------- sending */

/* Sends control frames and owed frames; returns false if the connection is closed. */
static bool flush_out(struct conn *c)
{
    while (c->ctl_len || c->owed) {
        const struct pool *pool = c->pool;
        struct iovec iov[2];
        int n_iov = 1;
        bool ctl = c->ctl_len && c->tx_off == 0 && !c->retry_data;
        if (ctl) {
            iov[0].iov_base = c->ctl + c->ctl_off;
            iov[0].iov_len = c->ctl_len - c->ctl_off;
        } else {
            uint64_t want = c->ctl_len && !c->retry_data ? 1 : c->owed;
            uint64_t run = MIN(want, pool->n - c->tx_frame);
            size_t from = pool->off[c->tx_frame] + c->tx_off;
            iov[0].iov_base = pool->wire + from;
            iov[0].iov_len = pool->off[c->tx_frame + run] - from;
            if (want > run) {      /* continue at the start of the pool */
                iov[1].iov_base = pool->wire;
                iov[1].iov_len = pool->off[MIN(want - run, pool->n)];
                n_iov = 2;
            }
        }
        ssize_t n = conn_send(c, iov, n_iov);
        n_send += c != probe;
        if (n <= 0) {              /* 0: with TLS only, the server closed the connection */
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0 && errno == EAGAIN) {
                c->retry_data = opt.tls && !ctl;
                if (!c->want_out)
                    watch(c, EPOLL_CTL_MOD, true);
                return true;
            }
            if (c->state == S_CLOSING) {
                n_unclean++;
                conn_close(c);
                return false;
            }
            return conn_fail(c, "write: %s", n < 0 ? reason(c) : "connection lost");
        }
        c->retry_data = false;
        if (c != probe)
            tx_bytes += (uint64_t)n;
        if (ctl) {
            c->ctl_off += (uint32_t)n;
            if (c->ctl_off == c->ctl_len) {
                c->ctl_len = c->ctl_off = 0;
                if (c->state == S_CLOSING)
                    c->owed = 0;   /* no data after our Close */
            }
            continue;
        }
        for (size_t left = (size_t)n; left > 0;) {
            size_t rest = pool->off[c->tx_frame + 1] - pool->off[c->tx_frame] - c->tx_off;
            if (left < rest) {
                c->tx_off += left;
                break;
            }
            left -= rest;
            c->tx_off = 0;
            c->owed--;
            if (++c->tx_frame == pool->n)
                c->tx_frame = 0;
        }
    }
    if (c->want_out)
        watch(c, EPOLL_CTL_MOD, false);
    return true;
}

static bool send_pong(struct conn *c, const uint8_t *data, size_t n)
{
    if (c->ctl_len)                /* the previous one is not sent yet */
        return true;
    c->ctl_len = (uint32_t)put_frame(c->ctl, 0x80 | OP_PONG, data, n);
    return flush_out(c);
}

static bool post(struct conn *c, uint64_t n, uint64_t when)
{
    for (uint64_t i = 0; i < n; i++)
        c->stamp[(c->sent + i) & ring_mask] = when;
    c->sent += n;
    c->owed += n;
    return flush_out(c);
}

static bool start_close(struct conn *c)
{
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 255};
    set_state(c, S_CLOSING);
    /* after a waiting Pong, which can be sent in part */
    c->ctl_len += (uint32_t)put_frame(c->ctl + c->ctl_len, 0x80 | OP_CLOSE, normal, 2);
    return flush_out(c);
}

/* --------------------------------------------------------------- handshake */

/* Uses another loopback address after some thousand connections.  When half of the
   ports of an address are used, connect() needs a millisecond to find a free one. */
static bool choose_source(const struct conn *c)
{
    static uint64_t started;
    uint32_t other = (uint32_t)(started++ / 8192 % 8);
    int one = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + other)};
    if (!other)
        return true;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(c->fd, (struct sockaddr *)&sa, sizeof sa) == 0;
}

static void conn_start(struct conn *c)
{
    uint32_t id = (uint32_t)(c - conns);
    int one = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    inet_pton(AF_INET, opt.host, &sa.sin_addr);
    memset(c, 0, sizeof *c);
    c->id = id;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->pool = &pools[c == probe ? P_PROBE : P_PLAIN];
    set_state(c, S_CONNECT);
    c->t_start = clock_ns();
    if (!choose_source(c) || (connect(c->fd, (struct sockaddr *)&sa, sizeof sa) < 0 && errno != EINPROGRESS)) {
        conn_fail(c, "connect: %s", strerror(errno));
        return;
    }
    watch(c, EPOLL_CTL_ADD, true);
}

static bool send_request(struct conn *c)
{
    char req[2048], key[32], both[80];
    uint8_t nonce[16], digest[20];
    bool deflate = opt.deflate && c != probe;
    for (int i = 0; i < 16; i += 8) {
        uint64_t r = rnd();
        memcpy(nonce + i, &r, 8);
    }
    base64(nonce, 16, key);
    int n = snprintf(both, sizeof both, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(both, (size_t)n, digest);
    base64(digest, 20, c->accept);
    n = snprintf(req, sizeof req,
                 "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s%s%s%s\r\n",
                 c == probe ? opt.probe_path : opt.path, opt.host, opt.port, key,
                 *opt.origin ? "Origin: " : "", opt.origin, *opt.origin ? "\r\n" : "",
                 opt.protocol ? "Sec-WebSocket-Protocol: " : "", opt.protocol ? opt.protocol : "",
                 opt.protocol ? "\r\n" : "",
                 !deflate ? "" : opt.takeover ? "Sec-WebSocket-Extensions: permessage-deflate\r\n"
                 : "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; "
                   "server_no_context_takeover\r\n");
    if (n >= (int)sizeof req)
        die("request too long");
    struct iovec iov = {.iov_base = req, .iov_len = (size_t)n};
    ssize_t done = conn_send(c, &iov, 1);
    if (done != n)                 /* every socket buffer has space for it */
        return conn_fail(c, "request not sent completely: %s", done < 0 ? reason(c) : "connection lost");
    set_state(c, S_HANDSHAKE);
    c->hs = alloc(8192, 1);
    if (c->want_out)
        watch(c, EPOLL_CTL_MOD, false);
    return true;
}

#ifndef NO_TLS
static bool continue_tls(struct conn *c)
{
    errno = 0;
    int rc = SSL_connect(c->ssl);
    if (rc == 1) {
        if (!*tls_name)
            snprintf(tls_name, sizeof tls_name, "%s %s", SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl));
        return send_request(c);
    }
    rc = tls_result(c, rc);
    if (rc == 0 || errno != EAGAIN)
        return conn_fail(c, "TLS handshake: %s", rc ? reason(c) : "connection lost");
    if (c->want_out != SSL_want_write(c->ssl))
        watch(c, EPOLL_CTL_MOD, !c->want_out);
    return true;
}
#endif

static bool on_connected(struct conn *c)
{
    int err = 0;
    socklen_t len = sizeof err;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        err = errno;
    if (err)
        return conn_fail(c, "connect: %s", strerror(err));
#ifndef NO_TLS
    if (opt.tls) {
        c->ssl = SSL_new(tls);
        if (!c->ssl || !SSL_set_fd(c->ssl, c->fd) || !SSL_set_tlsext_host_name(c->ssl, "localhost"))
            die("TLS: out of memory");
        set_state(c, S_TLS);
        return continue_tls(c);
    }
#endif
    return send_request(c);
}

/* Copies the value of a header of a NUL-terminated response head to out. */
static bool header(const char *head, const char *name, char *out, size_t cap)
{
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, n) || line[n] != ':')
            continue;
        line += n + 1;
        line += strspn(line, " \t");
        size_t k = MIN(strcspn(line, "\r"), cap - 1);
        while (k > 0 && (line[k - 1] == ' ' || line[k - 1] == '\t'))
            k--;
        memcpy(out, line, k);
        out[k] = 0;
        return true;
    }
    return false;
}

static bool check_response(struct conn *c)
{
    char v[512];
    if (strncmp(c->hs, "HTTP/1.1 101", 12))
        return conn_fail(c, "handshake refused: %.*s", (int)strcspn(c->hs, "\r\n"), c->hs);
    if (!header(c->hs, "Upgrade", v, sizeof v) || strcasecmp(v, "websocket"))
        return conn_fail(c, "no Upgrade: websocket");
    if (!header(c->hs, "Connection", v, sizeof v) || !strcasestr(v, "upgrade"))
        return conn_fail(c, "no Connection: upgrade");
    if (!header(c->hs, "Sec-WebSocket-Accept", v, sizeof v))
        return conn_fail(c, "no Sec-WebSocket-Accept");
    if (strcmp(v, c->accept))
        return conn_fail(c, "wrong Sec-WebSocket-Accept");
    if (header(c->hs, "Sec-WebSocket-Protocol", v, sizeof v) &&
        (!opt.protocol || !*v || !strstr(opt.protocol, v)))
        return conn_fail(c, "protocol not offered: %s", v);
    if (header(c->hs, "Sec-WebSocket-Extensions", v, sizeof v)) {
        if (!opt.deflate || c == probe)
            return conn_fail(c, "extension not offered: %s", v);
        if (strncasecmp(v, "permessage-deflate", 18) || !strchr("; \t", v[18]) || strchr(v, ',') ||
            strcasestr(v, "client_max_window_bits"))
            return conn_fail(c, "extension not as offered: %s", v);
        c->server_takeover = !strcasestr(v, "server_no_context_takeover");
        bool keep = opt.takeover && !strcasestr(v, "client_no_context_takeover");
        c->pool = &pools[keep ? P_TAKEOVER : P_DEFLATE];
        n_deflated++;
        n_server_takeover += c->server_takeover;
        n_client_takeover += keep;
    }
    return true;
}

/* -------------------------------------------------------------- the parser */

static size_t header_size(uint8_t b1)
{
    return (b1 & 127) < 126 ? 2 : (b1 & 127) == 126 ? 4 : 10;
}

static bool frame_start(struct conn *c, const uint8_t *h)
{
    uint64_t len = h[1] & 127;
    bool rsv1 = h[0] & 0x40;
    if (len == 126) {
        len = (uint64_t)h[2] << 8 | h[3];
        if (len < 126)
            return conn_fail(c, "length not in its shortest form");
    } else if (len == 127) {
        len = 0;
        for (int i = 2; i < 10; i++)
            len = len << 8 | h[i];
        if (len < 65536 || len >> 63)
            return conn_fail(c, "bad 64-bit length");
    }
    c->fin = h[0] & 0x80;
    c->op = h[0] & 15;
    c->left = len;
    c->in_frame = true;
    if (h[0] & 0x30)
        return conn_fail(c, "reserved bit set: %02x", h[0]);
    if (h[1] & 0x80)
        return conn_fail(c, "masked frame from the server");
    if (c->op & 8) {
        if (c->op > OP_PONG || !c->fin || rsv1 || len > 125)
            return conn_fail(c, "bad control frame: %02x, length %llu", h[0], (unsigned long long)len);
        c->ctl_in_len = 0;
    } else if (c->op == OP_CONT) {
        if (!c->msg_op || rsv1)
            return conn_fail(c, "stray continuation frame");
    } else {
        if (c->op > OP_BINARY || c->msg_op)
            return conn_fail(c, "bad opcode %d", c->op);
        if (c->op != c->pool->opcode && c->state != S_GREETED)
            return conn_fail(c, "opcode %d, expected %d", c->op, c->pool->opcode);
        if (rsv1 && c->pool != &pools[P_DEFLATE] && c->pool != &pools[P_TAKEOVER])
            return conn_fail(c, "RSV1 without permessage-deflate");
        c->msg_op = c->op;
        c->msg_deflated = rsv1;
        c->msg_len = c->out_len = 0;
        /* A stream with context takeover can only be read from its start.  Then the
           sample is some of the connections, and all of their messages are compared. */
        c->msg_check = c->state != S_GREETED && (c->server_takeover ? c->id : c->rcvd) % c->pool->verify == 0;
    }
    /* a payload that is too long is an error at once, even if it is not compared */
    if (!(c->op & 8) && !c->msg_deflated && c->state != S_GREETED && (len > c->pool->size || c->msg_len + len > c->pool->size))
        return conn_fail(c, "reply longer than %zu bytes", c->pool->size);
    return true;
}

static bool same(struct conn *c, uint64_t at, const uint8_t *p, size_t n)
{
    const struct pool *pool = c->pool;
    if (at + n > pool->size)
        return conn_fail(c, "reply longer than %zu bytes", pool->size);
    if (memcmp(pool->plain[(c->first + c->rcvd) % pool->n] + at, p, n))
        return conn_fail(c, "payload of message %llu differs", (unsigned long long)c->rcvd);
    return true;
}

#ifndef NO_ZLIB
static bool inflate_some(struct conn *c, const uint8_t *p, size_t n)
{
    static uint8_t out[1 << 16];
    if (!c->z) {
        c->z = alloc(1, sizeof *c->z);
        if (inflateInit2(c->z, -15) != Z_OK)
            die("inflateInit2 failed");
    }
    c->z->next_in = (uint8_t *)p, c->z->avail_in = (uInt)n;
    while (!c->z_done) {
        c->z->next_out = out, c->z->avail_out = sizeof out;
        int rc = inflate(c->z, Z_SYNC_FLUSH);
        if (rc != Z_OK && rc != Z_BUF_ERROR && rc != Z_STREAM_END)
            return conn_fail(c, "inflate: %s", c->z->msg ? c->z->msg : "failed");
        c->z_done = rc == Z_STREAM_END;
        size_t got = sizeof out - c->z->avail_out;
        if (got && !same(c, c->out_len, out, got))
            return false;
        c->out_len += got;
        if (c->z->avail_out)
            break;
    }
    return true;
}
#endif

static bool frame_payload(struct conn *c, const uint8_t *p, size_t n)
{
    if (c->op & 8) {
        memcpy(c->ctl_in + c->ctl_in_len, p, n);
        c->ctl_in_len += (uint8_t)n;
        return true;
    }
    if (c->msg_deflated) {
#ifndef NO_ZLIB
        if (c->msg_check && !inflate_some(c, p, n))
            return false;
#endif
    } else if (c->msg_check && !same(c, c->msg_len, p, n)) {
        return false;
    }
    c->msg_len += n;
    return true;
}

static bool frame_end(struct conn *c)
{
    c->in_frame = false;
    switch (c->op) {
    case OP_PING:
        return c->state == S_CLOSING || send_pong(c, c->ctl_in, c->ctl_in_len);
    case OP_PONG:
        return true;
    case OP_CLOSE:
        if (c->state == S_CLOSING) {
            conn_close(c);
            return false;
        }
        return conn_fail(c, "closed by the server, code %d",
                         c->ctl_in_len > 1 ? c->ctl_in[0] << 8 | c->ctl_in[1] : 1005);
    }
    if (!c->fin)
        return true;
    if (c->state == S_GREETED) {
        c->msg_op = 0;
        return on_greeting(c);
    }
    if (!c->msg_deflated) {
        if (c->msg_len != c->pool->size)
            return conn_fail(c, "reply of %llu bytes", (unsigned long long)c->msg_len);
    }
#ifndef NO_ZLIB
    else if (c->msg_check) {
        static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
        if (!inflate_some(c, tail, 4))
            return false;
        if (c->out_len != c->pool->size)
            return conn_fail(c, "reply of %llu bytes", (unsigned long long)c->out_len);
        if (!c->server_takeover || c->z_done)
            inflateReset(c->z);
        c->z_done = false;
    }
#endif
    c->msg_op = 0;
    return on_message(c);
}

static bool feed(struct conn *c, const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    while (p < end) {
        if (!c->in_frame) {
            const uint8_t *h = p;
            if (!c->hdr_len && end - p >= 2 && (size_t)(end - p) >= header_size(p[1])) {
                p += header_size(p[1]);
            } else {               /* a header in two reads */
                c->hdr[c->hdr_len++] = *p++;
                if (c->hdr_len < 2 || c->hdr_len < header_size(c->hdr[1]))
                    continue;
                c->hdr_len = 0;
                h = c->hdr;
            }
            if (!frame_start(c, h))
                return false;
        }
        size_t k = (size_t)MIN(c->left, (uint64_t)(end - p));
        if (k && !frame_payload(c, p, k))
            return false;
        p += k;
        c->left -= k;
        if (!c->left && !frame_end(c))
            return false;
    }
    return true;
}

/* ------------------------------------------------------------------ events */

static uint64_t due(const struct schedule *s, uint64_t k)
{
    return (uint64_t)(s->start + (double)(k + 1) * s->every);
}

/* Sets the timer to the next event, at an absolute time: an interval in whole
   nanoseconds would drift. */
static void arm(const struct schedule *s)
{
    uint64_t at = due(s, s->n);
    struct itimerspec it = {.it_value = {(time_t)(at / NSEC), (long)(at % NSEC)}};
    if (timerfd_settime(s->fd, TFD_TIMER_ABSTIME, &it, NULL) < 0)
        die("timerfd: %s", strerror(errno));
}

static void schedule_start(struct schedule *s, double every)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s};
    s->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (s->fd < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &ev) < 0)
        die("timerfd: %s", strerror(errno));
    s->every = every;
    s->start = (double)clock_ns();
    s->on = true;
    arm(s);
}

static void schedule_stop(struct schedule *s)
{
    if (s->on)
        close(s->fd);
    s->on = false;
}

static void on_open(struct conn *c)
{
    set_state(c, S_OPEN);
    if (c == probe)
        return;
    n_handshakes++;
    hist_add(&handshake, now - c->t_start);
    if (opt.mode == M_CONNECT)
        start_close(c);
    else if (opt.mode == M_ECHO || opt.touch || c == publisher)
        c->stamp = alloc(ring_mask + 1, sizeof *c->stamp);
    /* If all connections sent the same message in turn, the branch prediction of
       the server's processor would learn it, and compression would take two thirds
       of its time.  A stream with context takeover must begin with frame 0. */
    if (opt.mode == M_ECHO && c->pool != &pools[P_TAKEOVER])
        c->first = c->tx_frame = c->id % c->pool->n;
}

/* Handles a message on a connection that is not open yet. */
static bool on_greeting(struct conn *c)
{
    if (opt.hello && c->greetings == opt.greetings) {
        size_t n = strlen(opt.hello);
        c->ctl_len += (uint32_t)put_frame(c->ctl + c->ctl_len, 0x80 | OP_TEXT, (const uint8_t *)opt.hello, n);
        if (!flush_out(c))
            return false;
    }
    if (--c->greetings == 0)
        on_open(c);
    return c->state != S_FREE;
}

/* Handles a complete and correct message; returns false if it is an error. */
static bool on_message(struct conn *c)
{
    const struct conn *from = opt.mode == M_BROADCAST && c != probe ? publisher : c;
    uint64_t seq = c->rcvd;
    if (opt.mode == M_BROADCAST && c == publisher)
        return conn_fail(c, "the publisher received its own message");
    if (!from || seq >= from->sent)
        return conn_fail(c, "a message that was not sent");
    c->rcvd++;
    if (c == probe) {
        if (seq >= probe_from)
            hist_add(&probed, now - due(&probing, seq));
        return true;
    }
    if (!from->stamp)              /* the publisher is closed, so the run ends */
        return true;
    if (from->sent - seq > ring_mask)
        return conn_fail(c, "more than %u messages behind", ring_mask);
    uint64_t delay = now - from->stamp[seq & ring_mask];
    n_msgs++;
    hist_add(&latency, delay);
    if (opt.mode == M_BROADCAST) {
        bool all = ++fanout[seq & ring_mask] == opt.conns;
        if (all) {
            fanout[seq & ring_mask] = 0;
            hist_add(&complete, delay);
        }
        if (opt.ack_all ? all : c->id == opt.conns - 1)
            acked++;
    }
    return true;
}

/* Reads once; returns false if there was no data or the connection is closed. */
static bool read_some(struct conn *c)
{
    static uint8_t buf[128 << 10];
    ssize_t n = c->state == S_HANDSHAKE ? conn_recv(c, c->hs + c->hs_len, 8191 - c->hs_len)
                                        : conn_recv(c, buf, sizeof buf);
    n_recv += c != probe;
    now = clock_ns();
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return false;
        if (c->state == S_CLOSING) {   /* the server did not answer our Close */
            n_unclean++;
            conn_close(c);
            return false;
        }
        return conn_fail(c, "read: %s", n < 0 ? reason(c) : "connection lost");
    }
    if (c != probe)
        rx_bytes += (uint64_t)n;
    if (c->state == S_HANDSHAKE) {
        c->hs_len += (size_t)n;
        c->hs[c->hs_len] = 0;
        char *end = strstr(c->hs, "\r\n\r\n");
        if (!end)
            return c->hs_len < 8191 || conn_fail(c, "response head too long");
        size_t head = (size_t)(end + 4 - c->hs);
        n = (ssize_t)(c->hs_len - head);
        memcpy(buf, end + 4, (size_t)n);
        end[2] = 0;
        if (!check_response(c))
            return false;
        free(c->hs);
        c->hs = NULL;
        c->greetings = c == probe ? 0 : opt.greetings;
        if (c->greetings)
            set_state(c, S_GREETED);
        else
            on_open(c);
    }
    uint64_t before = c->rcvd;
    if (c->state == S_FREE || !feed(c, buf, (size_t)n))
        return false;
    if (sending && opt.mode == M_ECHO && opt.rate == 0 && c->rcvd > before && c != probe)
        return post(c, c->rcvd - before, now);
    return true;
}

static void on_readable(struct conn *c)
{
#ifndef NO_TLS
    while (read_some(c) && tls_more(c))
        ;
#else
    read_some(c);
#endif
}

/* Sends the messages of --rate that are due. */
static void pace(void)
{
    uint64_t at;
    for (; (at = due(&pacing, pacing.n)) <= now; pacing.n++) {
        struct conn *c = publisher ? publisher : &conns[pacing.n % opt.conns];
        if (c->state != S_OPEN)
            continue;
        if (c->sent - (publisher ? acked : c->rcvd) >= ring_mask)
            conn_fail(c, "more than %u messages behind the schedule", ring_mask);
        else
            post(c, 1, at);
    }
    arm(&pacing);
}

/* Sends the probes that are due, and reads their replies before those of other
   connections: with thousands of them, the queue would count as latency. */
static void probe_turn(void)
{
    if (probe->state != S_OPEN)
        return;
    uint64_t had = probing.n;
    while (due(&probing, probing.n) <= now)
        probing.n++;
    if (probing.n > had) {
        arm(&probing);
        probe->sent += probing.n - had;
        probe->owed += probing.n - had;
        if (!flush_out(probe))
            return;
    }
    if (probe->sent > probe->rcvd)
        on_readable(probe);
}

/* Sends broadcasts until the window is full. */
static void publish(void)
{
    uint64_t flying = publisher->sent - acked;
    if (flying < opt.window && publisher->state == S_OPEN)
        post(publisher, opt.window - flying, clock_ns());
}

static void on_event(struct conn *c, uint32_t events)
{
    switch (c->state) {
    case S_FREE:                   /* closed by an earlier event of the same wake-up */
        return;
    case S_CONNECT:
        on_connected(c);
        break;
#ifndef NO_TLS
    case S_TLS:
        continue_tls(c);
        break;
#endif
    default:
        if ((!(events & EPOLLOUT) || flush_out(c)) && events & ~(uint32_t)EPOLLOUT)
            on_readable(c);
    }
    if (c->state == S_FREE && connecting && c != probe)
        conn_start(c);
}

static void poll_once(uint64_t deadline)
{
    struct epoll_event evs[256];
    uint64_t t = clock_ns();
    int timeout = opt.spin || t >= deadline ? 0 : (int)MIN((deadline - t) / 1000000 + 1, 100);
    int n = epoll_wait(ep, evs, 256, timeout);
    if (n < 0 && errno != EINTR)
        die("epoll_wait: %s", strerror(errno));
    n_polls++;
    now = clock_ns();
    if (pacing.on && due(&pacing, pacing.n) <= now)
        pace();
    if (probing.on && due(&probing, probing.n) <= now)
        probe_turn();
    for (int i = 0; i < n; i++) {
        void *ptr = evs[i].data.ptr;
        if (ptr != &pacing && ptr != &probing)     /* these two only wake the loop */
            on_event(ptr, evs[i].events);
        if (probing.on && i % 32 == 31)
            probe_turn();
    }
    if (sending && publisher && opt.rate == 0)
        publish();
}

static bool broken(void)
{
    if (probe && probe->state == S_FREE)
        return true;
    if (opt.mode == M_CONNECT)
        return n_errors >= opt.concurrency;
    return n_errors && (n_live == 0 || n_conns <= 2 || publisher);
}

static void run_for(double seconds)
{
    uint64_t deadline = clock_ns() + (uint64_t)(seconds * 1e9);
    while ((now = clock_ns()) < deadline && !broken())
        poll_once(deadline);
}

/* ------------------------------------------------------------------ phases */

static bool open_until(uint32_t count, uint64_t deadline)
{
    while (n_open < count) {
        while (n_conns < count && n_pending < opt.concurrency && !n_errors)
            conn_start(&conns[n_conns++]);
        if (!n_errors && (now = clock_ns()) >= deadline)
            fail("only %u of %u connections opened", n_open, count);
        if (n_errors)
            return false;
        poll_once(deadline);
    }
    return true;
}

static bool open_probe(uint64_t deadline)
{
    conn_start(probe);
    while (is_pending(probe->state)) {
        if ((now = clock_ns()) >= deadline)
            return conn_fail(probe, "not opened in time");
        poll_once(deadline);
    }
    if (probe->state != S_OPEN)
        return false;
    schedule_start(&probing, opt.probe_ms * 1e6);
    return true;
}

static uint64_t missing(const struct conn *c)
{
    if (c->state != S_OPEN || c == publisher)
        return 0;
    return (publisher && c != probe ? publisher->sent : c->sent) - c->rcvd;
}

/* Waits for the replies; for those of the probe too, when it sends no more. */
static void drain(double seconds)
{
    uint64_t deadline = clock_ns() + (uint64_t)(seconds * 1e9), left = 0;
    bool with_probe = probe && !probing.on;
    /* A complete connection stays complete, so it is checked once. */
    for (uint32_t i = 0; (now = clock_ns()) < deadline && !broken();) {
        while (i < n_conns && !missing(&conns[i]))
            i++;
        if (i == n_conns && !(with_probe && missing(probe)))
            return;
        poll_once(MIN(deadline, now + NSEC / 50));
    }
    for (uint32_t i = 0; i < n_conns; i++)
        left += missing(&conns[i]);
    if (left)
        fail("%llu messages did not come back", (unsigned long long)left);
    if (with_probe && missing(probe))
        fail("%llu probes did not come back", (unsigned long long)missing(probe));
}

/* Closes all connections, and waits as long as the server answers. */
static void close_all(void)
{
    uint64_t last = clock_ns() + 20 * NSEC, deadline;
    for (uint32_t i = 0; i < n_conns; i++) {
        if (conns[i].state == S_OPEN)
            start_close(&conns[i]);
        else if (conns[i].state < S_OPEN && opt.mode != M_CONNECT)
            conn_close(&conns[i]); /* in connect mode they close when they are open */
    }
    if (probe && probe->state == S_OPEN)
        start_close(probe);
    deadline = clock_ns() + 2 * NSEC;
    while ((n_live || (probe && probe->state == S_CLOSING)) && (now = clock_ns()) < MIN(deadline, last)) {
        uint32_t had = n_live;
        poll_once(deadline);
        if (n_live < had)
            deadline = now + 2 * NSEC;
    }
    n_unclean += n_live;
    for (uint32_t i = 0; i < n_conns; i++)
        conn_close(&conns[i]);
    if (probe)
        conn_close(probe);
}

/* Reads the memory of the watched processes in KiB, and their processor time in seconds: the sum, and each. */
static void read_watched(double *rss_kb, double *cpu_s, double *each)
{
    *rss_kb = *cpu_s = 0;
    for (uint32_t i = 0; i < opt.n_watch; i++) {
        char path[64], line[1024];
        FILE *f;
        each[i] = 0;
        snprintf(path, sizeof path, "/proc/%u/status", opt.watch[i]);
        if ((f = fopen(path, "r"))) {
            while (fgets(line, sizeof line, f))
                if (!strncmp(line, "VmRSS:", 6))
                    *rss_kb += atof(line + 6);
            fclose(f);
        }
        snprintf(path, sizeof path, "/proc/%u/stat", opt.watch[i]);
        if ((f = fopen(path, "r"))) {
            unsigned long ut = 0, st = 0;
            const char *p = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
            if (p && sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &ut, &st) == 2)
                *cpu_s += each[i] = (double)(ut + st) / (double)sysconf(_SC_CLK_TCK);
            fclose(f);
        }
    }
}

static double own_cpu(void)
{
    struct rusage ru;
    getrusage(RUSAGE_SELF, &ru);
    return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
           (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

/* ----------------------------------------------------------- command line */

static double number(const char *s, const char *name, double min, double max)
{
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end || !(v >= min && v <= max))
        die("--%s: expected a number from %g to %g, got %s", name, min, max, s);
    return v;
}

static void usage(FILE *f)
{
    fputs("usage: wsload --port P [options]\n"
          "  --host A --path /echo --origin URL --protocol NAME   (127.0.0.0/8 only; --origin '': no Origin)\n"
          "  --mode echo|broadcast|connect|idle|ramp\n"
          "  --conns N         connections, or broadcast subscribers (64)\n"
          "  --concurrency C   handshakes at a time (64)\n"
          "  --size BYTES      payload (16)      --text | --binary | --utf8   (text)\n"
          "  --pipeline K      messages in flight per connection, echo (1)\n"
          "  --rate R          messages/s in all on a fixed schedule, echo and broadcast (0: closed loop)\n"
          "  --window W        broadcasts not yet received (4)\n"
          "  --ack one|all     a broadcast counts as received by the last subscriber, or by all of them (one)\n"
          "  --seconds S --warmup S --settle S --timeout S   (2, 0.5, 0.2, 30)\n"
          "  --deflate         offer permessage-deflate without context takeover\n"
          "  --deflate-takeover   offer it with context takeover\n"
          "  --greetings N     messages that are ignored on a connection before it counts as open (0)\n"
          "  --hello TEXT      is sent after the first of them\n"
          "  --prefix TEXT --suffix TEXT   begin and end each payload, which has --size bytes in all; text only\n"
          "  --verify N        compare the payload of each Nth reply (depends on --size)\n"
          "  --touch           idle, ramp: one echo on every connection before READY\n"
          "  --tls             TLS 1.2 or 1.3 with full handshakes; certificates are not verified\n"
          "  --probe-ms M      one more connection sends a 16-byte echo every M ms, from the first connection\n"
          "                    to the end of the measured time; its latency is reported as probe_us\n"
          "  --probe-path P    path of the probe (/echo)\n"
          "  --watch PID       report the processor time and memory of this process; can be repeated\n"
          "  --spin            poll without sleeping\n"
          "  --json            has no effect: the output is always JSON\n", f);
}

static void parse_args(int argc, char **argv)
{
    enum { HOST = 1, PORT, PATH, ORIGIN, PROTOCOL, MODE, CONNS, CONC, SIZE, TEXT, BINARY, UTF8, PIPELINE,
           RATE, WINDOW, ACK, SECONDS, WARMUP, SETTLE, TIMEOUT, DEFLATE, TAKEOVER, VERIFY, TOUCH, WATCH,
           SPIN, JSON, TLS, PROBE_MS, PROBE_PATH, GREETINGS, HELLO, PREFIX, SUFFIX, HELP };
    static const struct option longs[] = {
        {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"path", 1, 0, PATH}, {"origin", 1, 0, ORIGIN},
        {"protocol", 1, 0, PROTOCOL}, {"mode", 1, 0, MODE}, {"conns", 1, 0, CONNS},
        {"concurrency", 1, 0, CONC}, {"size", 1, 0, SIZE}, {"text", 0, 0, TEXT}, {"binary", 0, 0, BINARY},
        {"utf8", 0, 0, UTF8}, {"pipeline", 1, 0, PIPELINE}, {"rate", 1, 0, RATE}, {"window", 1, 0, WINDOW},
        {"ack", 1, 0, ACK}, {"seconds", 1, 0, SECONDS}, {"warmup", 1, 0, WARMUP}, {"settle", 1, 0, SETTLE},
        {"timeout", 1, 0, TIMEOUT}, {"deflate", 0, 0, DEFLATE}, {"deflate-takeover", 0, 0, TAKEOVER},
        {"verify", 1, 0, VERIFY}, {"touch", 0, 0, TOUCH}, {"watch", 1, 0, WATCH}, {"spin", 0, 0, SPIN},
        {"json", 0, 0, JSON}, {"tls", 0, 0, TLS}, {"probe-ms", 1, 0, PROBE_MS},
        {"probe-path", 1, 0, PROBE_PATH},
        {"greetings", 1, 0, GREETINGS}, {"hello", 1, 0, HELLO}, {"prefix", 1, 0, PREFIX}, {"suffix", 1, 0, SUFFIX},
        {"help", 0, 0, HELP}, {0, 0, 0, 0}};
    int o, at = 0;
    while ((o = getopt_long(argc, argv, "", longs, &at)) != -1) {
        const char *name = o == '?' ? "" : longs[at].name;
        switch (o) {
        case HOST: opt.host = optarg; break;
        case PORT: opt.port = (int)number(optarg, name, 1, 65535); break;
        case PATH: opt.path = optarg; break;
        case ORIGIN: opt.origin = optarg; break;
        case PROTOCOL: opt.protocol = optarg; break;
        case MODE:
            for (opt.mode = 0; strcmp(optarg, mode_names[opt.mode]); opt.mode++)
                if (opt.mode == M_RAMP)
                    die("unknown mode %s", optarg);
            break;
        case CONNS: opt.conns = (uint32_t)number(optarg, name, 1, 20000); break;
        case CONC: opt.concurrency = (uint32_t)number(optarg, name, 1, 1000); break;
        case SIZE: opt.size = (size_t)number(optarg, name, 0, 64 << 20); break;
        case TEXT: opt.opcode = OP_TEXT; break;
        case BINARY: opt.opcode = OP_BINARY; break;
        case UTF8: opt.opcode = OP_TEXT, opt.utf8 = true; break;
        case PIPELINE: opt.pipeline = (uint32_t)number(optarg, name, 1, 4096); break;
        case RATE: opt.rate = number(optarg, name, 0, 1e6); break;
        case WINDOW: opt.window = (uint32_t)number(optarg, name, 1, 4096); break;
        case ACK:
            opt.ack_all = !strcmp(optarg, "all");
            if (!opt.ack_all && strcmp(optarg, "one"))
                die("--ack: expected one or all, got %s", optarg);
            break;
        case SECONDS: opt.seconds = number(optarg, name, 0, 600); break;
        case WARMUP: opt.warmup = number(optarg, name, 0, 60); break;
        case SETTLE: opt.settle = number(optarg, name, 0, 60); break;
        case TIMEOUT: opt.timeout = number(optarg, name, 0.1, 300); break;
        case TAKEOVER: opt.takeover = true;  /* fall through */
        case DEFLATE: opt.deflate = true; break;
        case VERIFY: opt.verify = (uint32_t)number(optarg, name, 1, 1e9); break;
        case TOUCH: opt.touch = true; break;
        case WATCH:
            if (opt.n_watch == sizeof opt.watch / sizeof *opt.watch)
                die("--watch: at most %u processes", opt.n_watch);
            opt.watch[opt.n_watch++] = (uint32_t)number(optarg, name, 1, 1e9);
            break;
        case SPIN: opt.spin = true; break;
        case JSON: break;
        case TLS: opt.tls = true; break;
        case PROBE_MS: opt.probe_ms = number(optarg, name, 0.1, 60000); break;
        case PROBE_PATH: opt.probe_path = optarg; break;
        case GREETINGS: opt.greetings = (uint32_t)number(optarg, name, 0, 100); break;
        case HELLO: opt.hello = optarg; break;
        case PREFIX: opt.prefix = optarg; break;
        case SUFFIX: opt.suffix = optarg; break;
        case HELP: usage(stdout); exit(0);
        default: usage(stderr); exit(2);
        }
    }
    struct in_addr a;
    if (optind < argc || !opt.port) {
        usage(stderr);
        exit(2);
    }
    if (!strcmp(opt.host, "localhost"))
        opt.host = "127.0.0.1";
    if (inet_pton(AF_INET, opt.host, &a) != 1 || ntohl(a.s_addr) >> 24 != 127)
        die("--host: only addresses in 127.0.0.0/8 are accepted");
    if (opt.greetings && opt.deflate)
        die("--greetings: not with --deflate");
    if (opt.hello && (!opt.greetings || strlen(opt.hello) > 20))
        die("--hello: at most 20 bytes, with --greetings");
    if (strlen(opt.prefix) + strlen(opt.suffix) > (opt.opcode == OP_TEXT && !opt.utf8 ? opt.size : 0))
        die("--prefix and --suffix: at most --size bytes, of --text");
#ifdef NO_ZLIB
    if (opt.deflate)
        die("built without zlib");
#endif
#ifdef NO_TLS
    if (opt.tls)
        die("built without TLS");
#endif
    if (!opt.verify)
        opt.verify = opt.deflate ? 16 : opt.size <= 1024 ? 1 : 8;
}

/* --------------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    parse_args(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    alarm((unsigned)(opt.timeout * 2 + opt.warmup + opt.seconds + opt.settle * 2 + 30));
    struct rlimit rl = {1 << 20, 1 << 20};
    if (setrlimit(RLIMIT_NOFILE, &rl) < 0) {
        if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
            die("getrlimit: %s", strerror(errno));
        rl.rlim_cur = rl.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
            die("setrlimit: %s", strerror(errno));
    }
    uint32_t files = (opt.mode == M_CONNECT ? opt.concurrency : opt.conns) + 16;
    if (rl.rlim_cur < files)
        die("%u files must be open, but the limit is %llu: see ulimit -n", files, (unsigned long long)rl.rlim_cur);
    if (getrandom(&rng_state, sizeof rng_state, 0) < 0 || !rng_state)
        rng_state = clock_ns() | 1;

    /* A ring has space for all messages in flight: the pipeline, or ten seconds of
       the schedule, or more broadcasts than a subscriber can be behind. */
    double need = opt.mode == M_BROADCAST ? 1 << 14 : opt.mode != M_ECHO ? 1
                : opt.rate > 0 ? MIN(MAX(opt.rate / opt.conns * 10, 64), 1 << 20) : opt.pipeline;
    uint32_t ring = 1;
    while (ring < need + 1)
        ring *= 2;
    ring_mask = ring - 1;
    fanout = alloc(ring, sizeof *fanout);
    conns = alloc((size_t)opt.conns + opt.concurrency + 2, sizeof *conns);
    if (opt.probe_ms > 0)
        probe = &conns[opt.conns + opt.concurrency + 1];
    make_pools();
#ifndef NO_TLS
    if (opt.tls)
        tls_init();
#endif
    if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll: %s", strerror(errno));

    double rss0, rss1, cpu0, cpu1, own0, own1, elapsed = 0, each0[64], each1[64];
    struct { uint32_t conns; double rate, rss_kb; } steps[10];
    int n_steps = 0;
    uint64_t give_up = clock_ns() + (uint64_t)(opt.timeout * 1e9);
    bool up = !probe || open_probe(give_up);
    uint64_t t0 = clock_ns(), t_open = t0;
    read_watched(&rss0, &cpu0, each0);
    own0 = own_cpu();

    if (!up) {
        ;
    } else if (opt.mode == M_CONNECT) {
        connecting = true;
        for (n_conns = 0; n_conns < opt.concurrency; n_conns++)
            conn_start(&conns[n_conns]);
    } else if (opt.mode == M_RAMP) {
        for (uint32_t i = 1; up && i <= 10; i++) {
            uint64_t t = clock_ns();
            uint32_t had = n_open, count = (uint32_t)((uint64_t)opt.conns * i / 10);
            double cpu;
            up = open_until(count, give_up);
            steps[n_steps].rate = ((double)n_open - had) / ((double)(clock_ns() - t) / 1e9);
            steps[n_steps].conns = n_open;
            read_watched(&steps[n_steps++].rss_kb, &cpu, each1);
        }
    } else {
        up = open_until(opt.conns, give_up);
        if (up && opt.mode == M_BROADCAST) {
            publisher = &conns[opt.conns];
            up = open_until(opt.conns + 1, give_up);
        }
    }
    t_open = clock_ns();
    double open_s = (double)(t_open - t0) / 1e9, open_rate = (double)n_handshakes / open_s;
    bool holding = opt.mode == M_IDLE || opt.mode == M_RAMP;
    if (up && opt.mode != M_CONNECT)
        run_for(opt.settle);       /* the server registers all connections */

    if (up && holding) {
        if (opt.touch) {
            for (uint32_t i = 0; i < n_conns; i++)
                if (conns[i].state == S_OPEN)
                    post(&conns[i], 1, clock_ns());
            drain(opt.timeout);
            run_for(opt.settle);
        }
        read_watched(&rss1, &cpu1, each1);
        own1 = own_cpu();
        puts("READY");
        fflush(stdout);
        run_for(opt.seconds);
        elapsed = opt.seconds;
    } else if (up) {
        sending = opt.mode != M_CONNECT;
        if (sending && opt.rate > 0)
            schedule_start(&pacing, 1e9 / opt.rate);
        else if (publisher)
            publish();
        else if (sending)
            for (uint32_t i = 0; i < n_conns; i++)
                post(&conns[i], opt.pipeline, clock_ns());
        run_for(opt.warmup);
        memset(&latency, 0, sizeof latency);
        memset(&complete, 0, sizeof complete);
        if (opt.mode == M_CONNECT)
            memset(&handshake, 0, sizeof handshake);
        memset(&probed, 0, sizeof probed);
        probe_from = probing.n;
        n_msgs = n_handshakes = rx_bytes = tx_bytes = n_recv = n_send = n_polls = 0;
        read_watched(&rss0, &cpu0, each0);
        own0 = own_cpu();
        t0 = clock_ns();
        run_for(opt.seconds);
        elapsed = (double)(clock_ns() - t0) / 1e9;
        own1 = own_cpu();
        read_watched(&rss1, &cpu1, each1);
    } else {
        rss1 = rss0, cpu1 = cpu0, own1 = own0;
        memcpy(each1, each0, sizeof each1);
    }

    /* The figures of the measured time; drain() below must not change them. */
    struct hist shake = handshake, lat = latency, comp = complete;
    uint64_t msgs = n_msgs, handshakes = n_handshakes, rx = rx_bytes, tx = tx_bytes;
    uint64_t recvs = n_recv, sends = n_send, polls = n_polls;
    sending = connecting = false;
    schedule_stop(&pacing);
    schedule_stop(&probing);
    if (up)                        /* in idle, ramp and connect mode it matters for the probe only */
        drain(MIN(5, opt.timeout));
    if (up && !holding && !(opt.mode == M_CONNECT ? handshakes : msgs))
        fail("no message or handshake in the measured time");
    close_all();

    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\' || !isprint((unsigned char)*p))
            *p = '?';
    printf("{\"mode\": \"%s\", \"conns\": %u, \"size\": %zu, \"opcode\": \"%s\", \"seconds\": %.3f, "
           "\"errors\": %llu",
           mode_names[opt.mode], opt.mode == M_CONNECT ? opt.concurrency : opt.conns, opt.size,
           opt.opcode == OP_TEXT ? "text" : "binary", elapsed, (unsigned long long)n_errors);
    if (n_errors)
        printf(", \"first_error\": \"%s\"", first_error);
    if (opt.tls)
        printf(", \"tls\": \"%s\"", tls_name);
    if (opt.deflate)
        printf(", \"deflate\": \"%s\", \"server_takeover\": %s, \"client_takeover\": %s",
               n_deflated ? "negotiated" : "declined", n_server_takeover ? "true" : "false",
               n_client_takeover ? "true" : "false");
    if (opt.mode == M_CONNECT)
        printf(", \"handshakes\": %llu, \"rate\": %.1f", (unsigned long long)handshakes,
               elapsed > 0 ? (double)handshakes / elapsed : 0);
    else
        printf(", \"open_s\": %.3f, \"open_rate\": %.1f", open_s, open_rate);
    if (opt.mode == M_ECHO || opt.mode == M_BROADCAST)
        printf(", \"pipeline\": %u, \"offered_rate\": %.1f, \"messages\": %llu, \"rate\": %.1f, \"mb_s\": %.2f",
               opt.mode == M_ECHO ? opt.pipeline : opt.window, opt.rate, (unsigned long long)msgs,
               elapsed > 0 ? (double)msgs / elapsed : 0,
               elapsed > 0 ? (double)msgs * (double)opt.size / elapsed / 1e6 : 0);
    hist_json("latency_us", &lat);
    hist_json("fanout_us", &comp);
    hist_json("handshake_us", &shake);
    if (probe)
        printf(", \"probe_ms\": %g, \"probes\": %llu", opt.probe_ms, (unsigned long long)probed.n);
    hist_json("probe_us", &probed);
    if (n_steps) {
        printf(", \"steps\": [");
        for (int i = 0; i < n_steps; i++)
            printf("%s{\"conns\": %u, \"open_rate\": %.1f, \"rss_kb\": %.0f}", i ? ", " : "",
                   steps[i].conns, steps[i].rate, steps[i].rss_kb);
        printf("]");
    }
    double span = holding ? open_s + opt.settle : elapsed;
    if (span > 0)
        printf(", \"cpu_pct\": %.1f", 100 * (own1 - own0) / span);
    if (opt.n_watch && span > 0) {
        printf(", \"server_cpu_pct\": %.1f, \"rss_kb_before\": %.0f, \"rss_kb\": %.0f",
               100 * (cpu1 - cpu0) / span, rss0, rss1);
        printf(", \"watched_cpu_pct\": [");
        for (uint32_t i = 0; i < opt.n_watch; i++)
            printf("%s%.1f", i ? ", " : "", 100 * (each1[i] - each0[i]) / span);
        printf("]");
        if (holding)
            printf(", \"rss_bytes_per_conn\": %.0f", (rss1 - rss0) * 1024 / opt.conns);
    }
    printf(", \"rx_bytes\": %llu, \"tx_bytes\": %llu, \"recvs\": %llu, \"sends\": %llu, \"polls\": %llu, "
           "\"unclean_closes\": %llu}\n",
           (unsigned long long)rx, (unsigned long long)tx, (unsigned long long)recvs,
           (unsigned long long)sends, (unsigned long long)polls, (unsigned long long)n_unclean);
    if (fflush(stdout) || ferror(stdout))
        die("standard output: %s", strerror(errno));
    return n_errors ? 1 : 0;
}
