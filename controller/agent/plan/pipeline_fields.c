/* Faults and the typed reading of members, for all files that make a plan. */
#include "common/base/check.h"
#include "common/base/flags.h"
#include "common/mem/mem.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- faults ------------------------------------------------------------------------------------------- */

static void note(struct maker *m, int line, const char *text)
{
    const char *colon = m->file[0] ? ":" : "";

    if (m->n_fault++ == 0)
        err_set(m->err, ERR_FORMAT, "%s%s%d: %s", m->file, colon, line, text);
    if (!m->report || m->n_fault > PIPELINE_FAULTS_MAX)
        return;
    struct err clean;
    err_set(&clean, ERR_FORMAT, "%s%s%d: %s", m->file, colon, line, text);
    buf_addf(m->report, "%s\n", clean.text);
}

void pipeline__fault(struct maker *m, const struct json *j, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    note(m, j ? doc_line(j) : 1, text);
}

void pipeline__fault_err(struct maker *m, const struct json *where, const struct json *j, const struct err *err)
{
    note(m, doc_line(where ? where : j), err->text);
}

const char *pipeline__near(struct maker *m, const char *given, const char *const *words, size_t n)
{
    const char *near = strlen(given) < 64 ? flags_nearest(given, words, n) : NULL;
    struct buf b = {0};

    if (!near)
        return "";
    buf_addf(&b, " (did you mean %s?)", near);
    const char *text = arena_dup(m->arena, b.data, b.len);
    buf_release(&b);
    return text;
}

/* ---- members ------------------------------------------------------------------------------------------ */

bool pipeline__object(struct maker *m, const struct json *j, const char *what, const char *const *keys, size_t n)
{
    if (!json_is(j, JSON_OBJECT)) {
        pipeline__fault(m, j, "%s must be an object (key: value), is %s", what, json_kind_name(j));
        return false;
    }
    for (const struct json *c = j->child; c; c = c->next) {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = strcmp(keys[i], c->key) == 0 && strlen(keys[i]) == c->key_len;
        if (!known)
            pipeline__fault(m, c, "%s has no key '%.64s'%s", what, c->key, pipeline__near(m, c->key, keys, n));
    }
    return true;
}

const char *pipeline__text(struct maker *m, const struct json *obj, const char *key, size_t len_max,
                           const char *fallback)
{
    const struct json *j = json_get(obj, key);

    if (!j)
        return fallback;
    if (j->kind != JSON_STRING || strlen(j->text) != j->len)
        pipeline__fault(m, j, "%s must be a text, is %s", key, j->kind == JSON_STRING ? "a text with a NUL in it"
                                                                                      : json_kind_name(j));
    else if (j->len > len_max)
        pipeline__fault(m, j, "%s has more than %zu bytes", key, len_max);
    else
        return j->text;
    return fallback;
}

int64_t pipeline__int(struct maker *m, const struct json *obj, const char *key, int64_t min, int64_t max,
                      int64_t fallback)
{
    const struct json *j = json_get(obj, key);
    int64_t v;

    if (!j)
        return fallback;
    if (!json_to_i64(j, &v))
        pipeline__fault(m, j, "%s must be a whole number, is %s", key,
                        j->kind == JSON_NUMBER ? j->text : json_kind_name(j));
    else if (v < min || v > max)
        pipeline__fault(m, j, "%s must be within %lld and %lld, is %lld", key, (long long)min, (long long)max,
                        (long long)v);
    else
        return v;
    return fallback;
}

bool pipeline__bool(struct maker *m, const struct json *obj, const char *key, bool fallback)
{
    const struct json *j = json_get(obj, key);

    if (!j)
        return fallback;
    if (json_is_bool(j))
        return j->kind == JSON_TRUE;
    pipeline__fault(m, j, "%s must be true or false, is %s", key, json_kind_name(j));
    return fallback;
}

int pipeline__choice(struct maker *m, const struct json *obj, const char *key, const char *const *choices, int n,
                     int fallback)
{
    const struct json *j = json_get(obj, key);
    struct buf all = {0};

    if (!j)
        return fallback;
    for (int i = 0; i < n; i++)
        if (json_is_str(j, choices[i]))
            return i;
    for (int i = 0; i < n; i++)
        buf_addf(&all, "%s%s", i ? i == n - 1 ? " or " : ", " : "", choices[i]);
    pipeline__fault(m, j, "%s must be %s", key, all.data);
    buf_release(&all);
    return fallback;
}

/* ---- templates, schemas, names ------------------------------------------------------------------------ */

const struct template *pipeline__template(struct maker *m, const struct json *j, unsigned kinds, const char *wanted)
{
    const struct template *t = NULL;
    const struct json *where = NULL;
    struct err why = {0};

    if (!j)
        return NULL;
    if (template_compile(j, m->arena, &t, &where, &why) != 0) {
        pipeline__fault_err(m, where, j, &why);
        return NULL;
    }
    bool is_open = j->kind == JSON_STRING && !template_is_literal(t);
    if (kinds && !is_open && !(kinds >> j->kind & 1)) {
        pipeline__fault(m, j, "%s must be %s, is %s", j->key ? j->key : "this", wanted, json_kind_name(j));
        return NULL;
    }
    return t;
}

const struct schema *pipeline__schema(struct maker *m, const struct json *j)
{
    const struct json *where = NULL;
    struct schema *s = NULL;
    struct plan *plan = m->plan;
    struct err why = {0};

    if (!j)
        return NULL;
    if (schema_parse(j, &s, &where, &why) != 0) {
        pipeline__fault_err(m, where, j, &why);
        return NULL;
    }
    if ((plan->n_schema & (plan->n_schema - 1)) == 0)
        plan->schema = mem_realloc(plan->schema, ((size_t)plan->n_schema * 2 + 1) * sizeof(struct schema *));
    plan->schema[plan->n_schema++] = s;
    return s;
}

bool pipeline__is_id(const char *s, size_t len)
{
    static const char letter[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";

    return len > 0 && len <= PIPELINE_ID_MAX && memchr(letter, s[0], sizeof letter - 1) &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789-") == len;
}

/* ---- env ---------------------------------------------------------------------------------------------- */

static size_t env_name_len(const struct json *j)
{
    size_t n = strspn(j->text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");

    return n > 0 && n <= PIPELINE_ID_MAX && (j->text[0] < '0' || j->text[0] > '9') && (j->text[n] == '=' || n == j->len)
               ? n
               : 0;
}

static void read_env(struct maker *m, const struct json *j, struct pipeline_env *e)
{
    size_t n = j->kind == JSON_STRING ? env_name_len(j) : 0;

    if (n == 0) {
        pipeline__fault(m, j, "an entry of env is \"NAME\" (passed on from the controller) or \"NAME=text\"");
        e->name = "";
        return;
    }
    e->name = arena_dup(m->arena, j->text, n);
    if (strncmp(e->name, "BATON_", 6) == 0)
        pipeline__fault(m, j, "names that begin with BATON_ are set by the controller");
    if (n == j->len)
        return;
    struct doc_node *value = arena_zalloc(m->arena, sizeof *value);
    *value = *(const struct doc_node *)(const void *)j;
    value->json.text = j->text + n + 1;
    value->json.len = j->len - n - 1;
    value->json.next = NULL;
    e->value = pipeline__template(m, &value->json, 1 << JSON_STRING, "a text");
}

void pipeline__env(struct maker *m, const struct json *j, const struct pipeline_env *base, int n_base,
                   const struct pipeline_env **env, int *n_env)
{
    if (j && j->kind != JSON_ARRAY) {
        pipeline__fault(m, j, "env must be a list of \"NAME\" or \"NAME=text\", is %s", json_kind_name(j));
        j = NULL;
    }
    if (j && j->n > PIPELINE_ENV_MAX) {
        pipeline__fault(m, j, "env has more than %d entries", PIPELINE_ENV_MAX);
        j = NULL;
    }
    struct pipeline_env *list = arena_array(m->arena, (size_t)n_base + (j ? j->n : 0) + 1, sizeof *list);
    int n = n_base;
    if (n_base)
        memcpy(list, base, (size_t)n_base * sizeof *list);
    for (const struct json *c = j ? j->child : NULL; c; c = c->next) {
        struct pipeline_env e = {0};
        int k = 0;
        read_env(m, c, &e);
        while (k < n && strcmp(list[k].name, e.name) != 0)
            k++;
        if (k < n && k >= n_base && e.name[0])
            pipeline__fault(m, c, "env has %s twice", e.name);
        list[k] = e; /* a tool's entry goes before the plan's of the same name */
        n += k == n;
    }
    *env = list;
    *n_env = n;
}
