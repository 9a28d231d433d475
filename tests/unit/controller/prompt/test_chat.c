/* Proves: prompts of all three levels are those of the official program and of the rules around it: every line of
 * chat.jsonl as text and, through the real tokenizer, as ids without and with guards; lines with an error are
 * refused; and the two official pairs. The tokenizer is unpacked by the ctest fixture v4_tokenizer. */
#include "controller/prompt/chat.h"

#include "common/text/tok.h"
#include "tests/unit/common/text/vectors.h"

static struct tok *v4;

static int open_tokenizer(void **state)
{
    struct err err;
    (void)state;

    if (tok_open("v4_tokenizer", &v4, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tok_close(&v4);
    return 0;
}

static int render(const struct json *line, struct chat_prompt *out, struct chat_fault *fault)
{
    const struct json *level = json_get(line, "level"), *request = json_get(line, "request");
    enum chat_profile profile = json_is_str(json_get(line, "profile"), "preview") ? CHAT_PREVIEW : CHAT_0731;

    if (json_is_str(level, "encoder"))
        return chat_render_encoder(line, profile, out, fault);
    if (json_is_str(level, "api"))
        return chat_render_api(request, profile, out, fault);
    assert_true(json_is_str(level, "completion"));
    return chat_render_completion(request, out, fault);
}

static void check_ids(const char *name, const struct chat_prompt *p, bool guarded, struct tok_ids want)
{
    struct tok_ids got = {0};

    tok_encode(v4, p->text.data, p->text.len, guarded ? p->guard : NULL, guarded ? p->n_guard : 0, &got);
    for (size_t i = 0; i < got.n && i < want.n; i++)
        if (got.id[i] != want.id[i])
            fail_msg("%s: id %zu is %d, not %d (%s guards)", name, i, got.id[i], want.id[i],
                     guarded ? "with" : "without");
    assert_int_equal(got.n, want.n);
    tok_ids_release(&got);
}

static void check_text(const char *name, const struct buf *got, const char *want, size_t n)
{
    size_t same = 0;

    while (same < got->len && same < n && got->data[same] == want[same])
        same++;
    if (same < n || got->len != n)
        fail_msg("%s: at byte %zu the prompt goes on\n%s\ninstead of\n%s", name, same, got->data + same, want + same);
}

static void check_line(const struct json *line, struct arena *arena)
{
    const char *name = json_get(line, "id")->text;
    const struct json *prompt = json_get(line, "prompt"), *guarded = json_get(line, "ids_guarded");
    struct chat_prompt p;
    struct chat_fault fault = {0};

    int rc = render(line, &p, &fault);
    if (json_get(line, "error")) {
        if (rc != ERR_ARG || !fault.err.text[0] || !fault.param[0])
            fail_msg("%s: is not refused with a text and a place", name);
        assert_null(p.text.data);
        return;
    }
    if (rc)
        fail_msg("%s: %s: %s", name, fault.param, fault.err.text);
    check_text(name, &p.text, prompt->text, prompt->len);
    check_ids(name, &p, false, vec_ids(arena, json_get(line, "ids")));
    check_ids(name, &p, true, vec_ids(arena, guarded ? guarded : json_get(line, "ids")));
    static const char think[] = "<think>";
    bool ends = p.text.len >= sizeof think - 1 &&
                memcmp(p.text.data + p.text.len - (sizeof think - 1), think, sizeof think - 1) == 0;
    assert_int_equal(p.in_reasoning, ends);
    for (size_t i = 0; i < p.n_guard; i++)
        assert_true(p.guard[i].begin < p.guard[i].end && p.guard[i].end <= p.text.len &&
                    (i == 0 || p.guard[i].begin > p.guard[i - 1].end));
    chat_prompt_release(&p);
}

static void test_vectors(void **state)
{
    struct arena arena = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&arena, TEST_DATA("vectors/chat.jsonl"), &len);
    const struct json *line;
    (void)state;

    while ((line = vec_line(&arena, file, len, &at))) {
        check_line(line, &arena);
        n_line++;
    }
    assert_int_equal(n_line, 122);
    arena_release(&arena);
}

/* The files hold JSON over many lines; put them into the form of a line of level encoder. */
static void check_official(const char *in, const char *out, const char *thinking)
{
    struct arena arena = {0};
    struct buf text = {0};
    struct chat_prompt p;
    struct chat_fault fault = {0};
    struct err err;
    const struct json *input, *line;
    size_t n, n_want;

    const char *file = vec_file(&arena, in, &n);
    const char *want = vec_file(&arena, out, &n_want);
    assert_int_equal(json_parse(file, n, 0, &arena, &input, &err), 0);
    const struct json *messages = input->kind == JSON_ARRAY ? input : json_get(input, "messages");
    const struct json *tools = json_get(input, "tools");
    buf_addf(&text, "{\"thinking\":\"%s\",\"messages\":[", thinking);
    for (const struct json *m = messages->child; m; m = m->next) {
        size_t begin = text.len;
        json_add(&text, m);
        if (m == messages->child && tools) {
            assert_int_equal(text.data[begin], '{');
            text.len--; /* the closing brace */
            buf_add_str(&text, ",\"tools\":");
            json_add(&text, tools);
            buf_add_char(&text, '}');
        }
        buf_add_str(&text, m->next ? "," : "]}");
    }
    assert_int_equal(json_parse(text.data, text.len, 0, &arena, &line, &err), 0);
    for (int profile = CHAT_PREVIEW; profile <= CHAT_0731; profile++) {
        if (chat_render_encoder(line, profile, &p, &fault))
            fail_msg("%s: %s: %s", in, fault.param, fault.err.text);
        check_text(in, &p.text, want, n_want);
        chat_prompt_release(&p);
    }
    buf_release(&text);
    arena_release(&arena);
}

static void test_official(void **state)
{
    (void)state;
    check_official(TEST_DATA("vectors/official_chat/test_input_1.json"),
                   TEST_DATA("vectors/official_chat/test_output_1.txt"), "thinking");
    check_official(TEST_DATA("vectors/official_chat/test_input_4.json"),
                   TEST_DATA("vectors/official_chat/test_output_4.txt"), "chat");
}

static void test_completion_faults(void **state)
{
    static const char *const rows[][2] = {
        {"[]", ""},
        {"{}", "prompt"},
        {"{\"prompt\":1}", "prompt"},
        {"{\"prompt\":[\"a\"]}", "prompt"},
        {"{\"prompt\":\"a\",\"suffix\":1}", "suffix"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct arena arena = {0};
        struct chat_prompt p;
        struct chat_fault fault = {0};
        struct err err;
        const struct json *request;
        assert_int_equal(json_parse(rows[i][0], strlen(rows[i][0]), 0, &arena, &request, &err), 0);
        assert_int_equal(chat_render_completion(request, &p, &fault), ERR_ARG);
        assert_string_equal(fault.param, rows[i][1]);
        arena_release(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_official),
        cmocka_unit_test(test_completion_faults),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
