/*
 * loadgen.c - a cheap HTTP/1.1 load generator for OpenAI-compatible gateways.
 *
 *   cc -O2 -o loadgen loadgen.c -lm
 *   ./loadgen --port 8000 --mode req    -c 64  -d 5
 *   ./loadgen --port 8000 --mode req    -c 64  -d 5 --rate 500
 *   ./loadgen --port 8000 --mode stream -c 256 -d 8 --chunks 200 --delay-us 25000
 *   ./loadgen --port 8000 --mode stream -c 128 -d 6 --chunks 400 --window 1 --ack SOCK
 *
 * One thread, epoll.  Every run is bounded: by -d seconds (after --warmup), by
 * -n requests when given, and by --grace seconds for what is still open at the
 * end.  The result is one JSON object on stdout; all latencies are in
 * microseconds.
 *
 * Modes
 *   req     closed loop on C keep-alive connections, or open loop with --rate R
 *           (a request's latency then counts from the time it was due, so a
 *           stalled gateway can not hide its queue)
 *   stream  C concurrent SSE streams of --chunks events, restarted as they end.
 *           ttft  request sent -> first content event
 *           lag   one-way delay of each event, from the mock's "@" time stamp
 *                 to its receipt here (same clock, same machine)
 *           jit   |lag(k) - lag(k-1)|: what the path adds to the gap between
 *                 two tokens
 *           gap   the time between two events as the client sees it
 *   --window W --ack SOCK: the mock keeps at most W events of a stream under
 *           way; this is the saturation mode in which events do not coalesce
 *   --bytes-only  does not look into the events, only counts bytes and ends
 *
 * --cpu NAME=PID,PID..  (repeatable) adds the CPU seconds (user + system) that
 *           these processes used in the measured window.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---------------------------------------------- log-linear histogram, ns */
#define SUB 64
typedef struct { uint64_t n, max; double sum; uint32_t b[64 * SUB]; } hist;
static void h_add(hist *h, uint64_t v) {
    unsigned i;
    if (v < SUB) i = (unsigned)v;
    else {
        unsigned e = 63u - (unsigned)__builtin_clzll(v); /* >= 6 */
        i = (e - 5) * SUB + (unsigned)((v >> (e - 6)) & (SUB - 1));
    }
    if (i >= 64 * SUB) i = 64 * SUB - 1;
    h->b[i]++;
    h->n++;
    h->sum += (double)v;
    if (v > h->max) h->max = v;
}
static double h_q(const hist *h, double q) {
    if (!h->n) return -1;
    uint64_t want = (uint64_t)(q * (double)h->n), acc = 0;
    if (want >= h->n) want = h->n - 1;
    for (unsigned i = 0; i < 64 * SUB; i++) {
        acc += h->b[i];
        if (acc > want) {
            if (i < SUB) return (double)i / 1e3;
            unsigned e = i / SUB + 5;
            return ((double)((1ull << e) + ((uint64_t)(i % SUB) << (e - 6)) + (1ull << (e - 6)) / 2)) / 1e3;
        }
    }
    return (double)h->max / 1e3;
}
static void h_json(const char *name, const hist *h) {
    printf(",\"%s\":{\"n\":%llu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f,\"mean\":%.1f}", name,
           (unsigned long long)h->n, h_q(h, .5), h_q(h, .9), h_q(h, .99), h_q(h, .999), (double)h->max / 1e3,
           h->n ? h->sum / (double)h->n / 1e3 : -1);
}

/* ------------------------------------------------------------- connections */
enum { C_IDLE, C_CONN, C_BUSY };
enum { P_HEAD, P_LEN, P_SIZE, P_DATA, P_CRLF, P_TRAILER, P_EOF };
typedef struct {
    int fd;
    uint8_t st, ps;
    bool want_out, close_after, saw_done;
    int status;
    uint32_t sid, serial;
    size_t sent;
    uint64_t left, t_due, t_sent, t_last, last_lag;
    uint32_t events;
    char hb[16384];
    size_t hn;
    char *lb;
    size_t ln, lcap;
} conn;

static conn *C;
static int nconn = 64, ep, port = 8000, mode_stream, bytes_only;
static struct sockaddr_in addr;
static char *req;
static size_t req_len, sid_off;
static uint32_t chunks = 64, window;
static uint64_t t_start, w0, w1, t_stop, t_kill;
static uint64_t max_req, started, finished, in_window, events_w, bytes_w, all_events;
static uint64_t e_conn, e_status, e_short, e_closed, reconnects, unfinished, dropped;
static int first_bad_status;
static hist H_lat, H_ttft, H_lag, H_jit, H_gap;
static double rate;
static uint64_t next_due, rate_step, issued;
static int *idle_stack, idle_n;
static uint64_t *queue_due;
static size_t qh, qt, qcap;
static int ackfd = -1;
static struct sockaddr_un ackaddr;
static uint32_t ackbuf[2 * 4096];
static unsigned ackn;
static char rbuf[1 << 18];

static void ack_flush(void) {
    if (!ackn) return;
    sendto(ackfd, ackbuf, ackn * 8, 0, (struct sockaddr *)&ackaddr, sizeof ackaddr);
    ackn = 0;
}
static void watch(conn *c, bool out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.u32 = (uint32_t)(c - C)};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void drop(conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->want_out = false;
}
static void send_more(conn *c) {
    if (mode_stream && c->sent == 0) {
        char d[16];
        snprintf(d, sizeof d, "%010u", c->sid);
        memcpy(req + sid_off, d, 10);
    }
    while (c->sent < req_len) {
        ssize_t w = send(c->fd, req + c->sent, req_len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0) {
            if (errno == EAGAIN) { watch(c, true); return; }
            return; /* the read side will report it */
        }
        c->sent += (size_t)w;
    }
    watch(c, false);
}
static void begin(conn *c, uint64_t now, uint64_t due) {
    c->serial++;
    c->sid = ((c->serial & 0xffff) << 16) | (uint32_t)((c - C) & 0xffff);
    c->sent = 0;
    c->ps = P_HEAD;
    c->hn = c->ln = 0;
    c->events = 0;
    c->saw_done = c->close_after = false;
    c->t_due = due;
    c->t_sent = now;
    c->t_last = 0;
    c->status = 0;
    started++;
    if (c->fd < 0) {
        if (c->serial > 1) reconnects++;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        int r = connect(c->fd, (struct sockaddr *)&addr, sizeof addr);
        c->want_out = true;
        c->st = C_CONN;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)(c - C)};
        epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
        if (r < 0 && errno != EINPROGRESS) {
            e_conn++;
            drop(c);
            c->st = C_IDLE;
        }
        return;
    }
    c->st = C_BUSY;
    send_more(c);
}
static bool may_start(uint64_t now) { return now < t_stop && (!max_req || started < max_req); }

static void next(conn *c, uint64_t now) {
    c->st = C_IDLE;
    if (rate > 0) {
        if (qh < qt) begin(c, now, queue_due[qh++ % qcap]);
        else idle_stack[idle_n++] = (int)(c - C);
        return;
    }
    if (may_start(now)) begin(c, now, now);
}
static void fail(conn *c, uint64_t *counter, uint64_t now) {
    (*counter)++;
    drop(c);
    c->st = C_IDLE;
    if (now - c->t_sent < 2000000 && *counter > 1000) { dropped++; return; } /* no hot retry loop */
    next(c, now);
}
static void complete(conn *c, uint64_t now) {
    finished++;
    if (c->status != 200) {
        e_status++;
        if (!first_bad_status) first_bad_status = c->status;
    } else if (mode_stream && !bytes_only && (c->events != chunks || !c->saw_done)) {
        e_short++;
    } else if (now >= w0 && now < w1) {
        in_window++;
        h_add(&H_lat, now - c->t_due);
    }
    if (c->close_after) drop(c);
    next(c, now);
}

/* ---------------------------------------------------------------------- SSE */
static void sse_line(conn *c, const char *l, size_t n, uint64_t now) {
    if (n < 6 || l[0] != 'd' || l[4] != ':') return;
    const char *p = memmem(l, n, "\"@", 2);
    if (!p) {
        if (n < 20 && memmem(l, n, "[DONE]", 6)) c->saw_done = true;
        return;
    }
    if (l + n - p < 19) return;
    uint64_t ts = 0;
    for (int i = 2; i < 18; i++) {
        unsigned d = (unsigned)(p[i] - '0');
        if (d > 9) return;
        ts = ts * 10 + d;
    }
    uint64_t lag = now > ts ? now - ts : 0;
    c->events++;
    all_events++;
    bool in = now >= w0 && now < w1;
    if (in) {
        events_w++;
        h_add(&H_lag, lag);
        if (c->events == 1) {
            if (c->t_sent >= w0) h_add(&H_ttft, now - c->t_due);
        } else {
            h_add(&H_gap, now - c->t_last);
            h_add(&H_jit, lag > c->last_lag ? lag - c->last_lag : c->last_lag - lag);
        }
    }
    c->t_last = now;
    c->last_lag = lag;
    if (window) {
        ackbuf[2 * ackn] = c->sid;
        ackbuf[2 * ackn + 1] = c->events;
        if (++ackn == 4096) ack_flush();
    }
}
static void payload(conn *c, const char *p, size_t n, uint64_t now) {
    if (now >= w0 && now < w1) bytes_w += n;
    if (!mode_stream || bytes_only) return;
    while (n) {
        const char *nl = memchr(p, '\n', n);
        if (!nl) {
            if (c->ln + n > c->lcap) {
                c->lcap = (c->ln + n) * 2;
                c->lb = realloc(c->lb, c->lcap);
            }
            memcpy(c->lb + c->ln, p, n);
            c->ln += n;
            return;
        }
        size_t l = (size_t)(nl - p);
        if (c->ln) {
            if (c->ln + l > c->lcap) {
                c->lcap = (c->ln + l) * 2;
                c->lb = realloc(c->lb, c->lcap);
            }
            memcpy(c->lb + c->ln, p, l);
            sse_line(c, c->lb, c->ln + l, now);
            c->ln = 0;
        } else {
            sse_line(c, p, l, now);
        }
        p = nl + 1;
        n -= l + 1;
    }
}

/* --------------------------------------------------------------------- HTTP */
static uint64_t num(const char *p) {
    while (*p == ' ' || *p == ':') p++;
    return strtoull(p, NULL, 10);
}
/* returns bytes used of p; sets *end when the message is over */
static size_t head(conn *c, const char *p, size_t n, bool *end) {
    size_t had = c->hn, take = n < sizeof c->hb - 1 - had ? n : sizeof c->hb - 1 - had;
    memcpy(c->hb + had, p, take);
    c->hn += take;
    c->hb[c->hn] = 0;
    char *e = memmem(c->hb, c->hn, "\r\n\r\n", 4);
    if (!e) return take;
    size_t hl = (size_t)(e - c->hb) + 4;
    c->status = atoi(c->hb + 9);
    c->ps = P_EOF;
    if (!memcmp(c->hb, "HTTP/1.0", 8)) c->close_after = true;
    if (c->status == 100) { /* skip an interim head */
        c->hn = 0;
        c->ps = P_HEAD;
        return hl - had;
    }
    char *l = strchr(c->hb, '\n');
    while (l && l < e) {
        l++;
        if (!strncasecmp(l, "content-length:", 15)) { c->left = num(l + 15); c->ps = P_LEN; if (!c->left) *end = true; }
        else if (!strncasecmp(l, "transfer-encoding:", 18) && strcasestr(l, "chunked")) { c->ps = P_SIZE; c->left = 0; }
        else if (!strncasecmp(l, "connection:", 11) && !strncasecmp(l + 11 + strspn(l + 11, " "), "close", 5)) c->close_after = true;
        l = strchr(l, '\n');
    }
    if (c->ps == P_EOF) c->close_after = true;
    c->hn = 0;
    return hl - had;
}
static void feed(conn *c, const char *p, size_t n, uint64_t now) {
    bool end = false;
    while (n && !end) {
        size_t k;
        switch (c->ps) {
        case P_HEAD:
            k = head(c, p, n, &end);
            p += k; n -= k;
            break;
        case P_LEN:
            k = n < c->left ? n : (size_t)c->left;
            payload(c, p, k, now);
            c->left -= k; p += k; n -= k;
            if (!c->left) end = true;
            break;
        case P_EOF:
            payload(c, p, n, now);
            n = 0;
            break;
        case P_SIZE:
            while (n) {
                char ch = *p;
                p++; n--;
                if (ch == '\n') {
                    c->hb[c->hn] = 0;
                    c->left = strtoull(c->hb, NULL, 16);
                    c->hn = 0;
                    c->ps = c->left ? P_DATA : P_TRAILER;
                    break;
                }
                if (c->hn < 30) c->hb[c->hn++] = ch;
            }
            break;
        case P_DATA:
            k = n < c->left ? n : (size_t)c->left;
            payload(c, p, k, now);
            c->left -= k; p += k; n -= k;
            if (!c->left) { c->ps = P_CRLF; c->left = 2; }
            break;
        case P_CRLF:
            k = n < c->left ? n : (size_t)c->left;
            c->left -= k; p += k; n -= k;
            if (!c->left) c->ps = P_SIZE;
            break;
        case P_TRAILER:
            while (n) {
                char ch = *p;
                p++; n--;
                if (ch == '\n') {
                    if (c->hn == 0) { end = true; break; }
                    c->hn = 0;
                } else if (ch != '\r') c->hn = 1;
            }
            break;
        }
    }
    if (end) complete(c, now);
}

/* ---------------------------------------------------------------------- CPU */
#define MAXG 8
static struct { char name[32]; int pids[64], n; double t0, t1; } G[MAXG];
static int ng;
static double cpu_of(int pid) {
    char path[64], b[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, b, sizeof b - 1);
    close(fd);
    if (n <= 0) return 0;
    b[n] = 0;
    char *p = strrchr(b, ')');
    unsigned long long u = 0, s = 0;
    if (p) sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &u, &s);
    return (double)(u + s) / (double)sysconf(_SC_CLK_TCK);
}
static double self_cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}
static double self0, self1, mach0, mach1;
static double machine_busy(void) { /* CPU seconds that all processors were busy since boot */
    char b[512];
    int fd = open("/proc/stat", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, b, sizeof b - 1);
    close(fd);
    if (n <= 0) return 0;
    b[n] = 0;
    unsigned long long v[8] = {0};
    sscanf(b, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7);
    return (double)(v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / (double)sysconf(_SC_CLK_TCK);
}
static void snap(bool end) {
    for (int i = 0; i < ng; i++) {
        double t = 0;
        for (int k = 0; k < G[i].n; k++) t += cpu_of(G[i].pids[k]);
        if (end) G[i].t1 = t;
        else G[i].t0 = t;
    }
    if (end) self1 = self_cpu(), mach1 = machine_busy();
    else self0 = self_cpu(), mach0 = machine_busy();
}

int main(int argc, char **argv) {
    double dur = 5, warm = 1, grace = 3, ramp = 0.5;
    const char *host = "127.0.0.1", *path = "/v1/chat/completions", *modelname = "mock-model", *ack = NULL;
    uint64_t delay_us = 0, prefill_us = 0;
    size_t body_size = 0;
    int sync = 0;
    char extra[4096] = "";
    for (int i = 1; i < argc; i++) {
        char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(a, "--port")) port = atoi(v), i++;
        else if (!strcmp(a, "--host")) host = v, i++;
        else if (!strcmp(a, "--path")) path = v, i++;
        else if (!strcmp(a, "--mode")) mode_stream = !strcmp(v, "stream"), i++;
        else if (!strcmp(a, "-c")) nconn = atoi(v), i++;
        else if (!strcmp(a, "-d")) dur = atof(v), i++;
        else if (!strcmp(a, "-n")) max_req = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--warmup")) warm = atof(v), i++;
        else if (!strcmp(a, "--grace")) grace = atof(v), i++;
        else if (!strcmp(a, "--ramp")) ramp = atof(v), i++;
        else if (!strcmp(a, "--rate")) rate = atof(v), i++;
        else if (!strcmp(a, "--chunks")) chunks = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--delay-us")) delay_us = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--prefill-us")) prefill_us = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--window")) window = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--ack")) ack = v, i++;
        else if (!strcmp(a, "--sync")) sync = atoi(v), i++;
        else if (!strcmp(a, "--body-size")) body_size = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--model")) modelname = v, i++;
        else if (!strcmp(a, "--bytes-only")) bytes_only = 1;
        else if (!strcmp(a, "--header")) { strncat(extra, v, sizeof extra - strlen(extra) - 3); strcat(extra, "\r\n"); i++; }
        else if (!strcmp(a, "--cpu") && ng < MAXG) {
            char *eq = strchr(v, '=');
            i++;
            if (!eq) continue;
            snprintf(G[ng].name, sizeof G[ng].name, "%.*s", (int)(eq - v), v);
            for (char *t = strtok(eq + 1, ","); t && G[ng].n < 64; t = strtok(NULL, ",")) G[ng].pids[G[ng].n++] = atoi(t);
            ng++;
        } else { fprintf(stderr, "unknown option %s\n", a); return 2; }
    }
    if (nconn < 1 || nconn > 60000 || dur > 600 || dur <= 0) { fprintf(stderr, "bad -c or -d\n"); return 2; }
    if (window && !ack) { fprintf(stderr, "--window needs --ack\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    addr.sin_family = AF_INET;
    addr.sin_port = htons((uint16_t)port);
    inet_pton(AF_INET, host, &addr.sin_addr);
    if (ack) {
        ackfd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ackaddr.sun_family = AF_UNIX;
        if (strlen(ack) >= sizeof ackaddr.sun_path) { fprintf(stderr, "--ack is too long a path\n"); return 2; }
        strncpy(ackaddr.sun_path, ack, sizeof ackaddr.sun_path - 1);
    }
    /* the request: one template, the stream id is patched in before each send */
    size_t cap = body_size + 8192;
    char *body = malloc(cap);
    int n = snprintf(body, cap, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"[[mock", modelname);
    if (mode_stream)
        n += snprintf(body + n, cap - (size_t)n, " n=%u d=%llu p=%llu w=%u y=%d s=%010u", chunks, (unsigned long long)delay_us,
                      (unsigned long long)prefill_us, window, sync, 0);
    else
        n += snprintf(body + n, cap - (size_t)n, " p=%llu", (unsigned long long)prefill_us);
    n += snprintf(body + n, cap - (size_t)n, "]] Tell me in one short paragraph why the sky is blue");
    static const char filler[] = " and then explain it again for a reader who is ten years old";
    while ((size_t)n + 200 < body_size) {
        memcpy(body + n, filler, sizeof filler - 1);
        n += (int)sizeof filler - 1;
    }
    n += snprintf(body + n, cap - (size_t)n, "\"}],\"temperature\":0.7,\"max_tokens\":%u%s}", mode_stream ? chunks : 64,
                  mode_stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    req = malloc((size_t)n + 8192);
    int hl = sprintf(req, "POST %s HTTP/1.1\r\nhost: %s:%d\r\nuser-agent: loadgen\r\naccept: */*\r\n"
                          "content-type: application/json\r\n%scontent-length: %d\r\n\r\n", path, host, port, extra, n);
    memcpy(req + hl, body, (size_t)n);
    req_len = (size_t)(hl + n);
    if (mode_stream) sid_off = (size_t)((char *)memmem(req, req_len, " s=", 3) - req) + 3;
    free(body);

    ep = epoll_create1(EPOLL_CLOEXEC);
    C = calloc((size_t)nconn, sizeof *C);
    for (int i = 0; i < nconn; i++) C[i].fd = -1;
    idle_stack = malloc((size_t)nconn * sizeof *idle_stack);
    t_start = now_ns();
    w0 = t_start + (uint64_t)(warm * 1e9);
    w1 = w0 + (uint64_t)(dur * 1e9);
    t_stop = w1;
    t_kill = t_stop + (uint64_t)(grace * 1e9);
    if (rate > 0) {
        rate_step = (uint64_t)(1e9 / rate);
        next_due = t_start + rate_step;
        qcap = (size_t)(rate * (warm + dur)) + 1024;
        queue_due = malloc(qcap * sizeof *queue_due);
        for (int i = nconn - 1; i >= 0; i--) idle_stack[idle_n++] = i;
    }
    int ramped = 0, snapped = 0;
    uint64_t peak = 0;
    static struct epoll_event evs[1024];
    for (;;) {
        uint64_t now = now_ns();
        if (snapped == 0 && now >= w0) { snap(false); snapped = 1; now = now_ns(); }
        if (snapped == 1 && now >= w1) { snap(true); snapped = 2; now = now_ns(); }
        if (now >= t_kill) break;
        uint64_t wake = now + 50000000;
        if (rate > 0) {
            while (next_due <= now && next_due < t_stop) {
                issued++;
                if (idle_n) begin(&C[idle_stack[--idle_n]], now, next_due);
                else if (qt - qh < qcap) queue_due[qt++ % qcap] = next_due;
                next_due += rate_step;
            }
            if (next_due < t_stop && next_due < wake) wake = next_due;
            if (now >= t_stop) qh = qt;
        } else if (ramped < nconn) {
            double f = ramp > 0 ? (double)(now - t_start) / (ramp * 1e9) : 1;
            int want = f >= 1 ? nconn : (int)(f * nconn) + 1;
            while (ramped < want && may_start(now)) { begin(&C[ramped], now, now); ramped++; }
            if (ramped < nconn) wake = now + 1000000;
        }
        if (snapped == 0 && w0 < wake) wake = w0;
        if (snapped == 1 && w1 < wake) wake = w1;
        uint64_t live = started - finished - e_conn - e_closed;
        if (live > peak) peak = live;
        if (!live && ((now >= t_stop) || (max_req && started >= max_req && ramped >= nconn))) {
            if (snapped == 1) { w1 = now; snap(true); snapped = 2; }
            if (snapped == 2 || max_req) break;
        }
        ack_flush();
        uint64_t wt = wake > now ? wake - now : 0;
        struct timespec ts = {(time_t)(wt / 1000000000ull), (long)(wt % 1000000000ull)};
        int k = epoll_pwait2(ep, evs, 1024, &ts, NULL);
        for (int i = 0; i < k; i++) {
            conn *c = &C[evs[i].data.u32];
            uint32_t ev = evs[i].events;
            if (c->fd < 0) continue;
            if (c->st == C_CONN) {
                int err = 0;
                socklen_t sl = sizeof err;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &sl);
                if (err) { fail(c, &e_conn, now_ns()); continue; }
                if (!(ev & EPOLLOUT)) continue;
                c->st = C_BUSY;
                send_more(c);
                if (!(ev & EPOLLIN)) continue;
            } else if ((ev & EPOLLOUT) && c->st == C_BUSY) {
                send_more(c);
            }
            if (ev & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t r = recv(c->fd, rbuf, sizeof rbuf, MSG_DONTWAIT);
                uint64_t t = now_ns();
                if (r > 0) {
                    if (c->st == C_BUSY) feed(c, rbuf, (size_t)r, t);
                } else if (r == 0 || errno != EAGAIN) {
                    if (c->st == C_BUSY && c->ps == P_EOF) complete(c, t);
                    else if (c->st == C_BUSY) fail(c, &e_closed, t);
                    else drop(c); /* idle connection closed by the server */
                }
            }
        }
    }
    uint64_t live = started - finished - e_conn - e_closed;
    unfinished = live;
    double secs = (double)(w1 - w0) / 1e9;
    printf("{\"mode\":\"%s\",\"conns\":%d,\"secs\":%.3f,\"started\":%llu,\"finished\":%llu,\"ok\":%llu,\"rps\":%.1f",
           mode_stream ? "stream" : "req", nconn, secs, (unsigned long long)started, (unsigned long long)finished,
           (unsigned long long)in_window, (double)in_window / secs);
    if (rate > 0) printf(",\"rate\":%.1f,\"issued\":%llu,\"still_queued\":%llu", rate, (unsigned long long)issued, (unsigned long long)(qt - qh));
    printf(",\"events\":%llu,\"events_per_s\":%.1f,\"bytes_per_s\":%.0f,\"peak\":%llu,\"reconnects\":%llu,\"unfinished\":%llu,"
           "\"err_connect\":%llu,\"err_status\":%llu,\"bad_status\":%d,\"err_short\":%llu,\"err_closed\":%llu",
           (unsigned long long)events_w, (double)events_w / secs, (double)bytes_w / secs, (unsigned long long)peak,
           (unsigned long long)reconnects, (unsigned long long)unfinished, (unsigned long long)e_conn,
           (unsigned long long)e_status, first_bad_status, (unsigned long long)e_short, (unsigned long long)e_closed);
    h_json("lat", &H_lat);
    if (mode_stream) {
        h_json("ttft", &H_ttft);
        h_json("lag", &H_lag);
        h_json("jit", &H_jit);
        h_json("gap", &H_gap);
    }
    printf(",\"cpu\":{\"loadgen\":%.3f", self1 - self0);
    for (int i = 0; i < ng; i++) printf(",\"%s\":%.3f", G[i].name, G[i].t1 - G[i].t0);
    printf("},\"machine_busy_s\":%.3f,\"processors\":%ld}\n", mach1 - mach0, sysconf(_SC_NPROCESSORS_ONLN));
    (void)dropped;
    (void)all_events;
    return 0;
}
