/*
 * Copyright (c) 2026, aivailable.sdai contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A stand-in for libnvidia-ml.so.1: the functions that the Python binding and monitoring tools ask for, answered from
 * gpus.json and the ledger of simgpu.py. https://docs.nvidia.com/deploy/nvml-api/
 *
 * Faults of a card: "vanished" (it is lost), "not-supported" (its memory and processes are not told),
 * "driver-not-loaded" (no function works).
 *
 * Numbers are read without the C library's parsers: a library built on a newer system would then ask for versions of
 * those that the containers' C library does not have.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { MAX_GPUS = 16, TEXT = 96 };

typedef unsigned long long u64;
typedef struct { char uuid[TEXT], name[TEXT], address[TEXT], architecture[TEXT]; unsigned device; u64 vram_mib;
                 int lost, mute; } Gpu;
typedef Gpu *Device;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
typedef struct { unsigned pid; u64 used; } Process1;
typedef struct { unsigned pid; u64 used; unsigned instance, compute_instance; } Process2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

static Gpu gpus[MAX_GPUS];
static unsigned count;
static int users, cuda_version, not_loaded;
static char driver_version[TEXT];

/* Files */

static const char *place(const char *variable, const char *fallback) {
    const char *value = getenv(variable);
    return value ? value : fallback;
}

static char *slurp(const char *path) {
    static char buffer[1 << 16];
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    size_t length = fread(buffer, 1, sizeof buffer - 1, file);
    fclose(file);
    buffer[length] = 0;
    return buffer;
}

static u64 number(const char *text) {
    u64 value = 0;
    if (text[0] == '0' && text[1] == 'x')
        for (text += 2; *text; text++) {
            if (*text >= '0' && *text <= '9') value = value * 16 + (u64)(*text - '0');
            else if ((*text | 32) >= 'a' && (*text | 32) <= 'f') value = value * 16 + (u64)((*text | 32) - 'a' + 10);
            else break;
        }
    else
        while (*text >= '0' && *text <= '9') value = value * 10 + (u64)(*text++ - '0');
    return value;
}

/* JSON: just enough to walk a document that json.dumps wrote */

static const char *blank(const char *p) { return p + strspn(p, " \t\r\n,:"); }

static const char *skip(const char *p) {
    int depth = 0;
    p = blank(p);
    do {
        if (*p == '"') { for (p++; *p && *p != '"'; p++) if (*p == '\\') p++; }
        else if (*p == '{' || *p == '[') depth++;
        else if (*p == '}' || *p == ']') depth--;
        else if (!depth) return p + strcspn(p, ",]} \t\r\n");
        if (*p) p++;
        if (depth) p = blank(p);
    } while (*p && depth > 0);
    return p;
}

static const char *member(const char *object, const char *key) {
    const char *p = blank(object + 1);
    while (object[0] == '{' && *p == '"') {
        const char *name = p + 1, *value = blank(skip(p));
        if (!strncmp(name, key, strlen(key)) && name[strlen(key)] == '"') return value;
        p = blank(skip(value));
    }
    return NULL;
}

static void copy(char *to, const char *string) {
    size_t n = 0;
    if (string && *string == '"')
        for (string++; *string && *string != '"' && n < TEXT - 1; string++)
            if (*string != '\\') to[n++] = *string;
    to[n] = 0;
}

static int fault(const char *gpu, const char *name) {
    const char *list = member(gpu, "faults");
    if (!list) return 0;
    for (const char *p = blank(list + 1); *p == '"'; p = blank(skip(p)))
        if (!strncmp(p + 1, name, strlen(name)) && p[1 + strlen(name)] == '"') return 1;
    return 0;
}

/* Read anew at each start of the library and each question: a card may vanish meanwhile. Places never move. */
static int load(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/gpus.json", place("SDAI_LAB_ETC", "/etc/sdai-lab"));
    const char *document = slurp(path), *drivers, *list;
    if (!document || !(drivers = member(document, "drivers")) || !(list = member(document, "gpus"))) return DRIVER_NOT_LOADED;
    const char *cuda = member(drivers, "cuda");
    copy(driver_version, member(drivers, "nvidia"));
    cuda_version = cuda ? (int)number(cuda) : 0;
    count = 0;
    not_loaded = 0;
    for (const char *p = blank(list + 1); *p == '{' && count < MAX_GPUS; p = blank(skip(p))) {
        char vendor[TEXT], device[TEXT];
        copy(vendor, member(p, "vendor"));
        if (strcmp(vendor, "nvidia") || !member(p, "driver") || *member(p, "driver") != 't') continue;
        Gpu *gpu = &gpus[count++];
        copy(gpu->uuid, member(p, "uuid"));
        copy(gpu->name, member(p, "name"));
        copy(gpu->address, member(p, "pci_address"));
        copy(gpu->architecture, member(p, "architecture"));
        copy(device, member(p, "pci_device"));
        gpu->device = (unsigned)number(device);
        gpu->vram_mib = member(p, "vram_mib") ? number(member(p, "vram_mib")) : 0;
        gpu->lost = fault(p, "vanished");
        gpu->mute = fault(p, "not-supported");
        not_loaded |= fault(p, "driver-not-loaded");
    }
    return count && !not_loaded ? SUCCESS : DRIVER_NOT_LOADED;
}

static int ready(Device gpu) {
    if (!users) return UNINITIALIZED;
    if (gpu < gpus || gpu >= gpus + MAX_GPUS) return INVALID_ARGUMENT;
    int state = load();
    return state ? state : gpu->lost ? GPU_IS_LOST : SUCCESS;
}

/* Who holds VRAM */

static const char *field(const char *p, int n) {
    for (; n > 0; n--) { p += strcspn(p, " \n"); p += *p == ' '; }
    return p;
}

static int lives(unsigned pid, u64 started) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    const char *text = slurp(path), *end = text ? strrchr(text, ')') : NULL;
    if (!end) return kill((int)pid, 0) == -1 && errno == EPERM;
    if (end[2] == 'Z' || end[2] == 'X') return 0;
    return number(field(end + 2, 19)) == started;
}

/* Fills at most `room` processes that use the card by an API ("" for any); returns how many there are, sums their MiB. */
static unsigned holders(Device gpu, const char *api, Process2 *found, unsigned room, u64 *mib) {
    char folder[256], path[512], line[256];
    unsigned n = 0;
    snprintf(folder, sizeof folder, "%s/vram", place("SDAI_LAB_SHM", "/dev/shm/sdai-lab"));
    DIR *all = opendir(folder);
    if (!all) return 0;
    for (struct dirent *entry; (entry = readdir(all));) {
        unsigned pid = (unsigned)number(entry->d_name);
        u64 held = 0;
        int uses = 0;
        if (!pid) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file)) {
            const char *key = field(line, 1), *amount = field(line, 2), *by = field(line, 3);
            if ((size_t)(amount - key) != strlen(gpu->uuid) + 1 || strncmp(key, gpu->uuid, strlen(gpu->uuid))) continue;
            if (*api && strncmp(by, api, strlen(api))) continue;
            if (!lives(pid, number(line))) continue;
            held += number(amount);
            uses = 1;
        }
        if (file) fclose(file);
        if (!uses) continue;
        if (found && n < room) found[n] = (Process2){pid, held << 20, ~0u, ~0u};
        *mib += held;
        n++;
    }
    closedir(all);
    return n;
}

static int processes(Device gpu, const char *api, unsigned *room, Process2 *to) {
    u64 mib = 0;
    int state = ready(gpu);
    if (state) return state;
    if (gpu->mute) return NOT_SUPPORTED;
    unsigned n = holders(gpu, api, to, to ? *room : 0, &mib), had = *room;
    *room = n;
    return n && (!to || n > had) ? INSUFFICIENT_SIZE : SUCCESS;
}

static int processes1(Device gpu, const char *api, unsigned *room, Process1 *to) {
    Process2 wide[256];
    unsigned had = *room;
    if (had > 256) *room = had = 256;
    int state = processes(gpu, api, room, to ? wide : NULL);
    for (unsigned i = 0; state == SUCCESS && to && i < *room; i++) to[i] = (Process1){wide[i].pid, wide[i].used};
    return state;
}

static int text(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

#define API __attribute__((visibility("default"))) int
#define CHECK(gpu) do { int state = ready(gpu); if (state) return state; } while (0)
#define CHECK_STARTED() do { if (!users) return UNINITIALIZED; } while (0)

API nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int state = load();
    users += state == SUCCESS;
    return state;
}
API nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlInit(void) { return nvmlInitWithFlags(0); }
API nvmlShutdown(void) { CHECK_STARTED(); users--; return SUCCESS; }

__attribute__((visibility("default"))) const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "The operation was successful";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

API nvmlSystemGetDriverVersion(char *to, unsigned length) { CHECK_STARTED(); return text(to, length, driver_version); }
API nvmlSystemGetNVMLVersion(char *to, unsigned length) { CHECK_STARTED(); return text(to, length, "12.570.133.20"); }
API nvmlSystemGetCudaDriverVersion(int *to) { CHECK_STARTED(); *to = cuda_version; return SUCCESS; }
API nvmlSystemGetCudaDriverVersion_v2(int *to) { return nvmlSystemGetCudaDriverVersion(to); }
API nvmlSystemGetProcessName(unsigned pid, char *to, unsigned length) {
    char path[64];
    CHECK_STARTED();
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    const char *name = slurp(path);
    return name ? text(to, length, name) : NOT_FOUND;
}

API nvmlDeviceGetCount_v2(unsigned *to) { CHECK_STARTED(); load(); *to = count; return SUCCESS; }
API nvmlDeviceGetCount(unsigned *to) { return nvmlDeviceGetCount_v2(to); }
API nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *to) {
    CHECK_STARTED();
    load();
    if (index >= count) return INVALID_ARGUMENT;
    *to = &gpus[index];
    return gpus[index].lost ? GPU_IS_LOST : SUCCESS;
}
API nvmlDeviceGetHandleByIndex(unsigned index, Device *to) { return nvmlDeviceGetHandleByIndex_v2(index, to); }
API nvmlDeviceGetHandleByUUID(const char *uuid, Device *to) {
    CHECK_STARTED();
    load();
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) { *to = &gpus[i]; return gpus[i].lost ? GPU_IS_LOST : SUCCESS; }
    return NOT_FOUND;
}
API nvmlDeviceGetHandleByPciBusId_v2(const char *address, Device *to) {
    CHECK_STARTED();
    load();
    /* Both 0000:01:00.0 and the library's own 00000000:01:00.0 */
    for (unsigned i = 0; i < count; i++)
        if (strlen(address) >= 12 && !strcmp(gpus[i].address, address + strlen(address) - 12)) {
            *to = &gpus[i];
            return gpus[i].lost ? GPU_IS_LOST : SUCCESS;
        }
    return NOT_FOUND;
}
API nvmlDeviceGetIndex(Device gpu, unsigned *to) { CHECK(gpu); *to = (unsigned)(gpu - gpus); return SUCCESS; }
API nvmlDeviceGetMinorNumber(Device gpu, unsigned *to) { return nvmlDeviceGetIndex(gpu, to); }
API nvmlDeviceGetName(Device gpu, char *to, unsigned length) { CHECK(gpu); return text(to, length, gpu->name); }
API nvmlDeviceGetUUID(Device gpu, char *to, unsigned length) { CHECK(gpu); return text(to, length, gpu->uuid); }
API nvmlDeviceGetCudaComputeCapability(Device gpu, int *major, int *minor) {
    CHECK(gpu);
    int both = (int)number(gpu->architecture + strlen("sm_"));
    *major = both / 10;
    *minor = both % 10;
    return SUCCESS;
}
API nvmlDeviceGetPciInfo_v3(Device gpu, Pci *to) {
    CHECK(gpu);
    char part[TEXT] = "0x";
    memset(to, 0, sizeof *to);
    memcpy(part + 2, gpu->address, 4);
    to->domain = (unsigned)number(part);
    strcpy(part + 2, gpu->address + 5);
    to->bus = (unsigned)number(part);
    strcpy(part + 2, gpu->address + 8);
    to->device = (unsigned)number(part);
    to->id = gpu->device << 16 | 0x10de;
    to->subsystem = 0x10de;
    snprintf(to->legacy, sizeof to->legacy, "%.12s", gpu->address);
    snprintf(to->bus_id, sizeof to->bus_id, "0000%.12s", gpu->address);
    for (char *c = to->bus_id; *c; c++) if (*c >= 'a' && *c <= 'f') *c -= 32;
    return SUCCESS;
}
API nvmlDeviceGetPciInfo_v2(Device gpu, Pci *to) { return nvmlDeviceGetPciInfo_v3(gpu, to); }
API nvmlDeviceGetMemoryInfo(Device gpu, Memory *to) {
    u64 mib = 0;
    CHECK(gpu);
    if (gpu->mute) return NOT_SUPPORTED;
    holders(gpu, "", NULL, 0, &mib);
    *to = (Memory){gpu->vram_mib << 20, (gpu->vram_mib - mib) << 20, mib << 20};
    return SUCCESS;
}
API nvmlDeviceGetMemoryInfo_v2(Device gpu, Memory2 *to) {
    Memory plain;
    if (to->version != (sizeof *to | 2u << 24)) return INVALID_ARGUMENT;
    int state = nvmlDeviceGetMemoryInfo(gpu, &plain);
    if (!state) *to = (Memory2){to->version, plain.total, 0, plain.free, plain.used};
    return state;
}

#define LISTS(kind, api) \
    API nvmlDeviceGet##kind##RunningProcesses(Device g, unsigned *n, Process1 *to) { return processes1(g, api, n, to); } \
    API nvmlDeviceGet##kind##RunningProcesses_v2(Device g, unsigned *n, Process2 *to) { return processes(g, api, n, to); } \
    API nvmlDeviceGet##kind##RunningProcesses_v3(Device g, unsigned *n, Process2 *to) { return processes(g, api, n, to); }
LISTS(Compute, "cuda")
LISTS(Graphics, "vulkan")
LISTS(MPSCompute, "mps")

API nvmlDeviceGetMigMode(Device gpu, unsigned *now, unsigned *pending) { CHECK(gpu); (void)now; (void)pending; return NOT_SUPPORTED; }
API nvmlDeviceGetMaxMigDeviceCount(Device gpu, unsigned *to) { CHECK(gpu); *to = 0; return SUCCESS; }
API nvmlDeviceGetMigDeviceHandleByIndex(Device gpu, unsigned n, Device *to) { CHECK(gpu); (void)n; (void)to; return NOT_SUPPORTED; }
API nvmlDeviceIsMigDeviceHandle(Device gpu, unsigned *to) { CHECK(gpu); *to = 0; return SUCCESS; }
