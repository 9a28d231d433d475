/* Runs a fuzz target without libFuzzer: fuzz_NAME CORPUS_FOLDER [SECONDS]
 * First every file of the corpus as it is, then, for so many seconds, mutations of them: the same ones each time, as
 * far as the time reaches. The input that is being run lies in ./fuzz_NAME.last, so that a crash can be run again:
 * put that file into the corpus. */
#include "common/base/clock.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { INPUTS_MAX = 4096, INPUT_BYTES_MAX = 64 << 10, EDITS_MAX = 8 };

static struct buf input[INPUTS_MAX];
static size_t n_input;

static uint64_t rng_state = 0x9e3779b97f4a7c15u;

static size_t below(size_t n) /* 0..n-1, n > 0 */
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (size_t)((rng_state >> 11) % n);
}

/* ---- the corpus --------------------------------------------------------------------------------------- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

/* All files in the order of their names: the order that readdir gives is the file system's. */
static int load(const char *folder)
{
    struct dirent **list;

    int n = scandir(folder, &list, is_visible, by_name);
    if (n < 0) {
        perror(folder);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name);
        free(list[i]);
        FILE *f = n_input < INPUTS_MAX ? fopen(path, "rb") : NULL;
        if (!f) {
            fprintf(stderr, "%s: cannot be read, or is one of more than %d\n", path, INPUTS_MAX);
            free(list);
            return -1;
        }
        struct buf *b = &input[n_input++];
        b->len = fread(buf_room(b, INPUT_BYTES_MAX), 1, INPUT_BYTES_MAX, f);
        fclose(f);
    }
    free(list);
    return 0;
}

/* ---- mutations ---------------------------------------------------------------------------------------- */

static void insert(struct buf *b, size_t at, const char *data, size_t n)
{
    if (b->len + n > INPUT_BYTES_MAX)
        return;
    buf_room(b, n);
    memmove(b->data + at + n, b->data + at, b->len - at);
    memcpy(b->data + at, data, n);
    b->len += n;
}

static void edit(struct buf *b)
{
    static const char *const words[] = {"0",
                                        "-1",
                                        "9223372036854775807",
                                        "18446744073709551616",
                                        "1e999",
                                        "null",
                                        "[",
                                        "]",
                                        "{",
                                        "}",
                                        "\"",
                                        ",",
                                        ":",
                                        "\\u0000",
                                        "\\ud800",
                                        "\xff",
                                        "true",
                                        "0.5",
                                        "[[",
                                        "{}"};
    static const unsigned char bytes[] = {0, 1, 7, 8, 0x20, 0x7f, 0x80, 0xff, '"', '\\', '{', '}', '[', ']', '0', '9'};
    size_t at = below(b->len + 1), n = b->len - at;
    char piece[256];

    switch (below(7)) {
    case 0: /* one bit */
        if (n)
            b->data[at] = (char)(b->data[at] ^ 1 << below(8));
        break;
    case 1: /* one byte */
        if (n)
            b->data[at] = (char)bytes[below(sizeof bytes)];
        break;
    case 2: /* a piece less */
        if (n) {
            size_t k = 1 + below(n < 32 ? n : 32);
            memmove(b->data + at, b->data + at + k, n - k);
            b->len -= k;
        }
        break;
    case 3: /* cut */
        if (below(4) == 0)
            b->len = at;
        break;
    case 4: { /* a word */
        const char *w = words[below(sizeof words / sizeof words[0])];
        insert(b, at, w, strlen(w));
        break;
    }
    case 5: /* a piece twice */
        if (n) {
            size_t k = 1 + below(n < sizeof piece ? n : sizeof piece);
            memcpy(piece, b->data + at, k);
            insert(b, below(b->len + 1), piece, k);
        }
        break;
    default: { /* a piece of another input */
        const struct buf *other = &input[below(n_input)];
        if (other->len) {
            size_t from = below(other->len), k = other->len - from;
            insert(b, at, other->data + from, k < sizeof piece ? k : 1 + below(sizeof piece));
        }
    }
    }
}

/* ---- running ------------------------------------------------------------------------------------------ */

static char *last; /* the input as it is run, in a shared mapping: it stays when the process dies */

static int open_last(const char *program, char path[4096])
{
    const char *slash = strrchr(program, '/');

    snprintf(path, 4096, "%s.last", slash ? slash + 1 : program);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, INPUT_BYTES_MAX) != 0) {
        perror(path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    last = mmap(NULL, INPUT_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (last == MAP_FAILED) {
        perror(path);
        close(fd);
        return -1;
    }
    return fd;
}

static void run(const struct buf *b, int fd)
{
    /* Memory of exactly that size, so that the address sanitizer sees one byte too many. */
    void *exact = malloc(b->len ? b->len : 1);

    if (!exact || ftruncate(fd, (off_t)b->len) != 0) {
        perror("fuzz replay");
        exit(1);
    }
    memcpy(last, b->data ? b->data : "", b->len);
    memcpy(exact, b->data ? b->data : "", b->len);
    LLVMFuzzerTestOneInput(exact, b->len);
    free(exact);
}

int main(int argc, char **argv)
{
    char path[4096];
    struct buf b = {0};
    size_t n_run = 0;

    if (argc < 2 || load(argv[1]) != 0 || n_input == 0) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER [SECONDS]; the folder must hold inputs\n", argv[0]);
        return 2;
    }
    int fd = open_last(argv[0], path);
    if (fd < 0)
        return 1;
    for (; n_run < n_input; n_run++)
        run(&input[n_run], fd);
    int64_t end = clock_mono_ns() + (int64_t)(1e9 * (argc > 2 ? atof(argv[2]) : 0));
    while (clock_mono_ns() < end) {
        const struct buf *seed = &input[below(n_input)];
        buf_clear(&b);
        buf_add(&b, seed->data, seed->len);
        for (size_t i = 1 + below(EDITS_MAX); i > 0; i--)
            edit(&b);
        run(&b, fd);
        n_run++;
    }
    printf("%zu inputs of the corpus, %zu runs\n", n_input, n_run);
    buf_release(&b);
    for (size_t i = 0; i < n_input; i++)
        buf_release(&input[i]);
    munmap(last, INPUT_BYTES_MAX);
    close(fd);
    unlink(path);
    return 0;
}
