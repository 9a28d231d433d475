#include "tests/golden/golden.h"

#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "common/text/json.h"
#include "kernels/include/ops.h"

#include <stdio.h>
#include <string.h>

static void read_tokens(struct golden *g, const char *path)
{
    struct buf text = {0};
    struct arena arena = {0};
    const struct json *root = NULL;
    struct err err = {0};
    FILE *f = fopen(path, "rb");
    size_t n;

    assert_non_null(f);
    while ((n = fread(buf_room(&text, 4096), 1, 4096, f)) > 0)
        text.len += n;
    fclose(f);
    assert_int_equal(json_parse(text.data, text.len, 0, &arena, &root, &err), 0);
    const struct json *list = json_get(root, "prompt");
    assert_true(json_is(list, JSON_ARRAY));
    g->prompt = mem_array(list->n, sizeof *g->prompt);
    for (const struct json *j = list->child; j; j = j->next) {
        int64_t v = -1;
        assert_true(json_to_i64(j, &v));
        g->prompt[g->n_prompt++] = (int32_t)v;
    }
    arena_release(&arena);
    buf_release(&text);
}

void golden_open(struct golden *g, const char *name)
{
    char path[1024];
    struct err err = {0};

    *g = (struct golden){.name = name};
    snprintf(g->dir, sizeof g->dir, "%s/golden/%s", BATON_BINARY_DIR, name);
    snprintf(path, sizeof path, "%s/%s/golden.safetensors", TEST_DATA("golden"), name);
    if (st_open(path, &g->file, &err))
        fail_msg("%s", err.text);
    snprintf(path, sizeof path, "%s/%s/tokens.json", TEST_DATA("golden"), name);
    read_tokens(g, path);
    const struct mdl_tensor *p = golden_get(g, MDL_I32, "positions");
    g->n_position = (int32_t)p->dim[0];
    g->position = p->data;
}

void golden_close(struct golden *g)
{
    st_close(&g->file);
    mem_free(g->prompt);
}

const struct mdl_tensor *golden_find(const struct golden *g, const char *fmt, ...)
{
    char name[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return st_find(g->file, name);
}

const struct mdl_tensor *golden_get(const struct golden *g, enum mdl_dtype dtype, const char *fmt, ...)
{
    char name[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    const struct mdl_tensor *t = st_find(g->file, name);
    if (!t)
        fail_msg("%s has no tensor %s", g->name, name);
    if (t->dtype != dtype)
        fail_msg("%s: tensor %s is %s", g->name, name, mdl_dtype_name(t->dtype));
    return t;
}

int64_t golden_row(const struct mdl_tensor *t)
{
    int64_t n = 1;
    for (int i = 1; i < t->n_dim; i++)
        n *= t->dim[i];
    return n;
}

struct eng *golden_engine(const struct golden *g, const char *backend, int n_seq, int64_t n_tok, int step_max)
{
    return golden_engine_ranks(g, backend, 1, 0, n_seq, n_tok, step_max);
}

struct eng *golden_engine_ranks(const struct golden *g, const char *backend, int n_ranks, int n_threads, int n_seq,
                                int64_t n_tok, int step_max)
{
    struct eng *eng = NULL;
    struct err err = {0};
    struct eng_opts opts = {
        .model_dir = g->dir,
        .backend = backend,
        .n_ranks = n_ranks,
        .n_threads = n_threads,
        .n_seq_max = n_seq,
        .step_tok_max = step_max,
        .context_max = n_tok,
        .kv_tokens = (n_seq + n_ranks) * (n_tok + 128),
    };

    if (eng_open(&opts, &eng, &err))
        fail_msg("%s", err.text);
    return eng;
}

const char *const *golden_backends(void)
{
    static const char *const all[] = {"ref", "cpu", "cuda"};
    static const char *found[4];
    int n = 0;

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (kn_backend_find(all[i]))
            found[n++] = all[i];
        else
            print_message("back end %s is not built in: not tested\n", all[i]);
    found[n] = NULL;
    return found;
}

void golden_step(struct eng *eng, struct eng_seq *seq, const int32_t *tok, int n, float *logits, int n_logit)
{
    struct eng_item item = {.seq = seq, .tok = tok, .n_tok = n, .n_logit = n_logit, .logits = logits};
    struct eng_plan plan = {&item, 1};
    struct err err = {0};

    if (eng_seq_reserve(eng, seq, n, &err) || eng_step(eng, &plan, &err))
        fail_msg("%s", err.text);
}

void golden_prefill(struct eng *eng, struct eng_seq **seq, const int32_t *tok, int n, float *logits, int n_logit)
{
    struct err err = {0};

    if (eng_seq_open(eng, seq, &err))
        fail_msg("%s", err.text);
    golden_step(eng, *seq, tok, n, logits, n_logit);
}

int golden_argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}
