/* Proves: `baton model info` counts every tensor once, by part and by dtype, in a table and in JSON that parses; a
 * folder that is no checkpoint is exit 1, wrong usage exit 2. */
#include "tests/unit/worker/model/build.h"

#include "common/base/check.h"
#include "common/text/json.h"
#include "tests/unit/test.h"
#include "worker/tool/info.h"

#include <string.h>
#include <unistd.h>

static int64_t get(const struct json *j, const char *a, const char *b)
{
    int64_t v = -1;
    const struct json *at = json_get(j, a);
    if (!json_to_i64(b ? json_get(at, b) : at, &v))
        fail_msg("no number %s.%s", a, b ? b : "");
    return v;
}

static void sum_is_all(const struct json *root, const char *what)
{
    int64_t n = 0, n_bytes = 0, v;

    for (const struct json *j = json_get(root, what)->child; j; j = j->next) {
        assert_true(json_to_i64(json_get(j, "tensors"), &v));
        n += v;
        assert_true(json_to_i64(json_get(j, "bytes"), &v));
        n_bytes += v;
    }
    assert_int_equal(n, get(root, "tensors", NULL));
    assert_int_equal(n_bytes, get(root, "bytes", NULL));
}

static void json_and_table_are_complete(void **state)
{
    struct build b;
    struct mdl_ckpt *c = NULL;
    struct mdl_weights w;
    struct buf out = {0};
    struct arena tree = {0};
    const struct json *root;
    struct err err;

    build_init(&b);
    build_write(&b, 3, NULL);
    assert_int_equal(mdl_ckpt_open(b.dir, &c, &err), 0);
    assert_int_equal(mdl_weights_bind(c, &w, &err), 0);
    wrk_info_json(c, &w, &out);
    if (json_parse(out.data, out.len, JSON_NO_REPEATED_KEYS, &tree, &root, &err) != 0)
        fail_msg("%s: %s", err.text, out.data);
    assert_int_equal(get(root, "tensors", NULL), b.n);
    assert_int_equal(get(root, "files", NULL), 3);
    sum_is_all(root, "by_part");
    sum_is_all(root, "by_dtype");
    assert_int_equal(get(json_get(root, "by_part"), "experts", "tensors"), 4 * BUILD_EXPERTS * 6);
    assert_int_equal(get(json_get(root, "by_part"), "shared", "tensors"), 4 * 6);
    assert_int_equal(get(json_get(root, "by_part"), "embedding", "bytes"), 16 * 128 * 2);
    assert_int_equal(get(json_get(root, "by_part"), "head", "bytes"), 16 * 128 * 2);
    assert_int_equal(get(json_get(root, "by_part"), "router", "tensors"), 4 * 2);
    assert_int_equal(get(json_get(root, "by_part"), "indexer", "tensors"), 7);
    assert_int_equal(get(json_get(root, "by_part"), "compressor", "tensors"), 8);
    assert_int_equal(get(json_get(root, "by_part"), "norms", "tensors"), 1 + 4 * 2);
    assert_int_equal(get(json_get(root, "by_part"), "hc", "tensors"), 3 + 4 * 6);
    assert_int_equal(get(json_get(root, "by_part"), "attention", "tensors"), 4 * 13);
    assert_null(json_get(json_get(root, "by_part"), "other"));
    assert_int_equal(get(root, "config", "hidden_size"), 128);
    assert_true(json_is_str(json_at(json_get(root, "layers"), 2), "csa"));
    assert_int_equal(json_get(root, "layers")->n, 4);
    assert_true(json_is_str(json_get(root, "expert_kind"), "fp4"));
    assert_int_equal(json_get(root, "fingerprint")->len, 16);
    double eps;
    assert_true(json_to_double(json_get(json_get(root, "config"), "hc_eps"), &eps));
    assert_float_equal(eps, 1e-6, 0);

    buf_clear(&out);
    wrk_info_table(c, &w, &out);
    assert_non_null(strstr(out.data, "4: 2 window, 1 CSA, 1 HCA (wwch); the first 1 route by token id"));
    assert_non_null(strstr(out.data, json_get(root, "fingerprint")->text));
    assert_non_null(strstr(out.data, "one MTP layer"));
    assert_non_null(strstr(out.data, "58.3 bytes per token"));
    buf_release(&out);
    arena_release(&tree);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

static void exit_statuses(void **state)
{
    struct build b;
    char name[] = "info", flag_json[] = "--json", flag_help[] = "--help", flag_bad[] = "--jsno";

    build_init(&b);
    build_write(&b, 1, NULL);
    char *dir[] = {name, b.dir, flag_json, NULL}, *bad[] = {name, b.dir, flag_bad, NULL},
         *help[] = {name, flag_help, NULL};
    assert_int_equal(wrk_tool_info(3, dir), 0);
    assert_int_equal(wrk_tool_info(3, bad), 2);
    assert_int_equal(wrk_tool_info(1, dir), 2);
    assert_int_equal(wrk_tool_info(2, help), 0);
    unlink(build_path(&b, "config.json"));
    assert_int_equal(wrk_tool_info(2, dir), 1);
    build_release(&b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_and_table_are_complete),
        cmocka_unit_test(exit_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
