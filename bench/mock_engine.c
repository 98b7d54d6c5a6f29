/*
 * mock_engine.c - a very cheap stand-in for an OpenAI-compatible inference
 * engine, used to measure what a gateway in front of it adds.
 *
 *   cc -O2 -o mock_engine mock_engine.c
 *   ./mock_engine --port 9001 [--addresses 8] [--ack .bench/ack.sock]
 *
 * With --addresses N it listens on N consecutive addresses from --host on, so
 * 127.0.0.1 to 127.0.0.N: a gateway takes them for N engines, and the machine
 * still runs one process on their behalf.
 *
 * One thread, epoll, keep-alive HTTP/1.1, no dependencies.  It serves:
 *
 *   GET  /health  /v1/models  /metrics (vLLM-like gauges)  /mock/stats
 *        /mock/reset  and the small probes that routers send (/server_info ...)
 *   POST .../completions   non-stream: one fixed JSON body of about 600 bytes
 *                          stream:     N SSE events of about 230 bytes, each in
 *                          its own HTTP chunk and its own send(), then a
 *                          finish event, a usage event and [DONE]
 *
 * Parameters of one request, weakest first:
 *   start flags   --chunks N  --delay-us D  --prefill-us P
 *   query         ?chunks=N&delay_us=D&prefill_us=P
 *   headers       x-mock-chunks, x-mock-delay-us, x-mock-prefill-us
 *   JSON          "stream":true, "max_tokens":N / "max_completion_tokens":N
 *   prompt tag    "[[mock n=N d=DELAY_US p=PREFILL_US w=WINDOW s=SID y=1]]"
 * The tag stands anywhere in the first or last 4 KiB of the body.  It is there
 * because a gateway may drop unknown headers and unknown JSON fields, but it
 * can not touch the prompt.
 *
 *   d=0 w=0  burst: one event per stream per turn, as fast as the socket takes
 *   d>0      paced: one event every DELAY_US; y=1 aligns all streams to common
 *            steps, as the batch of a real engine does
 *   w>0      window: at most W events unacknowledged.  The load generator
 *            acknowledges events over the unix datagram socket --ack, so that a
 *            saturated gateway still sees one event per read (no coalescing).
 *
 * Every event carries "@" and 16 digits: the CLOCK_MONOTONIC nanoseconds at
 * which it was sent (or was due, when the peer's backpressure made it late).
 * A load generator on the same machine gets the one-way delay from it.
 *
 * GET /mock/stats gives counters; "aborted" counts the responses that the
 * client (the gateway) closed before their end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
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

#define MAXFD 65536
#define MAXBODY (64u << 20)
#define MAXHEAD (64u << 10)
#define MAXADDR 64

enum { ST_READ, ST_WAIT, ST_STREAM };

typedef struct {
    int fd;
    uint32_t gen;              /* grows at each request; old timers die */
    uint8_t state;
    bool keepalive, want_out, blocked, close_after;
    char *in;
    size_t in_len, in_cap, hdr_len, body_len;
    bool chunked_body;
    char *out;
    size_t out_off, out_len, out_cap;
    uint32_t n, sent, acked, win, sid;
    bool stream, sync;
    uint64_t delay, prefill, due;
} conn;

typedef struct { uint64_t due; int fd; uint32_t gen; } timer;

static conn *conns[MAXFD];
static int sid_fd[MAXFD];      /* low 16 bits of sid -> fd */
static timer *heap;
static size_t heap_n, heap_cap;
static int ep, ackfd = -1;
static uint32_t def_chunks = 64;
static uint64_t def_delay, def_prefill;
static const char *model = "mock-model";
static volatile sig_atomic_t stopping;
static uint32_t last_gen;      /* one counter for all: a timer of a closed fd never fits the next one */

static struct {
    uint64_t accepted, open, requests, streams, finished, aborted, events, bytes_in, bytes_out,
        bad, running, waiting, max_running;
} S;

static char ns_resp[2048];
static size_t ns_len;
static char chunk_tpl[512];
static size_t chunk_len, chunk_ts;
static char tail_buf[1024];
static size_t tail_len;
static char head_buf[1024];
static size_t head_len;
static const char not_found[] = "{\"error\":{\"message\":\"not found\",\"code\":404}}";

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---------------------------------------------------------------- timers */
static void heap_push(uint64_t due, int fd, uint32_t gen) {
    if (heap_n == heap_cap) {
        heap_cap = heap_cap ? heap_cap * 2 : 1024;
        heap = realloc(heap, heap_cap * sizeof *heap);
        if (!heap) abort();
    }
    size_t i = heap_n++;
    while (i) {
        size_t p = (i - 1) / 2;
        if (heap[p].due <= due) break;
        heap[i] = heap[p];
        i = p;
    }
    heap[i] = (timer){due, fd, gen};
}
static timer heap_pop(void) {
    timer top = heap[0], last = heap[--heap_n];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= heap_n) break;
        if (c + 1 < heap_n && heap[c + 1].due < heap[c].due) c++;
        if (last.due <= heap[c].due) break;
        heap[i] = heap[c];
        i = c;
    }
    if (heap_n) heap[i] = last;
    return top;
}

/* ---------------------------------------------------------------- output */
static void watch(conn *c, bool out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void conn_close(conn *c) {
    if (c->state != ST_READ) {
        S.aborted++;
        S.running--;
        if (c->state == ST_WAIT && c->stream) S.waiting--;
    } else if (c->out_len > c->out_off) {
        S.aborted++;
    }
    int fd = c->fd;
    if (c->win && sid_fd[c->sid & 0xffff] == fd) sid_fd[c->sid & 0xffff] = 0;
    conns[fd] = NULL;
    S.open--;
    close(fd);
    free(c->in);
    free(c->out);
    free(c);
}
/* returns false when the connection broke (and was closed) */
static bool put(conn *c, const char *p, size_t n) {
    if (c->out_len == c->out_off) {
        ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0) {
            if (errno != EAGAIN) { conn_close(c); return false; }
            w = 0;
        }
        S.bytes_out += (uint64_t)w;
        if ((size_t)w == n) return true;
        p += w;
        n -= (size_t)w;
        c->out_off = c->out_len = 0;
    }
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) abort();
    }
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
    c->blocked = true;
    watch(c, true);
    return true;
}
static bool flush_out(conn *c) {
    while (c->out_len > c->out_off) {
        ssize_t w = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0) {
            if (errno == EAGAIN) return true;
            conn_close(c);
            return false;
        }
        S.bytes_out += (uint64_t)w;
        c->out_off += (size_t)w;
    }
    c->out_off = c->out_len = 0;
    c->blocked = false;
    watch(c, false);
    return true;
}

/* --------------------------------------------------------------- payloads */
static size_t http_chunk(char *dst, const char *payload) {
    return (size_t)sprintf(dst, "%zx\r\n%s\r\n", strlen(payload), payload);
}
static void build_templates(void) {
    char ev[512], body[1024];
    snprintf(ev, sizeof ev,
             "data: {\"id\":\"chatcmpl-7f3a9c1e5b2d4f60\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
             "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@0000000000000000\"},"
             "\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n",
             model);
    chunk_len = http_chunk(chunk_tpl, ev);
    chunk_ts = (size_t)(strchr(chunk_tpl, '@') - chunk_tpl) + 1;

    head_len = (size_t)sprintf(head_buf,
                               "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 12:00:00 GMT\r\nserver: mock\r\n"
                               "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    snprintf(ev, sizeof ev,
             "data: {\"id\":\"chatcmpl-7f3a9c1e5b2d4f60\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
             "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
             "\"logprobs\":null,\"finish_reason\":null}]}\n\n",
             model);
    /* the role event is kept right behind the head, sent with the first token */
    head_buf[head_len] = 0;
    static char role[600];
    size_t rl = http_chunk(role, ev);
    memcpy(head_buf + head_len, role, rl); /* head_buf holds head, then role */
    head_buf[head_len + rl] = 0;

    snprintf(ev, sizeof ev,
             "data: {\"id\":\"chatcmpl-7f3a9c1e5b2d4f60\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
             "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
             "\"finish_reason\":\"stop\",\"stop_reason\":null}]}\n\n",
             model);
    tail_len = http_chunk(tail_buf, ev);
    snprintf(ev, sizeof ev,
             "data: {\"id\":\"chatcmpl-7f3a9c1e5b2d4f60\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
             "\"model\":\"%s\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"total_tokens\":76,\"completion_tokens\":64}}\n\n",
             model);
    tail_len += http_chunk(tail_buf + tail_len, ev);
    tail_len += http_chunk(tail_buf + tail_len, "data: [DONE]\n\n");
    tail_len += (size_t)sprintf(tail_buf + tail_len, "0\r\n\r\n");

    int bl = snprintf(
        body, sizeof body,
        "{\"id\":\"chatcmpl-7f3a9c1e5b2d4f60\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"%s\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the "
        "lazy dog, and then it sits down to think about what it has just done, and why, and whether it would do it "
        "again.\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[]},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],\"service_tier\":null,"
        "\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":12,\"total_tokens\":44,\"completion_tokens\":32,"
        "\"prompt_tokens_details\":null},\"prompt_logprobs\":null}",
        model);
    ns_len = (size_t)snprintf(ns_resp, sizeof ns_resp,
                              "HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 12:00:00 GMT\r\nserver: mock\r\n"
                              "content-length: %d\r\ncontent-type: application/json\r\n\r\n%s",
                              bl, body);
}
static inline void put16(char *d, uint64_t v) {
    for (int i = 15; i >= 0; i--) {
        d[i] = (char)('0' + v % 10);
        v /= 10;
    }
}
static bool reply(conn *c, int code, const char *ctype, const char *body, size_t n) {
    char h[256];
    int hl = snprintf(h, sizeof h, "HTTP/1.1 %d %s\r\nserver: mock\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n",
                      code, code == 200 ? "OK" : "Error", ctype, n);
    if (!put(c, h, (size_t)hl)) return false;
    return n ? put(c, body, n) : true;
}

/* ----------------------------------------------------------------- streams */
static void request_done(conn *c);

static bool emit(conn *c, uint32_t k, uint64_t ts) {
    char buf[8192];
    size_t n = 0;
    if (c->sent == 0) {
        size_t off = c->prefill ? head_len : 0; /* head went out before the prefill */
        size_t l = strlen(head_buf + off);
        memcpy(buf, head_buf + off, l);
        n = l;
    }
    while (k-- && c->sent < c->n) {
        memcpy(buf + n, chunk_tpl, chunk_len);
        put16(buf + n + chunk_ts, ts);
        n += chunk_len;
        c->sent++;
        S.events++;
        if (n > sizeof buf - 2048) break;
    }
    bool end = c->sent >= c->n;
    if (end) {
        memcpy(buf + n, tail_buf, tail_len);
        n += tail_len;
    }
    if (!put(c, buf, n)) return false;
    if (end) {
        request_done(c);
        return false; /* the conn may be gone or on its next request */
    }
    return true;
}
static void pump(conn *c, uint64_t now) { /* window mode: send what the window allows */
    uint32_t out = c->sent - c->acked;
    if (out < c->win && !c->blocked) emit(c, c->win - out, now);
}
static uint64_t step_after(uint64_t t, uint64_t d) { return (t / d + 1) * d; }

static void on_timer(conn *c, uint64_t now) {
    if (c->state == ST_WAIT) {
        if (!c->stream) {
            if (put(c, ns_resp, ns_len)) request_done(c);
            return;
        }
        c->state = ST_STREAM;
        S.waiting--;
        if (c->win) { pump(c, now); return; }
        c->due = now;
    }
    if (c->blocked) return; /* resumes from EPOLLOUT */
    uint64_t ts = now;
    if (c->delay && c->due + 5000000 < now) ts = c->due;
    if (!emit(c, 1, ts)) return;
    c->due = c->delay ? c->due + c->delay : now + 1;
    heap_push(c->due, c->fd, c->gen);
}

static void start_response(conn *c, uint64_t now) {
    S.requests++;
    S.running++;
    if (S.running > S.max_running) S.max_running = S.running;
    c->gen = ++last_gen;
    c->sent = c->acked = 0;
    if (!c->stream) {
        if (c->prefill) {
            c->state = ST_WAIT;
            heap_push(now + c->prefill, c->fd, c->gen);
        } else {
            c->state = ST_STREAM;
            if (put(c, ns_resp, ns_len)) request_done(c);
        }
        return;
    }
    S.streams++;
    if (c->win) sid_fd[c->sid & 0xffff] = c->fd;
    c->state = ST_WAIT;
    S.waiting++;
    uint64_t at = now + c->prefill;
    if (c->sync && c->delay) at = step_after(at, c->delay);
    if (c->prefill) {
        if (!put(c, head_buf, head_len)) return;
        heap_push(at, c->fd, c->gen);
    } else if (at > now) {
        heap_push(at, c->fd, c->gen);
    } else {
        on_timer(c, now);
    }
}

/* ----------------------------------------------------------------- parsing */
static uint64_t num_after(const char *p, const char *e) {
    while (p < e && (*p == ' ' || *p == ':' || *p == '"')) p++;
    uint64_t v = 0;
    while (p < e && *p >= '0' && *p <= '9') v = v * 10 + (uint64_t)(*p++ - '0');
    return v;
}
static void scan_body(conn *c, const char *p, size_t n) {
    const char *e = p + n, *q;
    if ((q = memmem(p, n, "\"stream\"", 8))) {
        q += 8;
        while (q < e && (*q == ' ' || *q == ':')) q++;
        if (q < e && *q == 't') c->stream = true;
    }
    if ((q = memmem(p, n, "\"max_tokens\"", 12)) || (q = memmem(p, n, "\"max_completion_tokens\"", 23))) {
        uint64_t v = num_after(strchr(q + 1, '"') + 1, e);
        if (v) c->n = (uint32_t)v;
    }
    if ((q = memmem(p, n, "[[mock", 6))) {
        q += 6;
        while (q + 2 < e && *q != ']') {
            if (q[1] == '=') {
                uint64_t v = num_after(q + 2, e);
                switch (*q) {
                case 'n': c->n = (uint32_t)v; break;
                case 'd': c->delay = v * 1000; break;
                case 'p': c->prefill = v * 1000; break;
                case 'w': c->win = (uint32_t)v; break;
                case 's': c->sid = (uint32_t)v; break;
                case 'y': c->sync = v != 0; break;
                }
                q += 2;
            }
            q++;
        }
    }
}
static bool hdr_is(const char *l, size_t n, const char *name) {
    size_t k = strlen(name);
    return n > k && l[k] == ':' && !strncasecmp(l, name, k);
}
/* length of a chunked body from p, 0 when incomplete; decoded in place to *dec */
static size_t chunked_total(char *p, size_t n, size_t *dec) {
    size_t off = 0, w = 0;
    for (;;) {
        char *nl = memchr(p + off, '\n', n - off);
        if (!nl) return 0;
        size_t sz = strtoul(p + off, NULL, 16), data = (size_t)(nl - p) + 1;
        if (data + sz + 2 > n) return 0;
        if (!sz) {
            /* now that it is whole, decode */
            size_t o = 0;
            for (;;) {
                char *l = memchr(p + o, '\n', n - o);
                size_t s = strtoul(p + o, NULL, 16), d = (size_t)(l - p) + 1;
                if (!s) break;
                memmove(p + w, p + d, s);
                w += s;
                o = d + s + 2;
            }
            *dec = w;
            return data + 2;
        }
        off = data + sz + 2;
    }
}

static bool get_page(conn *c, const char *path, size_t n) {
    char b[2048];
    int l;
#define IS(s) (n == sizeof(s) - 1 && !memcmp(path, s, n))
    if (IS("/health") || IS("/ping") || IS("/health_generate")) return reply(c, 200, "text/plain", "", 0);
    if (IS("/v1/models")) {
        l = snprintf(b, sizeof b,
                     "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1790000000,"
                     "\"owned_by\":\"mock\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":131072}]}",
                     model, model);
        return reply(c, 200, "application/json", b, (size_t)l);
    }
    if (IS("/metrics")) {
        l = snprintf(b, sizeof b,
                     "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"%s\"} %llu\n"
                     "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"%s\"} %llu\n"
                     "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"%s\"} %.4f\n"
                     "# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{model_name=\"%s\"} %llu\n",
                     model, (unsigned long long)(S.running - S.waiting), model, (unsigned long long)S.waiting, model,
                     S.running > 1000 ? 1.0 : (double)S.running / 1000.0, model, (unsigned long long)S.events);
        return reply(c, 200, "text/plain; version=0.0.4", b, (size_t)l);
    }
    if (IS("/mock/stats") || IS("/mock/reset")) {
        struct rusage r;
        getrusage(RUSAGE_SELF, &r);
        l = snprintf(b, sizeof b,
                     "{\"accepted\":%llu,\"open\":%llu,\"requests\":%llu,\"streams\":%llu,\"finished\":%llu,\"aborted\":%llu,"
                     "\"events\":%llu,\"running\":%llu,\"waiting\":%llu,\"max_running\":%llu,\"bad\":%llu,"
                     "\"bytes_in\":%llu,\"bytes_out\":%llu,\"cpu_s\":%.4f}",
                     (unsigned long long)S.accepted, (unsigned long long)S.open, (unsigned long long)S.requests,
                     (unsigned long long)S.streams, (unsigned long long)S.finished, (unsigned long long)S.aborted,
                     (unsigned long long)S.events, (unsigned long long)S.running, (unsigned long long)S.waiting,
                     (unsigned long long)S.max_running, (unsigned long long)S.bad, (unsigned long long)S.bytes_in,
                     (unsigned long long)S.bytes_out,
                     (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6);
        if (path[6] == 'r') {
            S.accepted = S.requests = S.streams = S.finished = S.aborted = S.events = S.bad = S.bytes_in = S.bytes_out = 0;
            S.max_running = S.running;
        }
        return reply(c, 200, "application/json", b, (size_t)l);
    }
    if (IS("/get_model_info") || IS("/model_info") || IS("/get_server_info") || IS("/server_info") || IS("/version") ||
        IS("/info")) {
        l = snprintf(b, sizeof b,
                     "{\"model_path\":\"%s\",\"model_id\":\"%s\",\"served_model_name\":\"%s\",\"tokenizer_path\":\"%s\","
                     "\"is_generation\":true,\"version\":\"0.0.0-mock\",\"dp_size\":1,\"tp_size\":1,"
                     "\"preferred_sampling_params\":null}",
                     model, model, model, model);
        return reply(c, 200, "application/json", b, (size_t)l);
    }
#undef IS
    return reply(c, 404, "application/json", not_found, sizeof not_found - 1);
}

/* tries to take one request out of c->in; loops over pipelined ones */
static void try_requests(conn *c, uint64_t now) {
    while (c->state == ST_READ && c->in_len) {
        int fd = c->fd;
        if (!c->hdr_len) {
            char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
            if (!e) {
                if (c->in_len > MAXHEAD) conn_close(c);
                return;
            }
            c->hdr_len = (size_t)(e - c->in) + 4;
            c->body_len = 0;
            c->chunked_body = false;
            c->keepalive = true;
            c->stream = c->sync = false;
            c->win = c->sid = 0;
            c->n = def_chunks;
            c->delay = def_delay;
            c->prefill = def_prefill;
            char *l = memchr(c->in, '\n', c->hdr_len);
            if (l > c->in + 9 && memcmp(l - 9, "HTTP/1.0", 8) == 0) c->keepalive = false;
            bool expect = false;
            while (l && l + 3 < c->in + c->hdr_len) {
                l++;
                char *nl = memchr(l, '\n', (size_t)(c->in + c->hdr_len - l));
                if (!nl) break;
                size_t n = (size_t)(nl - l);
                switch (*l | 32) {
                case 'c':
                    if (hdr_is(l, n, "content-length")) c->body_len = num_after(l + 15, nl);
                    else if (hdr_is(l, n, "connection")) {
                        if (memmem(l, n, "lose", 4)) c->keepalive = false;
                        else if (memmem(l, n, "eep-", 4)) c->keepalive = true;
                    }
                    break;
                case 't':
                    if (hdr_is(l, n, "transfer-encoding") && memmem(l, n, "chunked", 7)) c->chunked_body = true;
                    break;
                case 'e':
                    if (hdr_is(l, n, "expect")) expect = true;
                    break;
                case 'x':
                    if (hdr_is(l, n, "x-mock-chunks")) c->n = (uint32_t)num_after(l + 14, nl);
                    else if (hdr_is(l, n, "x-mock-delay-us")) c->delay = num_after(l + 16, nl) * 1000;
                    else if (hdr_is(l, n, "x-mock-prefill-us")) c->prefill = num_after(l + 18, nl) * 1000;
                    break;
                }
                l = nl;
            }
            if (c->body_len > MAXBODY) { S.bad++; conn_close(c); return; }
            if (expect && !put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return;
            if (c->hdr_len + c->body_len > c->in_cap) {
                c->in_cap = c->hdr_len + c->body_len + 1;
                c->in = realloc(c->in, c->in_cap);
                if (!c->in) abort();
            }
        }
        size_t body = c->body_len, total = c->hdr_len + c->body_len;
        if (c->chunked_body) {
            size_t t = chunked_total(c->in + c->hdr_len, c->in_len - c->hdr_len, &body);
            if (!t) return;
            total = c->hdr_len + t;
        } else if (c->in_len < total) {
            return;
        }
        /* request line */
        char *sp = memchr(c->in, ' ', c->hdr_len), *path = sp ? sp + 1 : NULL, *pe = path;
        if (!sp) { S.bad++; conn_close(c); return; }
        while (*pe != ' ' && *pe != '?' && *pe != '\r') pe++;
        if (*pe == '?') {
            char *q = pe, *qe = strchr(pe, ' '), *v;
            size_t ql = qe ? (size_t)(qe - q) : 0;
            if ((v = memmem(q, ql, "chunks=", 7))) c->n = (uint32_t)num_after(v + 7, qe);
            if ((v = memmem(q, ql, "delay_us=", 9))) c->delay = num_after(v + 9, qe) * 1000;
            if ((v = memmem(q, ql, "prefill_us=", 11))) c->prefill = num_after(v + 11, qe) * 1000;
        }
        bool post = !memcmp(c->in, "POST", 4), ok;
        S.bytes_in += total;
        if (post && memmem(path, (size_t)(pe - path), "completions", 11)) {
            const char *b = c->in + c->hdr_len;
            if (body <= 8192) scan_body(c, b, body);
            else {
                scan_body(c, b, 4096);
                scan_body(c, b + body - 4096, 4096);
            }
            memmove(c->in, c->in + total, c->in_len - total);
            c->in_len -= total;
            c->hdr_len = 0;
            if (c->in_cap > 65536 && c->in_len < 4096) {
                c->in_cap = 8192;
                c->in = realloc(c->in, c->in_cap);
            }
            start_response(c, now);
            if (conns[fd] != c) return;
            continue;
        }
        ok = post ? reply(c, 404, "application/json", not_found, sizeof not_found - 1)
                  : get_page(c, path, (size_t)(pe - path));
        if (!ok) return;
        memmove(c->in, c->in + total, c->in_len - total);
        c->in_len -= total;
        c->hdr_len = 0;
        if (!c->keepalive) {
            if (c->out_len == c->out_off) conn_close(c);
            else c->close_after = true;
            return;
        }
    }
}
static void request_done(conn *c) {
    c->state = ST_READ;
    c->gen = ++last_gen;
    S.running--;
    S.finished++;
    if (c->win && sid_fd[c->sid & 0xffff] == c->fd) sid_fd[c->sid & 0xffff] = 0;
    c->win = 0;
    if (!c->keepalive) {
        if (c->out_len == c->out_off) conn_close(c);
        else c->close_after = true;
    }
}
static void on_event(conn *c, uint32_t ev, uint64_t now) {
    int fd = c->fd;
    if (ev & EPOLLOUT) {
        if (!flush_out(c)) return;
        if (!c->blocked) {
            if (c->close_after) { conn_close(c); return; }
            if (c->state == ST_STREAM) {
                if (c->win) pump(c, now);
                else on_timer(c, now);
                if (conns[fd] != c) return;
            }
        }
    }
    if (ev & EPOLLIN) {
        if (c->in_cap == c->in_len || (!c->hdr_len && c->in_cap - c->in_len < 2048)) {
            c->in_cap = c->in_cap ? c->in_cap * 2 : 8192;
            if (c->in_cap > MAXBODY) { conn_close(c); return; }
            c->in = realloc(c->in, c->in_cap);
            if (!c->in) abort();
        }
        ssize_t r = recv(fd, c->in + c->in_len, c->in_cap - c->in_len, MSG_DONTWAIT);
        if (r == 0 || (r < 0 && errno != EAGAIN)) { conn_close(c); return; }
        if (r > 0) {
            c->in_len += (size_t)r;
            try_requests(c, now);
            if (conns[fd] != c) return;
        }
    }
    if (ev & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        if (c->state != ST_READ || (ev & (EPOLLHUP | EPOLLERR)) || !(ev & EPOLLIN)) conn_close(c);
    }
}

static void on_sig(int s) { (void)s; stopping = 1; }

static int listen_on(struct in_addr host, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = host};
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) {
        perror("bind");
        exit(1);
    }
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    return fd;
}
static void accept_some(int lfd) {
    for (int k = 0; k < 256; k++) {
        int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0) return;
        if (fd >= MAXFD) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        conns[fd] = c;
        S.accepted++;
        S.open++;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    int port = 9001, addresses = 1;
    double max_s = 4 * 3600;
    const char *ack = NULL, *host = "127.0.0.1";
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(argv[i], "--port")) port = atoi(v), i++;
        else if (!strcmp(argv[i], "--host")) host = v, i++;
        else if (!strcmp(argv[i], "--addresses")) addresses = atoi(v), i++;
        else if (!strcmp(argv[i], "--chunks")) def_chunks = (uint32_t)atoi(v), i++;
        else if (!strcmp(argv[i], "--delay-us")) def_delay = (uint64_t)atoll(v) * 1000, i++;
        else if (!strcmp(argv[i], "--prefill-us")) def_prefill = (uint64_t)atoll(v) * 1000, i++;
        else if (!strcmp(argv[i], "--model")) model = v, i++;
        else if (!strcmp(argv[i], "--ack")) ack = v, i++;
        else if (!strcmp(argv[i], "--max-seconds")) max_s = atof(v), i++;
        else {
            fprintf(stderr, "usage: %s [--host H] [--port P] [--addresses N] [--model M] [--chunks N] [--delay-us D] [--prefill-us P]"
                            " [--ack SOCKET] [--max-seconds S]\n", argv[0]);
            return 2;
        }
    }
    struct in_addr first;
    if (addresses < 1 || addresses > MAXADDR || inet_pton(AF_INET, host, &first) != 1) {
        fprintf(stderr, "--host is not an IPv4 address, or --addresses not from 1 to %d\n", MAXADDR);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_sig);
    signal(SIGINT, on_sig);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    build_templates();
    ep = epoll_create1(EPOLL_CLOEXEC);
    int lfd[MAXADDR];
    for (int i = 0; i < addresses; i++) {
        lfd[i] = listen_on((struct in_addr){htonl(ntohl(first.s_addr) + (uint32_t)i)}, port);
    }
    int last_lfd = lfd[addresses - 1]; /* descriptors are handed out in rising order */
    if (ack) {
        ackfd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct sockaddr_un u = {.sun_family = AF_UNIX};
        if (strlen(ack) >= sizeof u.sun_path) { fprintf(stderr, "--ack is too long a path\n"); return 2; }
        strncpy(u.sun_path, ack, sizeof u.sun_path - 1);
        unlink(ack);
        if (bind(ackfd, (struct sockaddr *)&u, sizeof u)) { perror("ack"); return 1; }
        struct epoll_event e = {.events = EPOLLIN, .data.fd = ackfd};
        epoll_ctl(ep, EPOLL_CTL_ADD, ackfd, &e);
    }
    static struct epoll_event evs[1024];
    uint64_t end = now_ns() + (uint64_t)(max_s * 1e9);
    while (!stopping) {
        uint64_t now = now_ns(), wait = 1000000000ull;
        if (now > end) break;
        if (heap_n) wait = heap[0].due > now ? heap[0].due - now : 0;
        if (wait > 1000000000ull) wait = 1000000000ull;
        struct timespec ts = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
        int n = epoll_pwait2(ep, evs, 1024, &ts, NULL);
        now = now_ns();
        bool accepting = false; /* last, so that no event of a closed fd meets its successor */
        for (int i = 0; i < n; i++) {
            int fd = evs[i].data.fd;
            if (fd >= lfd[0] && fd <= last_lfd) {
                accepting = true;
            } else if (fd == ackfd) {
                static uint32_t a2[2 * 4096]; /* pairs: sid, number of events received */
                ssize_t r;
                while ((r = recv(ackfd, a2, sizeof a2, MSG_DONTWAIT)) > 0) {
                    for (ssize_t j = 0; j + 8 <= r; j += 8) {
                        uint32_t sid = a2[j / 4], idx = a2[j / 4 + 1];
                        int f = sid_fd[sid & 0xffff];
                        conn *c = f ? conns[f] : NULL;
                        if (!c || c->sid != sid || c->state != ST_STREAM || idx > c->sent || idx <= c->acked) continue;
                        c->acked = idx;
                        pump(c, now);
                    }
                }
            } else if (conns[fd]) {
                on_event(conns[fd], evs[i].events, now);
            }
        }
        for (int i = 0; accepting && i < addresses; i++) accept_some(lfd[i]);
        now = now_ns();
        while (heap_n && heap[0].due <= now) {
            timer t = heap_pop();
            conn *c = conns[t.fd];
            if (c && c->gen == t.gen) on_timer(c, now);
        }
    }
    if (ack) unlink(ack);
    return 0;
}
