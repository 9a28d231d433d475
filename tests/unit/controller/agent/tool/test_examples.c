/* Proves: the pipelines of deploy/examples are good, their canonical text is read back to the same, and their tools
 * do what the files say: one line a token on the board, a report that is whole, answers to whatever a model may ask.
 * How: the tools run as the steps would run them, with folders under /tmp. docs/pipelines.md is held against the
 * lists in the code. */
#include "common/base/check.h"
#include "common/mem/file.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/tool/tool.h"
#include "tests/unit/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The schema for editors takes the file too. */
static void check_format(const char *path)
{
    struct arena own = {0};
    struct schema *s = NULL;
    struct buf text = {0}, report = {0};
    const struct json *source, *doc;
    struct err err = {0};
    int line;

    assert_int_equal(file_read(BATON_SOURCE_DIR "/docs/pipeline.schema.json", 1 << 20, &text, &err), 0);
    assert_int_equal(json_parse(text.data, text.len, 0, &own, &source, &err), 0);
    assert_int_equal(schema_parse(source, &s, NULL, &err), 0);
    buf_clear(&text);
    assert_int_equal(file_read(path, 1 << 20, &text, &err), 0);
    assert_int_equal(doc_parse(text.data, text.len, &own, &doc, &line, &err), 0);
    if (schema_check(s, doc, &report))
        fail_msg("%s\n%s", path, report.data);
    schema_destroy(&s);
    buf_release(&text);
    buf_release(&report);
    arena_release(&own);
}

static struct pipeline *load(const char *name)
{
    struct pipeline *p = NULL, *again = NULL;
    struct err err = {0};
    char path[512];
    size_t len;

    snprintf(path, sizeof path, BATON_SOURCE_DIR "/deploy/examples/%s/%s.yaml", name, name);
    if (pipeline_load(path, &p, NULL, &err) != 0)
        fail_msg("%s", err.text);
    check_format(path);
    const char *text = pipeline_canonical(p, &len);
    if (pipeline_parse(text, len, "", "/", &again, NULL, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(again->canonical, text);
    pipeline_destroy(&again);
    return p;
}

/* ---- running a tool ----------------------------------------------------------------------------------- */

static struct arena arena;
static const struct json *root; /* of the scope */
static struct buf answer;
static int n_end;

static const struct json *get(void *arg, const char *name, const char *step)
{
    (void)arg;
    return json_get(step ? json_get(root, "steps") : root, step ? step : name);
}

static void on_end(void *arg, const struct tool_result *result)
{
    (void)arg;
    n_end++;
    buf_clear(&answer);
    if (result->ok)
        json_add(&answer, result->value);
    else
        buf_addf(&answer, "%s: %s", fault_name(result->fault), result->text);
}

static const char *run(const struct pipeline *p, const struct pipeline_tool *tool, const char *args, const char *token)
{
    struct expr_scope scope = {.get = get};
    struct tool_who who = {"run_1", "x", 1, token};
    const struct json *given = NULL;
    struct tool_runner *runner = NULL;
    struct tool_request req;
    struct err err = {0};
    uv_loop_t loop;

    if (args)
        assert_int_equal(json_parse(args, strlen(args), 0, &arena, &given, &err), 0);
    if (tool_request_make(&req, tool, &scope, p->dir, given, &who, &err) != 0)
        fail_msg("%s", err.text);
    n_end = 0;
    uv_loop_init(&loop);
    assert_int_equal(tool_runner_open(&runner, &loop, NULL, &err), 0);
    assert_int_equal(tool_start(runner, &req, on_end, NULL, NULL, &err), 0);
    while (n_end == 0)
        uv_run(&loop, UV_RUN_ONCE);
    tool_runner_close(&runner, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return answer.data;
}

static void set_scope(const char *fmt, const char *dir)
{
    struct buf text = {0};
    struct err err = {0};

    for (const char *p = fmt; *p; p++)
        if (*p == '@')
            buf_add_str(&text, dir);
        else
            buf_add_char(&text, *p);
    if (json_parse(text.data, text.len, 0, &arena, &root, &err) != 0)
        fail_msg("%s", err.text);
    buf_release(&text);
}

static void assert_file(const char *dir, const char *name, const char *want)
{
    struct buf text = {0};
    struct err err = {0};
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (file_read(path, 1 << 20, &text, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(text.data, want);
    unlink(path);
    buf_release(&text);
}

/* ---- the examples ------------------------------------------------------------------------------------- */

static void test_extract(void **state)
{
    char dir[] = "/tmp/examples_XXXXXX";
    struct pipeline *p = load("extract");

    (void)state;
    assert_non_null(mkdtemp(dir));
    set_scope("{\"file\":{\"path\":\"documents/A-17.txt\"},\"inputs\":{\"report\":\"@/r.json\"},"
              "\"steps\":{\"sum\":{\"output\":{\"total\":2642.4,\"name\":\"T\xC3\xBC" "r\"}}}}", dir);
    assert_non_null(strstr(run(p, &pipeline_step(p, "text")->u.tool, NULL, "t"), "Meyer Bakery"));
    assert_non_null(strstr(run(p, &pipeline_step(p, "save")->u.tool, NULL, "t"), "/r.json\"}"));
    run(p, &pipeline_step(p, "save")->u.tool, NULL, "t");
    assert_file(dir, "r.json", "{\n  \"total\": 2642.4,\n  \"name\": \"T\xC3\xBC" "r\"\n}\n");
    assert_int_equal(rmdir(dir), 0); /* no half file is left beside it */
    pipeline_destroy(&p);
    arena_release(&arena);
}

static void test_review(void **state)
{
    char dir[] = "/tmp/examples_XXXXXX", path[64];
    struct pipeline *p = load("review");
    const struct pipeline_tool *publish = &pipeline_step(p, "publish")->u.tool;

    (void)state;
    assert_non_null(mkdtemp(dir));
    set_scope("{\"inputs\":{\"board\":\"@/board\"},\"steps\":{\"draft\":{\"output\":\"Two $(lines)\\nof `text`\"}}}",
              dir);
    assert_string_equal(run(p, publish, NULL, "run_1/publish"), "{\"line\":1}");
    assert_string_equal(run(p, publish, NULL, "run_2/publish"), "{\"line\":2}");
    assert_string_equal(run(p, publish, NULL, "run_1/publish"),
                        "{\"line\":1}"); /* a second attempt: no second effect */
    assert_file(dir, "board",
                "[run_1/publish] \"Two $(lines)\\nof `text`\"\n[run_2/publish] \"Two $(lines)\\nof `text`\"\n");
    snprintf(path, sizeof path, "%s/board.lock", dir);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    pipeline_destroy(&p);
    arena_release(&arena);
}

static void test_agent(void **state)
{
    static const struct {
        int tool;
        const char *args, *want;
    } rows[] = {
        {0, "{}", "{\"notes\":[\"gent.txt\",\"lisbon.txt\",\"oslo.txt\"]}"},
        {1, "{\"name\":\"gent.txt\"}", "Two nights, 81.25 each"},
        {1, "{\"name\":\"../agent.yaml\"}", "there is no note"},
        {1, "{\"name\":\"-rf /\"}", "there is no note"},
        {2, "{\"expression\":\"(1 + 2) * -3 / 4\"}", "{\"value\":-2.25}"},
        {2, "{\"expression\":\"1 / 0\"}", "{\"error\":\"division by zero\"}"},
        {2, "{\"expression\":\"__import__('os').system('id')\"}", "only numbers"},
        {2, "{\"expression\":\"9 ** 9 ** 9\"}", "only numbers"},
        {2, "{\"expression\":\"1 +\"}", "error"},
    };
    struct pipeline *p = load("agent");
    const struct pipeline_agent *agent = &pipeline_step(p, "answer")->u.agent;

    (void)state;
    set_scope("{\"inputs\":{\"folder\":\"notes\",\"question\":\"?\"}}", "");
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        const char *said = run(p, &agent->tool[rows[i].tool], rows[i].args, "t");
        if (!strstr(said, rows[i].want))
            fail_msg("%s: %s", rows[i].args, said);
    }
    pipeline_destroy(&p);
    arena_release(&arena);
}

/* ---- the document ------------------------------------------------------------------------------------- */

static bool has_word(const char *text, const char *word)
{
    char quoted[3][80];

    snprintf(quoted[0], sizeof quoted[0], "`%s`", word);
    snprintf(quoted[1], sizeof quoted[1], "`%s(", word);
    snprintf(quoted[2], sizeof quoted[2], "## %s\n", word);
    return strstr(text, quoted[0]) || strstr(text, quoted[1]) || strstr(text, quoted[2]);
}

static void test_document(void **state)
{
    static const char *const words[] = {
#define X(name, n_min, n_max, text) #name,
        EXPR_FILTER_LIST(X)
#undef X
#define X(name, retryable, text) #name,
            FAULT_LIST(X)
#undef X
#define X(name) #name,
                PIPELINE_KIND_LIST(X)
#undef X
    };
    struct buf text = {0};
    struct err err = {0};
    int n_block = 0, n_whole = 0, line;

    (void)state;
    assert_int_equal(file_read(BATON_SOURCE_DIR "/docs/pipelines.md", 1 << 20, &text, &err), 0);
    for (size_t i = 0; i < N_ELEM(words); i++)
        if (!has_word(text.data, words[i]))
            fail_msg("docs/pipelines.md says nothing of %s", words[i]);
    for (const char *at = text.data; (at = strstr(at, "```yaml\n")); n_block++) {
        at += strlen("```yaml\n");
        size_t len = (size_t)(strstr(at, "```") - at);
        const struct json *doc;
        struct pipeline *p = NULL;
        if (doc_parse(at, len, &arena, &doc, &line, &err) != 0)
            fail_msg("example %d, line %d: %s", n_block, line, err.text);
        if (!json_get(doc, "pipeline"))
            continue;
        n_whole++;
        if (pipeline_parse(at, len, "docs/pipelines.md", "/", &p, NULL, &err) != 0)
            fail_msg("%s", err.text);
        pipeline_destroy(&p);
    }
    assert_true(n_block >= 10 && n_whole >= 1);
    buf_release(&text);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extract),
        cmocka_unit_test(test_review),
        cmocka_unit_test(test_agent),
        cmocka_unit_test(test_document),
    };

    signal(SIGPIPE, SIG_IGN);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    buf_release(&answer);
    return rc;
}
