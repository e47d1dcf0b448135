/* memory_layer.c -- an OpenCL layer that counts memory and kernel objects: what a program takes, seen from outside it.
 *
 * The loader calls it for every function in front of the driver (OPENCL_LAYERS names the library). Buffers count with
 * their size, and shared virtual memory; a buffer over memory that was counted already does not count again. A buffer
 * over host memory that is a mapped file is counted apart. Whatever else is over host memory counts as the rest.
 * The places in the loader's table are those of the extension cl_loader_layers.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CREATE_KERNEL = 34, CREATE_BUFFER = 14, RELEASE_MEM = 18, MEM_INFO = 20, CREATE_IMAGE_2D = 15, CREATE_IMAGE_3D = 16,
       CREATE_IMAGE = 96, SVM_ALLOC = 126, SVM_FREE = 127, CREATE_BUFFER_WITH_PROPERTIES = 145, ENTRIES = 148 };
enum { USE_HOST_POINTER = 1 << 3, REFERENCE_COUNT = 0x1105, LAYER_API_VERSION = 0x4240, LAYER_NAME = 0x4241,
       MOST = 4096 };
enum { COUNTED, FILE_BACKED, COVERED };

typedef struct { void *handle; size_t bytes; int kind; } Entry;

static void *table[ENTRIES];
static void *const *driver;
static Entry entries[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t live, peak, mapped, calls, kernels;

size_t counted_live(void) { return live; }
size_t counted_peak(void) { return peak; }
size_t counted_mapped(void) { return mapped; }
size_t counted_calls(void) { return calls; }
size_t counted_kernels(void) { return kernels; }
void counted_reset(void) { peak = live; calls = kernels = 0; }

/* Whether an address lies in a file that is mapped. */
static int in_file(const void *address)
{
    unsigned long begin, end;
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && !found && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &begin, &end) == 2 && begin <= (uintptr_t)address && (uintptr_t)address < end)
            found = strchr(line, '/') && !strstr(line, "(deleted)");
    if (maps)
        fclose(maps);
    return found;
}

static void add(void *handle, size_t bytes, int kind)
{
    pthread_mutex_lock(&lock);
    calls++;
    for (Entry *e = entries; e < entries + MOST; e++)
        if (!e->handle) {
            *e = (Entry){handle, bytes, kind};
            break;
        }
    if (kind == COUNTED && (live += bytes) > peak)
        peak = live;
    if (kind == FILE_BACKED)
        mapped += bytes;
    pthread_mutex_unlock(&lock);
}

static void drop(void *handle)
{
    pthread_mutex_lock(&lock);
    for (Entry *e = entries; e < entries + MOST; e++)
        if (e->handle == handle) {
            live -= e->kind == COUNTED ? e->bytes : 0;
            mapped -= e->kind == FILE_BACKED ? e->bytes : 0;
            e->handle = NULL;
            break;
        }
    pthread_mutex_unlock(&lock);
}

/* Of a buffer over host memory: covered by shared virtual memory that counts already, a mapped file, or the rest. */
static int kind_of(const char *host)
{
    for (const Entry *e = entries; e < entries + MOST; e++)
        if (e->handle && (char *)e->handle <= host && host < (char *)e->handle + e->bytes)
            return COVERED;
    return in_file(host) ? FILE_BACKED : COUNTED;
}

static void *create_buffer(void *context, uint64_t flags, size_t size, void *host, int32_t *status)
{
    void *(*next)(void *, uint64_t, size_t, void *, int32_t *) = driver[CREATE_BUFFER];
    void *buffer = next(context, flags, size, host, status);
    if (buffer)
        add(buffer, size, flags & USE_HOST_POINTER ? kind_of(host) : COUNTED);
    return buffer;
}

static void *create_buffer_with(void *context, const void *properties, uint64_t flags, size_t size, void *host,
                                int32_t *status)
{
    void *(*next)(void *, const void *, uint64_t, size_t, void *, int32_t *) = driver[CREATE_BUFFER_WITH_PROPERTIES];
    void *buffer = next(context, properties, flags, size, host, status);
    if (buffer)
        add(buffer, size, flags & USE_HOST_POINTER ? kind_of(host) : COUNTED);
    return buffer;
}

static int32_t release(void *memory)
{
    int32_t (*info)(void *, uint32_t, size_t, void *, size_t *) = driver[MEM_INFO];
    int32_t (*next)(void *) = driver[RELEASE_MEM];
    uint32_t references = 0;
    info(memory, REFERENCE_COUNT, sizeof references, &references, NULL);
    if (references == 1)
        drop(memory);
    return next(memory);
}

static void *create_kernel(void *program, const char *name, int32_t *status)
{
    void *(*next)(void *, const char *, int32_t *) = driver[CREATE_KERNEL];
    pthread_mutex_lock(&lock);
    kernels++;
    pthread_mutex_unlock(&lock);
    return next(program, name, status);
}

static void *svm_alloc(void *context, uint64_t flags, size_t size, unsigned alignment)
{
    void *(*next)(void *, uint64_t, size_t, unsigned) = driver[SVM_ALLOC];
    void *memory = next(context, flags, size, alignment);
    if (memory)
        add(memory, size, COUNTED);
    return memory;
}

static void svm_free(void *context, void *memory)
{
    void (*next)(void *, void *) = driver[SVM_FREE];
    drop(memory);
    next(context, memory);
}

int32_t clGetLayerInfo(uint32_t name, size_t size, void *value, size_t *size_ret)
{
    static const uint32_t version = 100;
    static const char text[] = "memory counter";
    const void *content = name == LAYER_API_VERSION ? (const void *)&version : text;
    size_t needed = name == LAYER_API_VERSION ? sizeof version : sizeof text;
    if (name != LAYER_API_VERSION && name != LAYER_NAME)
        return -30;
    if (value && size >= needed)
        memcpy(value, content, needed);
    if (size_ret)
        *size_ret = needed;
    return 0;
}

int32_t clInitLayer(uint32_t count, void *const *target, uint32_t *count_ret, void *const **layer)
{
    driver = target;
    memcpy(table, target, sizeof(void *) * (count < ENTRIES ? count : ENTRIES));
    table[CREATE_KERNEL] = create_kernel;
    table[CREATE_BUFFER] = create_buffer;
    table[RELEASE_MEM] = release;
    table[SVM_ALLOC] = svm_alloc;
    table[SVM_FREE] = svm_free;
    if (count > CREATE_BUFFER_WITH_PROPERTIES)
        table[CREATE_BUFFER_WITH_PROPERTIES] = create_buffer_with;
    /* Nothing here uses images: should that change, they must not go uncounted. */
    table[CREATE_IMAGE_2D] = table[CREATE_IMAGE_3D] = table[CREATE_IMAGE] = NULL;
    *count_ret = ENTRIES;
    *layer = table;
    return 0;
}
