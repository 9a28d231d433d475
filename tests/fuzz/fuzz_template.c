/* Any JSON as a template, rendered over a fixed scope: a value, or an error of one line. The first byte chooses whether
 * the rest is JSON or one string. */
#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"
#include "controller/agent/plan/template.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const char scope_text[] = "{\"inputs\":{\"n\":5,\"s\":\"a \xC3\xA9\",\"l\":[1,\"x\",null,{\"k\":2}],"
                                 "\"o\":{\"k\":[]}},"
                                 "\"item\":{\"k\":1.5},\"index\":3,\"step\":{\"output\":\"t\",\"state\":\"done\"}}";

static const struct json *get(void *arg, const char *root, const char *step)
{
    return json_get(arg, step ? "step" : root);
}

static int count_ref(void *arg, const struct json *where, const char *root, const char *const *name, int n,
                     bool optional)
{
    (void)name, (void)optional;
    ASSERT(where->kind == JSON_STRING && root[0] && n >= 0);
    ++*(int *)arg;
    return 0;
}

static void render(const struct json *value, struct arena *arena)
{
    const struct template *t;
    const struct json *root, *v, *where = NULL;
    struct buf text = {0};
    struct err err = {0};
    int n_ref = 0;

    int rc = json_parse(scope_text, sizeof scope_text - 1, 0, arena, &root, NULL);
    ASSERT(rc == 0);
    struct expr_scope scope = {.get = get, .arg = (void *)root};
    if (template_compile(value, arena, &t, &where, &err) != 0) {
        ASSERT(where && where->kind == JSON_STRING && err.text[0] && !strchr(err.text, '\n'));
        return;
    }
    template_refs(t, count_ref, &n_ref);
    ASSERT(n_ref == 0 || !template_is_literal(t));
    if (template_render(t, &scope, arena, &v, &err) != 0)
        ASSERT(err.text[0] && !strchr(err.text, '\n'));
    else
        json_add(&text, v);
    ASSERT(utf8_is_valid(text.data ? text.data : "", text.len));
    buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    struct arena arena = {0};
    const struct json *value = NULL;

    if (size < 1)
        return 0;
    if (data[0] & 1) {
        if (utf8_is_valid(text, size - 1))
            value = jsonmake_str(&arena, text, size - 1);
    } else if (json_parse(text, size - 1, 0, &arena, &value, NULL) != 0) {
        value = NULL;
    }
    if (value)
        render(value, &arena);
    arena_release(&arena);
    return 0;
}
