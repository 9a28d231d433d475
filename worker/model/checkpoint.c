#include "worker/model/checkpoint.h"

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "worker/model/file.h"
#include "worker/model/names.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"
#define SUFFIX ".safetensors"

/* A tensor and the shard it lies in. The tensor is first: mdl_ckpt_file gets back to the entry. */
struct entry {
    struct mdl_tensor tensor;
    uint32_t file_idx;
};

struct mdl_ckpt {
    char *dir;
    struct mdl_config cfg;
    struct arena arena;
    const char **file_name; /* sorted, without the directory */
    struct st_file **file;
    size_t n_file;
    struct entry *entry; /* sorted by official name */
    size_t n;
    uint64_t n_bytes;
};

/* ---- which files -------------------------------------------------------------------------------------- */

/* Names while they are collected; strings lie in the checkpoint's arena. */
struct names {
    const char **name;
    size_t n, cap;
};

static void names_add(struct names *list, const char *name)
{
    if (list->n == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 64;
        list->name = mem_realloc(list->name, list->cap * sizeof *list->name);
    }
    list->name[list->n++] = name;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void names_sort_unique(struct names *list)
{
    size_t n = 0;

    if (list->n == 0)
        return;
    qsort(list->name, list->n, sizeof *list->name, by_text);
    for (size_t i = 0; i < list->n; i++)
        if (n == 0 || strcmp(list->name[n - 1], list->name[i]) != 0)
            list->name[n++] = list->name[i];
    list->n = n;
}

static bool path_of(const char *dir, const char *name, char path[PATH_MAX], struct err *err)
{
    if (snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX)
        return true;
    err_set(err, ERR_ARG, "%.100s...: the path is too long", dir);
    return false;
}

/* The index file as a tree, or *root NULL when there is none. */
static int load_index(const char *dir, struct arena *tree, const struct json **root, struct err *err)
{
    char path[PATH_MAX];
    struct mdl__map map;
    struct err why = {0};

    *root = NULL;
    if (!path_of(dir, INDEX_NAME, path, err))
        return ERR_ARG;
    int rc = mdl__map_open(path, MDL_INDEX_MAX, &map, &why);
    if (rc == ERR_MISSING)
        return 0;
    if (!rc) {
        rc = json_parse(map.data ? map.data : "", map.n_bytes, JSON_NO_REPEATED_KEYS, tree, root, &why);
        mdl__map_close(&map);
    }
    if (!rc && !json_is(json_get(*root, "weight_map"), JSON_OBJECT))
        rc = err_set(&why, ERR_FORMAT, "'weight_map' is %s, an object of tensor names and files is needed",
                     json_kind_name(json_get(*root, "weight_map")));
    return rc ? err_set(err, rc, "%s: %s", path, why.text) : 0;
}

/* A shard's name comes from the index file: it must not lead out of the directory. */
static bool is_plain_name(const struct json *j)
{
    return json_is(j, JSON_STRING) && j->len > 0 && j->len <= NAME_MAX && j->text[0] != '.' &&
           !memchr(j->text, '/', j->len) && !memchr(j->text, 0, j->len);
}

static int names_from_index(const char *dir, const struct json *root, struct arena *arena, struct names *list,
                            struct err *err)
{
    const char *last = "";

    for (const struct json *j = json_get(root, "weight_map")->child; j; j = j->next) {
        if (!is_plain_name(j))
            return err_set(err, ERR_FORMAT,
                           "%s/" INDEX_NAME ": tensor '%.160s': '%.100s' is not the name of a file beside it", dir,
                           j->key, j->text ? j->text : json_kind_name(j));
        if (strcmp(last, j->text) == 0) /* most often the shard of the line before */
            continue;
        last = arena_strdup(arena, j->text);
        names_add(list, last);
    }
    names_sort_unique(list);
    if (list->n == 0)
        return err_set(err, ERR_FORMAT, "%s/" INDEX_NAME ": 'weight_map' names no tensor", dir);
    return 0;
}

/* Number and count of "model-00003-of-00046.safetensors", and how long "model-" is. False for other names. */
static bool parse_shard_name(const char *name, int *number, int *count, size_t *prefix_len)
{
    size_t n = strlen(name), n_tail = strlen("00001-of-00001" SUFFIX);

    if (n < n_tail || strcmp(name + n - strlen(SUFFIX), SUFFIX) != 0)
        return false;
    const char *tail = name + n - n_tail;
    for (int i = 0; i < 5; i++)
        if (tail[i] < '0' || tail[i] > '9' || tail[9 + i] < '0' || tail[9 + i] > '9')
            return false;
    if (memcmp(tail + 5, "-of-", 4) != 0)
        return false;
    *number = atoi(tail);
    *count = atoi(tail + 9);
    *prefix_len = n - n_tail;
    return true;
}

/* No index file: the numbered shards if there are any, all of them; else every safetensors file. */
static int pick_listed(const char *dir, struct names *list, struct err *err)
{
    const char *first = NULL;
    size_t n = 0, first_len = 0;
    int first_count = 0, want = 1;

    for (size_t i = 0; i < list->n; i++) {
        int number, count;
        size_t len;
        if (!parse_shard_name(list->name[i], &number, &count, &len))
            continue;
        if (!first) {
            first = list->name[i];
            first_len = len;
            first_count = count;
        }
        if (len != first_len || memcmp(first, list->name[i], len) != 0 || count != first_count)
            return err_set(err, ERR_FORMAT,
                           "%s/%s: belongs to another set of shards than %s; an index file "
                           "(" INDEX_NAME ") must say which to take",
                           dir, list->name[i], first);
        if (number != want)
            return err_set(err, ERR_MISSING, "%s/%.*s%05d-of-%05d" SUFFIX ": this shard is missing", dir, (int)len,
                           first, want, count);
        want++;
        list->name[n++] = list->name[i];
    }
    if (!first)
        return 0;
    list->n = n;
    if (want != first_count + 1)
        return err_set(err, ERR_MISSING, "%s/%.*s%05d-of-%05d" SUFFIX ": this shard is missing", dir, (int)first_len,
                       first, want, first_count);
    return 0;
}

static int names_from_dir(const char *dir, struct arena *arena, struct names *list, struct err *err)
{
    bool has_single = false;
    struct dirent *e;

    DIR *d = opendir(dir);
    if (!d)
        return err_set(err, ERR_IO, "%s: the directory cannot be read: %s", dir, strerror(errno));
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name);
        if (e->d_name[0] == '.' || n <= strlen(SUFFIX) || strcmp(e->d_name + n - strlen(SUFFIX), SUFFIX) != 0)
            continue;
        has_single = has_single || strcmp(e->d_name, SINGLE_NAME) == 0;
        if (list->n <= MDL_SHARDS_MAX)
            names_add(list, arena_strdup(arena, e->d_name));
    }
    closedir(d);
    if (has_single) {
        list->n = 0;
        names_add(list, SINGLE_NAME);
    }
    if (list->n == 0)
        return err_set(err, ERR_MISSING,
                       "%s: no checkpoint: config.json is there, but no " SINGLE_NAME ", no " INDEX_NAME
                       " and no other *.safetensors",
                       dir);
    names_sort_unique(list);
    return pick_listed(dir, list, err);
}

/* ---- tensors ------------------------------------------------------------------------------------------ */

static int by_name(const void *va, const void *vb)
{
    const struct entry *a = va, *b = vb;
    int c = strcmp(a->tensor.name, b->tensor.name);

    if (c == 0 && a->file_idx != b->file_idx) /* which of two is named in an error must not depend on qsort */
        c = a->file_idx < b->file_idx ? -1 : 1;
    return c;
}

static int open_files(struct mdl_ckpt *c, const struct names *list, struct err *err)
{
    char path[PATH_MAX];
    size_t n_tensor = 0;

    if (list->n > MDL_SHARDS_MAX)
        return err_set(err, ERR_LIMIT, "%s: more than %d shards", c->dir, MDL_SHARDS_MAX);
    c->file_name = arena_array(&c->arena, list->n, sizeof *c->file_name);
    c->file = arena_array(&c->arena, list->n, sizeof(struct st_file *));
    for (size_t i = 0; i < list->n; i++) {
        c->file_name[i] = list->name[i];
        if (!path_of(c->dir, list->name[i], path, err))
            return ERR_ARG;
        int rc = st_open(path, &c->file[i], err);
        if (rc)
            return rc;
        c->n_file++;
        n_tensor += st_n_tensor(c->file[i]);
        if (n_tensor > MDL_TENSORS_MAX)
            return err_set(err, ERR_LIMIT, "%s: the shards up to this one hold more than %d tensors", path,
                           MDL_TENSORS_MAX);
    }
    c->entry = arena_array(&c->arena, n_tensor + 1, sizeof *c->entry);
    return 0;
}

static int gather(struct mdl_ckpt *c, struct err *err)
{
    char name[MDL_NAME_MAX + 1];

    for (size_t f = 0; f < c->n_file; f++) {
        for (size_t i = 0; i < st_n_tensor(c->file[f]); i++) {
            const struct mdl_tensor *t = st_at(c->file[f], i);
            if (!mdl_name_official(t->name, name))
                return err_set(err, ERR_LIMIT, "%s/%s: tensor '%.160s': the name is too long", c->dir, c->file_name[f],
                               t->name);
            struct entry *e = &c->entry[c->n++];
            *e = (struct entry){*t, (uint32_t)f};
            e->tensor.name = strcmp(name, t->name) == 0 ? t->name : arena_strdup(&c->arena, name);
            c->n_bytes += t->n_bytes;
        }
    }
    qsort(c->entry, c->n, sizeof *c->entry, by_name);
    for (size_t i = 1; i < c->n; i++) {
        const struct entry *a = &c->entry[i - 1], *b = &c->entry[i];
        if (strcmp(a->tensor.name, b->tensor.name) != 0)
            continue;
        if (a->file_idx == b->file_idx)
            return err_set(err, ERR_FORMAT, "%s/%s: tensor '%.160s': is there twice, in two spellings", c->dir,
                           c->file_name[b->file_idx], b->tensor.name);
        return err_set(err, ERR_FORMAT, "%s/%s: tensor '%.160s': is in %s too", c->dir, c->file_name[b->file_idx],
                       b->tensor.name, c->file_name[a->file_idx]);
    }
    return 0;
}

/* Every tensor of the index lies in the shard that it names. */
static int check_index(const struct mdl_ckpt *c, const struct json *root, struct err *err)
{
    char name[MDL_NAME_MAX + 1];

    for (const struct json *j = json_get(root, "weight_map")->child; j; j = j->next) {
        const struct mdl_tensor *t = NULL;
        if (j->key_len <= MDL_NAME_MAX && !memchr(j->key, 0, j->key_len) && mdl_name_official(j->key, name))
            t = mdl_ckpt_find(c, name);
        if (!t)
            return err_set(err, ERR_MISSING, "%s/%s: tensor '%.160s': is not there, though " INDEX_NAME " says so",
                           c->dir, j->text, j->key);
        if (strcmp(mdl_ckpt_file(c, t), j->text) != 0)
            return err_set(err, ERR_FORMAT, "%s/" INDEX_NAME ": tensor '%.160s': said to be in %s, but is in %s",
                           c->dir, j->key, j->text, mdl_ckpt_file(c, t));
    }
    return 0;
}

/* ---- open, close, look up ------------------------------------------------------------------------------ */

static int check_dir(const char *dir, struct err *err)
{
    struct stat st;
    char path[PATH_MAX];

    if (stat(dir, &st) != 0)
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO,
                       "%s: %s; a directory with config.json and *.safetensors is needed", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_ARG, "%s: is not a directory; one with config.json and *.safetensors is needed", dir);
    if (!path_of(dir, "config.json", path, err))
        return ERR_ARG;
    if (stat(path, &st) != 0 && errno == ENOENT)
        return err_set(err, ERR_MISSING,
                       "%s: no checkpoint: config.json is missing; a directory with config.json and "
                       "*.safetensors is needed",
                       dir);
    return 0;
}

static int open_tensors(struct mdl_ckpt *c, struct err *err)
{
    struct arena tree = {0};
    struct names list = {0};
    const struct json *index;

    int rc = load_index(c->dir, &tree, &index, err);
    if (!rc)
        rc = index ? names_from_index(c->dir, index, &c->arena, &list, err)
                   : names_from_dir(c->dir, &c->arena, &list, err);
    if (!rc)
        rc = open_files(c, &list, err);
    if (!rc)
        rc = gather(c, err);
    if (!rc && index)
        rc = check_index(c, index, err);
    mem_free(list.name);
    arena_release(&tree);
    return rc;
}

int mdl_ckpt_open(const char *dir, struct mdl_ckpt **ckpt, struct err *err)
{
    int rc = check_dir(dir, err);
    if (rc)
        return rc;
    struct mdl_ckpt *c = mem_zalloc(sizeof *c);
    c->dir = mem_strdup(dir);
    rc = mdl_config_load(dir, &c->cfg, err);
    if (!rc)
        rc = open_tensors(c, err);
    if (rc) {
        mdl_ckpt_close(&c);
        return rc;
    }
    *ckpt = c;
    return 0;
}

void mdl_ckpt_close(struct mdl_ckpt **ckpt)
{
    struct mdl_ckpt *c = *ckpt;

    if (!c)
        return;
    for (size_t i = 0; i < c->n_file; i++)
        st_close(&c->file[i]);
    arena_release(&c->arena);
    mem_free(c->dir);
    mem_free(c);
    *ckpt = NULL;
}

const struct mdl_config *mdl_ckpt_config(const struct mdl_ckpt *ckpt)
{
    return &ckpt->cfg;
}

const struct mdl_tensor *mdl_ckpt_find(const struct mdl_ckpt *c, const char *name)
{
    size_t low = 0, high = c->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int k = strcmp(name, c->entry[mid].tensor.name);
        if (k == 0)
            return &c->entry[mid].tensor;
        if (k < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

size_t mdl_ckpt_n_tensor(const struct mdl_ckpt *ckpt)
{
    return ckpt->n;
}

const struct mdl_tensor *mdl_ckpt_at(const struct mdl_ckpt *ckpt, size_t i)
{
    ASSERT(i < ckpt->n);
    return &ckpt->entry[i].tensor;
}

uint64_t mdl_ckpt_bytes(const struct mdl_ckpt *ckpt)
{
    return ckpt->n_bytes;
}

const char *mdl_ckpt_dir(const struct mdl_ckpt *ckpt)
{
    return ckpt->dir;
}

const char *mdl_ckpt_file(const struct mdl_ckpt *ckpt, const struct mdl_tensor *t)
{
    const struct entry *e = CONTAINER_OF(t, const struct entry, tensor);
    ASSERT(e >= ckpt->entry && e < ckpt->entry + ckpt->n);
    return ckpt->file_name[e->file_idx];
}

size_t mdl_ckpt_n_file(const struct mdl_ckpt *ckpt)
{
    return ckpt->n_file;
}

/* ---- fingerprint -------------------------------------------------------------------------------------- */

/* Whose bytes are looked at: of the experts, which are nearly all of the tensors, one in EXPERT_SAMPLE; of the
 * others every one. Whole tensors up to SMALL bytes; of larger ones PIECE bytes at a place that the name decides. That
 * is one page each of 3,000 tensors of Flash; a page of all 69,000 would take minutes from a slow disk. */
enum { SMALL_BYTES = 4096, PIECE_BYTES = 256, EXPERT_SAMPLE = 64 };

static uint64_t mix_i64(uint64_t h, int64_t v)
{
    h ^= (uint64_t)v;
    h *= 0x9e3779b97f4a7c15u; /* odd, so nothing is lost; the shift brings the high bits down */
    return h ^ h >> 32;
}

static uint64_t mix_double(uint64_t h, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return mix_i64(h, (int64_t)bits);
}

/* What the engine computes with, value by value: the two forms of one config are equal here. */
static uint64_t mix_config(uint64_t h, const struct mdl_config *c)
{
    const int32_t ints[] = {
        c->vocab_size,
        c->hidden_size,
        c->num_hidden_layers,
        c->num_attention_heads,
        c->head_dim,
        c->qk_rope_head_dim,
        c->q_lora_rank,
        c->o_lora_rank,
        c->o_groups,
        c->sliding_window,
        c->index_n_heads,
        c->index_head_dim,
        c->index_topk,
        c->n_routed_experts,
        c->num_experts_per_tok,
        c->n_shared_experts,
        c->moe_intermediate_size,
        c->num_hash_layers,
        c->hc_mult,
        c->hc_sinkhorn_iters,
        c->max_position_embeddings,
        c->yarn.on,
    };
    const double doubles[] = {c->hc_eps,
                              c->rms_norm_eps,
                              c->routed_scaling_factor,
                              c->swiglu_limit,
                              c->rope_theta,
                              c->compress_rope_theta,
                              c->yarn.factor,
                              c->yarn.beta_fast,
                              c->yarn.beta_slow,
                              (double)c->yarn.original_max_position_embeddings};

    for (size_t i = 0; i < N_ELEM(ints); i++)
        h = mix_i64(h, ints[i]);
    for (size_t i = 0; i < N_ELEM(doubles); i++)
        h = mix_double(h, doubles[i]);
    for (int i = 0; i < c->num_hidden_layers; i++)
        h = mix_i64(h, c->layer_kind[i]);
    return h;
}

static uint64_t mix_tensor(uint64_t h, const struct mdl_tensor *t)
{
    h = fnv1a(h, t->name, strlen(t->name) + 1);
    h = fnv1a(h, mdl_dtype_name(t->dtype), strlen(mdl_dtype_name(t->dtype)) + 1);
    h = mix_i64(h, t->n_dim);
    for (int i = 0; i < t->n_dim; i++)
        h = mix_i64(h, t->dim[i]);
    uint64_t name_hash = fnv1a(FNV1A_START, t->name, strlen(t->name));
    name_hash ^= name_hash >> 32;
    if (strstr(t->name, ".experts.") && name_hash % EXPERT_SAMPLE != 0)
        return h;
    if (t->n_bytes <= SMALL_BYTES)
        return fnv1a(h, t->data, t->n_bytes);
    return fnv1a(h, (const char *)t->data + name_hash % (t->n_bytes - PIECE_BYTES), PIECE_BYTES);
}

uint64_t mdl_ckpt_fingerprint(const struct mdl_ckpt *ckpt)
{
    uint64_t h = mix_config(FNV1A_START, &ckpt->cfg);

    for (size_t i = 0; i < ckpt->n; i++)
        h = mix_tensor(h, &ckpt->entry[i].tensor);
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    return h ^ h >> 33;
}
