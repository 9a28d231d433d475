#include "controller/agent/plan/pipeline.h"

#include "common/base/check.h"
#include "common/mem/file.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the top of a file -------------------------------------------------------------------------------- */

/* {type: X} for the short form `name: X`. */
static const struct json *long_input(struct maker *m, const struct json *j)
{
    if (j->kind != JSON_STRING)
        return j;
    struct doc_node *object = arena_zalloc(m->arena, sizeof *object), *type = arena_zalloc(m->arena, sizeof *type);
    *object = *type = *(const struct doc_node *)(const void *)j;
    type->json.next = NULL;
    type->json.key = "type";
    type->json.key_len = 4;
    object->json.kind = JSON_OBJECT;
    object->json.n = 1;
    object->json.text = NULL;
    object->json.len = 0;
    object->json.child = &type->json;
    return &object->json;
}

static void read_input(struct maker *m, const struct json *j, struct pipeline_input *in)
{
    struct buf why = {0};

    in->name = j->key;
    in->description = "";
    if (!pipeline__is_id(j->key, j->key_len))
        pipeline__fault(m, j, "the name of an input has letters, digits, _ and -, at most %d", PIPELINE_ID_MAX);
    in->source = long_input(m, j);
    in->schema = pipeline__schema(m, in->source);
    if (in->source->kind != JSON_OBJECT)
        return;
    in->description = pipeline__text(m, in->source, "description", 4096, "");
    in->fallback = json_get(in->source, "default");
    if (in->fallback && in->schema && schema_check(in->schema, in->fallback, &why)) {
        why.data[strcspn(why.data, "\n")] = '\0';
        pipeline__fault(m, in->fallback, "the default does not fit: %s", why.data);
    }
    buf_release(&why);
}

static void read_inputs(struct maker *m, const struct json *j, struct pipeline *p)
{
    if (!j)
        return;
    if (j->kind != JSON_OBJECT || j->n > PIPELINE_INPUTS_MAX) {
        pipeline__fault(m, j, "inputs must be an object of at most %d inputs: name: {type: string}",
                        PIPELINE_INPUTS_MAX);
        return;
    }
    struct pipeline_input *list = arena_array(m->arena, j->n + 1, sizeof *list);
    for (const struct json *c = j->child; c; c = c->next)
        read_input(m, c, &list[p->n_input++]);
    p->input = list;
}

static void read_limits(struct maker *m, const struct json *j, struct pipeline *p)
{
    static const char *const keys[] = {"deadline_ms", "max_retries", "max_parallel"};

    if (j && !pipeline__object(m, j, "limits", keys, N_ELEM(keys)))
        j = NULL;
    p->deadline_ms = pipeline__int(m, j, "deadline_ms", 1, PIPELINE_MS_MAX, PIPELINE_DEADLINE_MS_DEFAULT);
    p->max_retries = pipeline__int(m, j, "max_retries", 0, PIPELINE_RETRIES_MAX, PIPELINE_RETRIES_DEFAULT);
    p->max_parallel = (int)pipeline__int(m, j, "max_parallel", 1, PIPELINE_PARALLEL_MAX, PIPELINE_PARALLEL_DEFAULT);
}

static void read_dir(struct maker *m, const struct json *root, struct pipeline *p)
{
    const char *dir = pipeline__text(m, root, "dir", 4096, "");
    struct buf path = {0};

    if (dir[0] != '/') {
        buf_add_str(&path, m->dir);
        if (dir[0] && (path.len == 0 || path.data[path.len - 1] != '/'))
            buf_add_char(&path, '/');
    }
    buf_add_str(&path, dir);
    if (path.len == 0 || !utf8_is_valid(path.data, path.len))
        pipeline__fault(m, root, "the path of the folder is empty or no UTF-8");
    p->dir = arena_dup(m->arena, path.data ? path.data : "", path.len);
    buf_release(&path);
}

static void read_root(struct maker *m, const struct json *root, struct pipeline *p)
{
    static const char *const keys[] = {"pipeline", "description", "dir", "env", "inputs", "limits", "steps", "result"};

    p->name = p->description = p->dir = "";
    if (!pipeline__object(m, root, "a pipeline", keys, N_ELEM(keys)))
        return;
    p->name = pipeline__text(m, root, "pipeline", PIPELINE_ID_MAX, "");
    if (!pipeline__is_id(p->name, strlen(p->name)))
        pipeline__fault(m, json_get(root, "pipeline"), "a pipeline needs a name (pipeline: NAME) of letters, digits, _ "
                        "and -, at most %d", PIPELINE_ID_MAX);
    p->description = pipeline__text(m, root, "description", 4096, "");
    read_dir(m, root, p);
    pipeline__env(m, json_get(root, "env"), NULL, 0, &p->env, &p->n_env);
    read_inputs(m, json_get(root, "inputs"), p);
    read_limits(m, json_get(root, "limits"), p);
    if (json_get(root, "steps"))
        pipeline__steps(m, json_get(root, "steps"), NULL, &p->steps);
    else
        pipeline__fault(m, NULL, "a pipeline needs steps");
    p->result = pipeline__template(m, json_get(root, "result"), 0, "");
    const struct pipeline_step **by_number = arena_array(m->arena, (size_t)m->n_step + 1, sizeof *by_number);
    for (int i = 0; i < m->n_step; i++)
        by_number[i] = m->step[i];
    p->by_number = by_number;
    p->n_step = m->n_step;
    pipeline__references(m);
}

/* The canonical text; it must be readable again, also when the file was just small enough. */
static int finish(struct plan *plan, struct err *why)
{
    const struct json *again;
    struct arena arena = {0};
    struct buf text = {0};
    int line;

    pipeline__write(&plan->pub, &text);
    plan->pub.canonical = arena_dup(&plan->arena, text.data, text.len);
    plan->pub.canonical_len = text.len;
    SHA256((const unsigned char *)text.data, text.len, plan->pub.hash);
    int rc = doc_parse(text.data, text.len, &arena, &again, &line, why);
    if (rc)
        err_wrap(why, "with all defaults written out");
    arena_release(&arena);
    buf_release(&text);
    return rc;
}

int pipeline_parse(const char *text, size_t len, const char *name, const char *dir, struct pipeline **out,
                   struct buf *report, struct err *err)
{
    struct plan *plan = mem_zalloc(sizeof *plan);
    struct maker *m = mem_zalloc(sizeof *m);
    const struct json *root = NULL;
    struct err why = {0};
    int line = 1, rc;

    *m = (struct maker){.plan = plan, .arena = &plan->arena, .file = name, .dir = dir, .report = report, .err = err};
    rc = doc_parse(text, len, &plan->arena, &root, &line, &why);
    if (rc == 0)
        read_root(m, root, &plan->pub);
    if (rc == 0 && m->n_fault == 0)
        rc = finish(plan, &why);
    if (rc) {
        struct err told;
        err_set(&told, rc, "%s%s%d: %s", name, name[0] ? ":" : "", line, why.text);
        if (report)
            buf_addf(report, "%s\n", told.text);
        if (err)
            *err = told;
    } else if (m->n_fault) {
        rc = ERR_FORMAT;
    }
    struct pipeline *p = &plan->pub;
    if (rc == 0)
        *out = p;
    else
        pipeline_destroy(&p);
    mem_free(m);
    return rc;
}

int pipeline_load(const char *path, struct pipeline **out, struct buf *report, struct err *err)
{
    struct buf text = {0};
    struct err why = {0};
    int rc = file_read(path, DOC_BYTES_MAX, &text, &why);
    char *real = rc == 0 ? realpath(path, NULL) : NULL;

    if (rc == 0 && !real)
        rc = err_set(&why, ERR_IO, "%s: its folder cannot be found", path);
    if (rc) {
        if (report)
            buf_addf(report, "%s\n", why.text);
        if (err)
            *err = why;
    } else {
        char *slash = strrchr(real, '/');
        slash[slash == real] = '\0'; /* "/" stays */
        rc = pipeline_parse(text.len ? text.data : "", text.len, path, real, out, report, err);
    }
    free(real);
    buf_release(&text);
    return rc;
}

void pipeline_destroy(struct pipeline **p)
{
    if (!*p)
        return;
    struct plan *plan = CONTAINER_OF(*p, struct plan, pub);
    for (int i = 0; i < plan->n_schema; i++)
        schema_destroy(&plan->schema[i]);
    mem_free(plan->schema);
    arena_release(&plan->arena);
    mem_free(plan);
    *p = NULL;
}

const char *pipeline_canonical(const struct pipeline *p, size_t *len)
{
    *len = p->canonical_len;
    return p->canonical;
}

const struct pipeline_step *pipeline_step(const struct pipeline *p, const char *id)
{
    for (int i = 0; i < p->n_step; i++)
        if (strcmp(p->by_number[i]->id, id) == 0)
            return p->by_number[i];
    return NULL;
}

/* ---- inputs of a run ---------------------------------------------------------------------------------- */

static const struct pipeline_input *find_input(const struct pipeline *p, const char *name)
{
    for (int i = 0; i < p->n_input; i++)
        if (strcmp(p->input[i].name, name) == 0)
            return &p->input[i];
    return NULL;
}

static int unknown_input(const struct pipeline *p, const char *name, int code, struct err *err)
{
    struct buf all = {0};

    for (int i = 0; i < p->n_input; i++)
        buf_addf(&all, "%s%s", i ? ", " : "", p->input[i].name);
    err_set(err, code, "pipeline %s has no input '%.64s'; it has %.300s", p->name, name, all.len ? all.data : "none");
    buf_release(&all);
    return code;
}

int pipeline_inputs(const struct pipeline *p, const struct json *given, struct arena *arena, const struct json **full,
                    struct err *err)
{
    struct jsonmake m;

    if (given && given->kind != JSON_OBJECT)
        return err_set(err, ERR_ARG, "the inputs must be an object, got %s", json_kind_name(given));
    for (const struct json *c = given ? given->child : NULL; c; c = c->next)
        if (strlen(c->key) != c->key_len || !find_input(p, c->key))
            return unknown_input(p, c->key, ERR_ARG, err);
    jsonmake_begin(&m, arena, JSON_OBJECT);
    for (int i = 0; i < p->n_input; i++) {
        const struct pipeline_input *in = &p->input[i];
        const struct json *v = json_get(given, in->name);
        struct buf why = {0};
        if (!v)
            v = in->fallback;
        if (!v)
            return err_set(err, ERR_ARG, "pipeline %s needs the input '%s'%s%.200s", p->name, in->name,
                           in->description[0] ? ": " : "", in->description);
        if (schema_check(in->schema, v, &why)) {
            why.data[strcspn(why.data, "\n")] = '\0';
            err_set(err, ERR_ARG, "input '%s' does not fit: %.300s", in->name, why.data);
            buf_release(&why);
            return ERR_ARG;
        }
        buf_release(&why);
        jsonmake_put(&m, in->name, v);
    }
    *full = jsonmake_end(&m);
    return 0;
}

int pipeline_input_text(const struct pipeline *p, const char *name, const char *text, size_t len, struct arena *arena,
                        const struct json **value, struct err *err)
{
    const struct pipeline_input *in = find_input(p, name);
    const struct json *made = NULL;
    struct err why = {0};

    if (!in)
        return unknown_input(p, name, ERR_MISSING, err);
    unsigned types = schema_root(in->schema)->types;
    if (!utf8_is_valid(text, len))
        return err_set(err, ERR_ARG, "input '%s' is no valid UTF-8", name);
    int rc = types == SCHEMA_string ? ERR_FORMAT : json_parse(text, len, 0, arena, &made, &why);
    if (rc && !(types & SCHEMA_string))
        return err_set(err, ERR_ARG, "input '%s' is no JSON: %.200s", name, why.text);
    *value = rc ? jsonmake_str(arena, text, len) : made;
    return 0;
}

/* ---- baton run --check -------------------------------------------------------------------------------- */

static void print_faults(const struct buf *report)
{
    struct buf out = {0};

    buf_add_str(&out, "{\"ok\":false,\"faults\":[");
    for (const char *p = report->data, *stop; p && (stop = strchr(p, '\n')); p = stop + 1) {
        buf_add_str(&out, p == report->data ? "" : ",");
        json_add_str(&out, p, (size_t)(stop - p));
    }
    buf_add_str(&out, "]}");
    puts(out.data);
    buf_release(&out);
}

static void print_good(const struct pipeline *p, const char *path, bool as_json)
{
    struct buf out = {0};

    if (!as_json) {
        printf("%s: good: pipeline %s, %d steps, %d inputs\n", path, p->name, p->n_step, p->n_input);
        return;
    }
    buf_add_str(&out, "{\"ok\":true,\"name\":");
    json_add_str(&out, p->name, strlen(p->name));
    buf_add_str(&out, ",\"hash\":\"");
    for (int i = 0; i < PIPELINE_HASH_BYTES; i++)
        buf_addf(&out, "%02x", p->hash[i]);
    buf_addf(&out, "\",\"steps\":%d,\"inputs\":{", p->n_step);
    for (int i = 0; i < p->n_input; i++) {
        buf_add_str(&out, i ? "," : "");
        json_add_str(&out, p->input[i].name, strlen(p->input[i].name));
        buf_add_char(&out, ':');
        json_add(&out, p->input[i].source);
    }
    buf_add_str(&out, "}}");
    puts(out.data);
    buf_release(&out);
}

int pipeline_check_file(const char *path, bool as_json)
{
    struct pipeline *p = NULL;
    struct buf report = {0};
    int rc = pipeline_load(path, &p, &report, NULL);

    if (rc == 0)
        print_good(p, path, as_json);
    else if (as_json)
        print_faults(&report);
    else
        fputs(report.data, stderr);
    pipeline_destroy(&p);
    buf_release(&report);
    return rc;
}
