/* A libnvidia-ml.so.1 without a GPU: every answer stands in a file that a test changes while this
 * runs. The layout of the file is that of `struct world`, which tests/fakes/nvml.py repeats.
 *
 * Signatures and struct sizes follow nvml.h as nvidia-ml-py calls it. Built with:
 *   gcc -shared -fPIC -O2 -o libnvidia-ml.so.1 nvml_stub.c                                      */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 32, PROCESSES = 32, FAULTS = 64, XIDS = 256, RETIRED = 1 };
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       TIMEOUT = 10 };
enum { XID_EVENT = 8 };

struct process { uint32_t pid, graphics; uint64_t memory; };

struct gpu {
    char name[96], uuid[96], pci[32];
    uint64_t total, reserved, used;
    uint32_t busy, temperature, slowdown, power, limit, clock, clock_max, processes;
    uint64_t energy, reasons;
    uint64_t ecc[2][2]; /* [corrected, uncorrected][volatile, aggregate] */
    uint32_t remapped_cor, remapped_unc, remap_pending, remap_failed;
    uint32_t retired[2], retired_pending, recovery; /* retired: [single, double] */
    uint64_t nvlink[5]; /* flit CRC, data CRC, replay, recovery, ECC */
    int32_t mig_of, mig_mode, gpu_instance, has_margin;
    int32_t margin, slowdown_margin;
    struct process process[PROCESSES];
};

struct fault { char function[64]; int32_t gpu, code; };
struct xid { int32_t gpu; uint32_t number; };

struct world {
    uint32_t gpus, init_error, xids, faults;
    char hang[64]; /* the function that never answers; "*" for all */
    uint64_t calls, delay; /* delay of every call in microseconds */
    struct fault fault[FAULTS];
    struct xid xid[XIDS];
    struct gpu gpu[GPUS];
};

static volatile struct world *w;
static int opened;

static void rest(long microseconds) {
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

/* Answers come from this file from now on. */
int stub_open(const char *path) {
    int fd = open(path, O_RDWR);
    if (fd < 0) return -1;
    void *found = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found == MAP_FAILED) return -1;
    w = found;
    opened = 0;
    return 0;
}

unsigned stub_size(void) { return sizeof *w; }

static int called(const char *function, int gpu) {
    w->calls++;
    while (w->hang[0] == '*' || strcmp((const char *)w->hang, function) == 0) rest(1000);
    if (w->delay) rest((long)w->delay);
    for (unsigned i = 0; i < w->faults && i < FAULTS; i++) {
        volatile struct fault *f = &w->fault[i];
        if ((f->gpu == -1 || f->gpu == gpu) &&
            (f->function[0] == '*' || strcmp((const char *)f->function, function) == 0))
            return f->code;
    }
    return OK;
}

/* A handle is the address of the device's entry. */
static int number(const void *device) { return (int)((volatile struct gpu *)device - w->gpu); }

#define GLOBAL() do { if (!opened) return UNINITIALIZED; \
    int fault_ = called(__func__, -2); if (fault_) return fault_; } while (0)
#define DEVICE(g) volatile struct gpu *g = device; do { \
    if (!opened) return UNINITIALIZED; \
    if (number(device) < 0 || number(device) >= (int)w->gpus) return INVALID; \
    int fault_ = called(__func__, number(device)); if (fault_) return fault_; } while (0)
#define WHOLE(g) if (g->mig_of >= 0) return NOT_SUPPORTED /* what a MIG device does not answer */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = getenv("NVML_STUB");
    if (!w && (!path || stub_open(path))) return 9; /* driver not loaded */
    int fault = called(__func__, -2);
    if (fault || w->init_error) return fault ? fault : (int)w->init_error;
    opened = 1;
    return OK;
}

int nvmlShutdown(void) { GLOBAL(); opened = 0; return OK; }

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", code);
    return text;
}

static int copy(char *to, unsigned length, volatile char *from) {
    if (strlen((const char *)from) >= length) return TOO_SMALL;
    strcpy(to, (const char *)from);
    return OK;
}

int nvmlSystemGetDriverVersion(char *to, unsigned length) {
    GLOBAL();
    return copy(to, length, "999.1");
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    GLOBAL();
    *count = 0;
    for (unsigned i = 0; i < w->gpus; i++) *count += w->gpu[i].mig_of < 0;
    return OK;
}

/* The nth device whose parent is `of` (-1: those that have none). */
static int nth(unsigned n, int of, void **device) {
    for (unsigned i = 0; i < w->gpus; i++)
        if (w->gpu[i].mig_of == of && n-- == 0) {
            *device = (void *)&w->gpu[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (!opened) return UNINITIALIZED;
    int found = nth(index, -1, device);
    int fault = called(__func__, found == OK ? number(*device) : -2);
    return fault ? fault : found == OK ? OK : INVALID;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    DEVICE(g);
    WHOLE(g);
    if (g->mig_mode < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)g->mig_mode;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    DEVICE(g);
    *count = g->mig_mode > 0 ? 7 : 0;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **mig) {
    DEVICE(g);
    return nth(index, number((void *)g), mig);
}

int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) {
    DEVICE(g);
    if (g->mig_of < 0) return NOT_SUPPORTED;
    *id = (unsigned)g->gpu_instance;
    return OK;
}

int nvmlDeviceGetName(void *device, char *to, unsigned n) { DEVICE(g); return copy(to, n, g->name); }
int nvmlDeviceGetUUID(void *device, char *to, unsigned n) { DEVICE(g); return copy(to, n, g->uuid); }

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *info) {
    DEVICE(g);
    WHOLE(g);
    memset(info, 0, sizeof *info);
    return copy(info->bus_id, sizeof info->bus_id, g->pci);
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo(void *device, struct memory *m) {
    DEVICE(g);
    m->total = g->total;
    m->used = g->used + g->reserved;
    m->free = m->total - m->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *m) {
    DEVICE(g);
    if (m->version != 0x02000028) return 25; /* argument version mismatch */
    m->total = g->total;
    m->reserved = g->reserved;
    m->used = g->used;
    m->free = g->total - g->reserved - g->used;
    return OK;
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *u) {
    DEVICE(g);
    WHOLE(g);
    if (g->mig_mode > 0) return NOT_SUPPORTED;
    u->gpu = g->busy;
    u->memory = 0;
    return OK;
}

struct temperature { unsigned version; int sensor, temperature; };

int nvmlDeviceGetTemperatureV(void *device, struct temperature *t) {
    DEVICE(g);
    WHOLE(g);
    t->temperature = (int)g->temperature;
    return OK;
}

/* A plain number of a whole device. */
#define NUMBER(function, type, field) \
    int function(void *device, type *to) { DEVICE(g); WHOLE(g); *to = (type)g->field; return OK; }
#define NUMBER_OF(function, field) \
    int function(void *device, int kind, unsigned *to) \
    { (void)kind; DEVICE(g); WHOLE(g); *to = g->field; return OK; }

NUMBER(nvmlDeviceGetPowerUsage, unsigned, power)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, limit)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, energy)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, reasons)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, reasons)
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, int, retired_pending)
NUMBER_OF(nvmlDeviceGetTemperature, temperature)
NUMBER_OF(nvmlDeviceGetClockInfo, clock)
NUMBER_OF(nvmlDeviceGetMaxClockInfo, clock_max)

int nvmlDeviceGetTemperatureThreshold(void *device, int kind, unsigned *to) {
    DEVICE(g);
    WHOLE(g);
    if (g->has_margin || kind != 1) return NOT_SUPPORTED;
    *to = g->slowdown;
    return OK;
}

struct margin { unsigned version; int margin; };

int nvmlDeviceGetMarginTemperature(void *device, struct margin *to) {
    DEVICE(g);
    WHOLE(g);
    if (!g->has_margin) return NOT_SUPPORTED;
    to->margin = g->margin;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *to) {
    DEVICE(g);
    WHOLE(g);
    if (kind < 0 || kind > 1 || counter < 0 || counter > 1) return INVALID;
    *to = g->ecc[kind][counter];
    return OK;
}

int nvmlDeviceGetRemappedRows(void *device, unsigned *cor, unsigned *unc, unsigned *pending,
                              unsigned *failed) {
    DEVICE(g);
    WHOLE(g);
    *cor = g->remapped_cor;
    *unc = g->remapped_unc;
    *pending = g->remap_pending;
    *failed = g->remap_failed;
    return OK;
}

int nvmlDeviceGetRetiredPages(void *device, int cause, unsigned *count, unsigned long long *to) {
    DEVICE(g);
    WHOLE(g);
    unsigned n = g->retired[cause == 1];
    if (*count < n || !to) {
        *count = n;
        return n ? TOO_SMALL : OK;
    }
    for (unsigned i = 0; i < n; i++) to[i] = 0x1000ULL * (i + 1);
    *count = n;
    return OK;
}

struct field {
    uint32_t id, scope;
    int64_t at, latency;
    int32_t type, code;
    union { double d; uint32_t u; uint64_t ull; int32_t i; } value;
};

/* The fields that the sensor asks for; a value with its type (nvmlValueType_t) or not supported. */
static void answer(volatile struct gpu *g, struct field *f) {
    static const uint32_t links[] = {38, 45, 52, 59, 160};
    f->code = OK;
    f->type = 3; /* unsigned long long */
    for (int i = 0; i < 5; i++)
        if (f->id == links[i]) {
            f->value.ull = g->nvlink[i];
            return;
        }
    if (f->id == 230) {
        f->type = 1; /* unsigned int */
        f->value.u = g->recovery;
    } else if (f->id == 194 && g->has_margin) {
        f->type = 5; /* signed int */
        f->value.i = g->slowdown_margin;
    } else {
        f->code = NOT_SUPPORTED;
    }
}

int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
    DEVICE(g);
    WHOLE(g);
    for (int i = 0; i < count; i++) answer(g, &fields[i]);
    return OK;
}

struct info { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };

static int list(volatile struct gpu *g, unsigned graphics, unsigned *count, struct info *to) {
    unsigned room = to ? *count : 0, n = 0;
    for (unsigned i = 0; i < g->processes && i < PROCESSES; i++) {
        if (g->process[i].graphics != graphics) continue;
        if (n < room) to[n] = (struct info){g->process[i].pid, g->process[i].memory, -1u, -1u};
        n++;
    }
    *count = n;
    return n > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct info *to) {
    DEVICE(g);
    return list(g, 0, count, to);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, struct info *to) {
    DEVICE(g);
    return list(g, 1, count, to);
}

struct event_set { uint32_t seen; uint64_t kinds[GPUS]; };
struct event { void *device; unsigned long long type, data; unsigned gi, ci; };

int nvmlEventSetCreate(struct event_set **set) {
    GLOBAL();
    *set = calloc(1, sizeof **set);
    (*set)->seen = w->xids;
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *kinds) {
    DEVICE(g);
    *kinds = g->mig_of < 0 ? XID_EVENT : 0;
    return OK;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long kinds, struct event_set *set) {
    DEVICE(g);
    WHOLE(g);
    set->kinds[number((void *)g)] |= kinds;
    return OK;
}

int nvmlEventSetWait_v2(struct event_set *set, struct event *to, unsigned milliseconds) {
    GLOBAL();
    for (long left = (long)milliseconds * 1000; left >= 0; left -= 10000) {
        while (set->seen < w->xids) {
            volatile struct xid *x = &w->xid[set->seen++ % XIDS];
            if (!(set->kinds[x->gpu] & XID_EVENT)) continue;
            *to = (struct event){(void *)&w->gpu[x->gpu], XID_EVENT, x->number, -1u, -1u};
            return OK;
        }
        rest(left < 10000 ? left : 10000);
    }
    return TIMEOUT;
}

int nvmlEventSetFree(struct event_set *set) { GLOBAL(); free(set); return OK; }
