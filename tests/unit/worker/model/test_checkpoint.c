/* Proves: a directory opens as a checkpoint in each of its forms (one file, numbered shards with and without index)
 * and spellings, with the same tensors and the same fingerprint; every directory that is none is refused in one line
 * that says what is wrong where, and nothing stays open. Each hostile row starts from a good folder and breaks one
 * thing. */
#include "tests/unit/worker/model/build.h"

#include "common/base/check.h"
#include "tests/unit/test.h"
#include "worker/model/checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARD1 "model-00001-of-00003.safetensors"
#define SHARD2 "model-00002-of-00003.safetensors"
#define SHARD3 "model-00003-of-00003.safetensors"
#define INDEX "model.safetensors.index.json"

static int n_open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static struct mdl_ckpt *open_good(struct build *b)
{
    struct mdl_ckpt *c = NULL;
    struct err err;

    if (mdl_ckpt_open(b->dir, &c, &err) != 0)
        fail_msg("%s", err.text);
    return c;
}

/* ---- spellings ---------------------------------------------------------------------------------------- */

/* tensor_names.tsv, whose rows have official, model, hf and saved, is for names; here two are enough. */
static const char *with_prefix(struct build *b, const char *name)
{
    char text[MDL_NAME_MAX];
    snprintf(text, sizeof text, "model.%s", name);
    return strncmp(name, "mtp.", 4) == 0 ? name : arena_strdup(&b->arena, text);
}

static const char *with_hf_spelling(struct build *b, const char *name)
{
    char text[MDL_NAME_MAX];
    const char *at = strstr(name, ".attn.wq_a.weight");

    if (strcmp(name, "head.weight") == 0)
        return "lm_head.weight";
    if (strcmp(name, "embed.weight") == 0)
        return "model.embed_tokens.weight";
    if (!at || strncmp(name, "mtp.", 4) == 0)
        return name;
    snprintf(text, sizeof text, "model.%.*s.self_attn.q_a_proj.weight", (int)(at - name), name);
    return arena_strdup(&b->arena, text);
}

static void all_forms_have_one_fingerprint(void **state)
{
    static const struct {
        int n_shard;
        build_rename_fn rename;
        bool index;
    } forms[] = {{1, NULL, false},
                 {1, with_prefix, false},
                 {3, NULL, true},
                 {3, NULL, false},
                 {4, with_prefix, true},
                 {2, with_hf_spelling, true},
                 {2, with_hf_spelling, false}};
    uint64_t first = 0;

    for (size_t i = 0; i < N_ELEM(forms); i++) {
        struct build b;
        build_init(&b);
        build_write(&b, forms[i].n_shard, forms[i].rename);
        if (forms[i].n_shard > 1 && !forms[i].index)
            assert_int_equal(unlink(build_path(&b, INDEX)), 0);
        struct mdl_ckpt *c = open_good(&b);
        assert_int_equal(mdl_ckpt_n_tensor(c), b.n);
        assert_int_equal(mdl_ckpt_n_file(c), forms[i].n_shard);
        assert_string_equal(mdl_ckpt_dir(c), b.dir);
        uint64_t sum = 0;
        for (size_t k = 0; k < b.n; k++) {
            const struct mdl_tensor *t = mdl_ckpt_find(c, b.spec[k].name);
            assert_non_null(t);
            assert_int_equal(t->n_bytes, b.n_bytes[k]);
            assert_memory_equal(t->data, b.data[k], b.n_bytes[k]);
            assert_non_null(strstr(mdl_ckpt_file(c, t), ".safetensors"));
            sum += b.n_bytes[k];
        }
        assert_int_equal(mdl_ckpt_bytes(c), sum);
        for (size_t k = 1; k < b.n; k++)
            assert_true(strcmp(mdl_ckpt_at(c, k - 1)->name, mdl_ckpt_at(c, k)->name) < 0);
        assert_null(mdl_ckpt_find(c, "layers.0"));
        assert_null(mdl_ckpt_find(c, ""));
        assert_null(mdl_ckpt_find(c, "zzz"));
        if (i == 0)
            first = mdl_ckpt_fingerprint(c);
        assert_int_equal(mdl_ckpt_fingerprint(c), first);
        mdl_ckpt_close(&c);
        assert_null(c);
        mdl_ckpt_close(&c);
        build_release(&b);
    }
    (void)state;
}

static uint64_t fingerprint_of(struct build *b)
{
    build_write(b, 1, NULL);
    struct mdl_ckpt *c = open_good(b);
    uint64_t fp = mdl_ckpt_fingerprint(c);
    mdl_ckpt_close(&c);
    return fp;
}

static void what_differs_has_another_fingerprint(void **state)
{
    struct build b;

    build_init(&b);
    uint64_t first = fingerprint_of(&b);
    assert_int_equal(fingerprint_of(&b), first);
    build_config(&b, "eos_token_id", "2"); /* what the model computes does not depend on it */
    assert_int_equal(fingerprint_of(&b), first);
    build_config(&b, "routed_scaling_factor", "1.25");
    assert_int_not_equal(fingerprint_of(&b), first);
    build_config(&b, "routed_scaling_factor", "1.5");

    size_t i = build_find(&b, "layers.1.ffn.gate.bias"); /* small: every byte counts */
    b.data[i][11] ^= 1;
    assert_int_not_equal(fingerprint_of(&b), first);
    b.data[i][11] ^= 1;
    i = build_find(&b, "layers.1.attn.wq_b.weight"); /* large: a sample counts, wherever it is */
    for (size_t k = 0; k < b.n_bytes[i]; k++)
        b.data[i][k] ^= 1;
    assert_int_not_equal(fingerprint_of(&b), first);
    for (size_t k = 0; k < b.n_bytes[i]; k++)
        b.data[i][k] ^= 1;
    assert_int_equal(fingerprint_of(&b), first);
    build_drop(&b, "mtp.0.enorm.weight");
    assert_int_not_equal(fingerprint_of(&b), first);
    build_release(&b);
    (void)state;
}

/* Beside a model in one file or in numbered shards, other safetensors files are no part of it. */
static void other_files_are_left_alone(void **state)
{
    struct build b;

    build_init(&b);
    build_write(&b, 1, NULL);
    build_text(&b, "adapter.safetensors", "not even a safetensors file");
    struct mdl_ckpt *c = open_good(&b);
    assert_int_equal(mdl_ckpt_n_file(c), 1);
    mdl_ckpt_close(&c);
    build_release(&b);

    build_init(&b);
    build_write(&b, 3, NULL);
    build_text(&b, "golden.safetensors", "x");
    build_text(&b, "model-1-of-00003.safetensors", "x");
    assert_int_equal(unlink(build_path(&b, INDEX)), 0);
    c = open_good(&b);
    assert_int_equal(mdl_ckpt_n_file(c), 3);
    mdl_ckpt_close(&c);
    build_release(&b);

    build_init(&b);
    build_write(&b, 1, NULL);
    assert_int_equal(rename(build_path(&b, "model.safetensors"), build_path(&b, "weights.safetensors")), 0);
    c = open_good(&b);
    assert_int_equal(mdl_ckpt_n_file(c), 1);
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

/* ---- hostile folders ---------------------------------------------------------------------------------- */

static void drop_config(struct build *b)
{
    unlink(build_path(b, "config.json"));
}
static void break_config(struct build *b)
{
    build_text(b, "config.json", "{\"hidden_size\":");
}
static void config_is_folder(struct build *b)
{
    drop_config(b);
    mkdir(build_path(b, "config.json"), 0700);
}
static void config_is_pipe(struct build *b)
{
    drop_config(b);
    mkfifo(build_path(b, "config.json"), 0600);
}
static void drop_shard2(struct build *b)
{
    unlink(build_path(b, SHARD2));
}
static void drop_index(struct build *b)
{
    unlink(build_path(b, INDEX));
}
static void drop_shard_and_index(struct build *b)
{
    drop_shard2(b);
    drop_index(b);
}
static void drop_last_and_index(struct build *b)
{
    unlink(build_path(b, SHARD3));
    drop_index(b);
}
static void drop_all(struct build *b)
{
    drop_shard_and_index(b);
    unlink(build_path(b, SHARD1));
    unlink(build_path(b, SHARD3));
}
static void cut_shard2(struct build *b)
{
    struct stat st;
    assert_int_equal(stat(build_path(b, SHARD2), &st), 0);
    assert_int_equal(truncate(build_path(b, SHARD2), st.st_size - 1), 0);
}
static void empty_shard2(struct build *b)
{
    build_text(b, SHARD2, "");
}
static void lfs_pointer(struct build *b)
{
    build_text(b, SHARD2, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
}
static void shard_is_folder(struct build *b)
{
    drop_shard2(b);
    mkdir(build_path(b, SHARD2), 0700);
}
static void longer_shard2(struct build *b)
{
    struct stat st;
    assert_int_equal(stat(build_path(b, SHARD2), &st), 0);
    assert_int_equal(truncate(build_path(b, SHARD2), st.st_size + 5), 0);
}
static void two_sets(struct build *b)
{
    drop_index(b);
    build_text(b, "model-00001-of-00002.safetensors", "x");
}
static void shard_number_0(struct build *b)
{
    drop_index(b);
    build_text(b, "model-00000-of-00003.safetensors", "x");
}
static void same_shard_twice(struct build *b)
{
    /* Two shards with the same tensors: the second is a copy of the first. */
    drop_shard2(b);
    assert_int_equal(link(build_path(b, SHARD1), build_path(b, SHARD2)), 0);
    drop_index(b);
}
static void index_no_json(struct build *b)
{
    build_text(b, INDEX, "weight_map");
}
static void index_empty(struct build *b)
{
    build_text(b, INDEX, "");
}
static void index_array(struct build *b)
{
    build_text(b, INDEX, "[]");
}
static void index_no_map(struct build *b)
{
    build_text(b, INDEX, "{\"metadata\":{}}");
}
static void index_map_empty(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{}}");
}
static void index_value_number(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":3}}");
}
static void index_twice(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"" SHARD1 "\",\"norm.weight\":\"" SHARD1 "\"}}");
}
static void index_up(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"../../etc/passwd\"}}");
}
static void index_absolute(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"/etc/passwd\"}}");
}
static void index_dots(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"..\"}}");
}
static void index_nul(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"" SHARD1 "\\u0000x\"}}");
}
static void index_wrong_shard(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"" SHARD2 "\",\"embed.weight\":\"" SHARD1 "\"}}");
}
static void index_unknown_tensor(struct build *b)
{
    build_text(b, INDEX, "{\"weight_map\":{\"norm.weight\":\"" SHARD1 "\",\"more.weight\":\"" SHARD1 "\"}}");
}
static void index_is_pipe(struct build *b)
{
    drop_index(b);
    mkfifo(build_path(b, INDEX), 0600);
}
static void two_spellings(struct build *b)
{
    build_add(b, "model.norm.weight", MDL_BF16, 128, 0);
    build_write(b, 3, NULL);
}
static void two_shards_one_tensor(struct build *b)
{
    build_add(b, "norm.weight", MDL_BF16, 128, 0);
    b->shard[b->n - 1] = 1;
    build_write(b, 3, NULL);
    drop_index(b);
}
static void name_grows_too_long(struct build *b)
{
    char name[MDL_NAME_MAX + 1];
    memset(name, 'a', MDL_NAME_MAX);
    strcpy(name + MDL_NAME_MAX - 6, ".sinks");
    build_add(b, name, MDL_BF16, 1, 0);
    build_write(b, 3, NULL);
}

static const struct row {
    const char *what;
    void (*break_it)(struct build *b);
    int code;
    const char *say[3];
} rows[] = {
    {"no config", drop_config, ERR_MISSING, {"no checkpoint", "config.json is missing", "*.safetensors is needed"}},
    {"broken config", break_config, ERR_FORMAT, {"/config.json: JSON line 1"}},
    {"config is a folder", config_is_folder, ERR_FORMAT, {"/config.json: is not a regular file"}},
    {"config is a pipe", config_is_pipe, ERR_FORMAT, {"/config.json: is not a regular file"}},
    {"missing shard, index", drop_shard2, ERR_MISSING, {"/" SHARD2 ": cannot be opened", "No such file"}},
    {"missing shard, no index", drop_shard_and_index, ERR_MISSING, {"/" SHARD2 ": this shard is missing"}},
    {"missing last shard", drop_last_and_index, ERR_MISSING, {"/" SHARD3 ": this shard is missing"}},
    {"only a config", drop_all, ERR_MISSING, {"no checkpoint", "no model.safetensors"}},
    {"cut shard", cut_shard2, ERR_FORMAT, {"/" SHARD2 ": tensor '", "cut short"}},
    {"empty shard", empty_shard2, ERR_FORMAT, {"/" SHARD2 ": has 0 bytes"}},
    {"LFS pointer", lfs_pointer, ERR_FORMAT, {"/" SHARD2 ": header is said to have", "no safetensors file"}},
    {"shard is a folder", shard_is_folder, ERR_FORMAT, {"/" SHARD2 ": is not a regular file"}},
    {"bytes behind", longer_shard2, ERR_FORMAT, {"/" SHARD2 ": 5 bytes behind the last tensor"}},
    {"two sets of shards", two_sets, ERR_FORMAT, {"belongs to another set of shards"}},
    {"shard 0", shard_number_0, ERR_MISSING, {SHARD1 ": this shard is missing"}},
    {"a shard twice", same_shard_twice, ERR_FORMAT, {"/" SHARD2 ": tensor '", "is in " SHARD1 " too"}},
    {"index no JSON", index_no_json, ERR_FORMAT, {"/" INDEX ": JSON line 1"}},
    {"index empty", index_empty, ERR_FORMAT, {"/" INDEX ": JSON line 1"}},
    {"index array", index_array, ERR_FORMAT, {"/" INDEX ": 'weight_map' is nothing"}},
    {"index without map", index_no_map, ERR_FORMAT, {"/" INDEX ": 'weight_map' is nothing"}},
    {"index with empty map", index_map_empty, ERR_FORMAT, {"/" INDEX ": 'weight_map' names no tensor"}},
    {"index value is a number",
     index_value_number,
     ERR_FORMAT,
     {"/" INDEX ": tensor 'norm.weight'", "not the name of a file"}},
    {"index key twice", index_twice, ERR_FORMAT, {"/" INDEX, "'norm.weight' appears twice"}},
    {"index leads up", index_up, ERR_FORMAT, {"/" INDEX ": tensor 'norm.weight': '../../etc/passwd' is not the name"}},
    {"index is absolute",
     index_absolute,
     ERR_FORMAT,
     {"/" INDEX ": tensor 'norm.weight': '/etc/passwd' is not the name"}},
    {"index dots", index_dots, ERR_FORMAT, {"/" INDEX ": tensor 'norm.weight': '..' is not the name"}},
    {"index NUL", index_nul, ERR_FORMAT, {"/" INDEX ": tensor 'norm.weight'", "not the name of a file"}},
    {"index wrong shard",
     index_wrong_shard,
     ERR_FORMAT,
     {"/" INDEX ": tensor 'norm.weight'", "said to be in " SHARD2 ", but is in " SHARD1}},
    {"index unknown tensor", index_unknown_tensor, ERR_MISSING, {"/" SHARD1 ": tensor 'more.weight': is not there"}},
    {"index is a pipe", index_is_pipe, ERR_FORMAT, {"/" INDEX ": is not a regular file"}},
    {"two spellings",
     two_spellings,
     ERR_FORMAT,
     {"/" SHARD1 ": tensor 'norm.weight': is there twice, in two spellings"}},
    {"two shards", two_shards_one_tensor, ERR_FORMAT, {"/" SHARD2 ": tensor 'norm.weight': is in " SHARD1 " too"}},
    {"long name", name_grows_too_long, ERR_LIMIT, {"/" SHARD1 ": tensor 'aaaa", "too long"}},
};

static void hostile_folders_are_refused(void **state)
{
    int n_fd = n_open_files();

    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct build b;
        struct mdl_ckpt *c = NULL;
        struct err err = {0};

        build_init(&b);
        build_write(&b, 3, NULL);
        rows[i].break_it(&b);
        int rc = mdl_ckpt_open(b.dir, &c, &err);
        if (rc != rows[i].code || strncmp(err.text, b.dir, strlen(b.dir)) != 0 || strchr(err.text, '\n'))
            fail_msg("%s: code %s, text %s", rows[i].what, err_name(rc), err.text);
        for (int k = 0; k < 3 && rows[i].say[k]; k++)
            if (!strstr(err.text, rows[i].say[k]))
                fail_msg("%s: '%s' is not in: %s", rows[i].what, rows[i].say[k], err.text);
        assert_null(c);
        build_release(&b);
    }
    assert_int_equal(n_open_files(), n_fd);
    (void)state;
}

static void what_is_no_folder_is_refused(void **state)
{
    struct build b;
    struct mdl_ckpt *c = NULL;
    struct err err;
    char longer[5000];

    build_init(&b);
    assert_int_equal(mdl_ckpt_open(build_path(&b, "none"), &c, &err), ERR_MISSING);
    assert_non_null(strstr(err.text, "/none: No such file"));
    assert_non_null(strstr(err.text, "config.json and *.safetensors"));
    build_text(&b, "file", "x");
    assert_int_equal(mdl_ckpt_open(build_path(&b, "file"), &c, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "/file: is not a directory"));
    assert_int_equal(mdl_ckpt_open("", &c, &err), ERR_MISSING);
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(mdl_ckpt_open(longer, &c, &err), ERR_IO);
    assert_null(c);
    build_release(&b);
    (void)state;
}

/* A file of 64 GiB, nearly all of it a hole in the file system, opens at once: nothing of it is read or copied. */
static void a_huge_file_costs_nothing(void **state)
{
    static const char header[] =
        "{\"a\":{\"dtype\":\"BF16\",\"shape\":[32768,1048576],\"data_offsets\":[0,68719476736]}}";
    struct build b;
    char head[8 + sizeof header] = {(char)(sizeof header - 1)};

    build_init(&b);
    build_file(&b, "config.json", b.config.data, b.config.len);
    memcpy(head + 8, header, sizeof header - 1);
    build_file(&b, "model.safetensors", head, 8 + sizeof header - 1);
    if (truncate(build_path(&b, "model.safetensors"), (off_t)(8 + sizeof header - 1 + 68719476736)) != 0) {
        print_message("skipped: the file system of the temporary folder has no files of 64 GiB\n");
    } else {
        struct mdl_ckpt *c = open_good(&b);
        assert_int_equal(mdl_ckpt_bytes(c), 68719476736);
        assert_int_not_equal(mdl_ckpt_fingerprint(c), 0);
        mdl_ckpt_close(&c);
    }
    build_release(&b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_forms_have_one_fingerprint), cmocka_unit_test(what_differs_has_another_fingerprint),
        cmocka_unit_test(other_files_are_left_alone),     cmocka_unit_test(hostile_folders_are_refused),
        cmocka_unit_test(what_is_no_folder_is_refused),   cmocka_unit_test(a_huge_file_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
