/* Proves: a file becomes the plan that it says; the canonical text is read back to the same plan; every kind of
 * mistake is found before anything runs, with its line and a reason; inputs are checked. How: one file with
 * everything in it, and rows of small broken files with the line that must be named. */
#include "controller/agent/plan/pipeline.h"
#include "common/base/check.h"
#include "common/mem/file.h"
#include "controller/agent/plan/doc.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char full[] =
    "pipeline: all\n"
    "description: One of everything\n"
    "dir: work\n"
    "env: [HOME, 'LANG=C', 'WHO={{ inputs.name }}']\n"
    "inputs:\n"
    "  name: string\n"
    "  n: {type: integer, default: 3, minimum: 1, description: how many}\n"
    "  any: {default: {a: [1]}}\n"
    "limits: {deadline_ms: 60000, max_retries: 7, max_parallel: 3}\n"
    "steps:\n"
    "  - id: list\n"
    "    tool: {command: [ls, -1, '{{ inputs.name }}', 3, true], stdin: {a: '{{ inputs.n }}'}, dir: '{{ inputs.name "
    "}}',\n"
    "      env: [LANG, 'X=1'], exit_codes: {ok: [0, 1], retry: [2]}, returns: text, max_output_bytes: 10}\n"
    "    timeout_ms: 500\n"
    "    retry: {max: 5, base_ms: 1, max_ms: 10, on: [tool, timeout]}\n"
    "    on_error: continue\n"
    "  - id: ask\n"
    "    when: inputs.n > 1 and steps.list.state == 'done'\n"
    "    generate:\n"
    "      system: s\n"
    "      prompt: '{{ steps.list.output | default(\"\") }}'\n"
    "      max_tokens: 5\n"
    "      temperature: 0.5\n"
    "      thinking: true\n"
    "    output: {type: object, properties: {rows: {type: array}}, additionalProperties: false}\n"
    "    repair: 4\n"
    "  - id: each\n"
    "    map:\n"
    "      over: '{{ steps.ask.output.rows }}'\n"
    "      as: row\n"
    "      max_parallel: 2\n"
    "      steps:\n"
    "        - id: post\n"
    "          tool:\n"
    "            http: {url: 'https://h/{{ row.id }}', headers: {A: 'b {{ env.HOME }}'}, body: {x: '{{ index }}'}, "
    "max_redirects: 1}\n"
    "            statuses: {ok: [404], retry: [409]}\n"
    "        - id: deep\n"
    "          map: {files: '{{ row }}/*', steps: [{id: inner, join: ['{{ row }}', '{{ item.path }}', '{{ "
    "steps.post.output }}']}]}\n"
    "      result: {id: '{{ row.id }}', out: '{{ steps.deep.output }}'}\n"
    "  - id: pause\n"
    "    wait: {ms: 100}\n"
    "    needs: [list]\n"
    "  - id: approve\n"
    "    needs: [each, pause]\n"
    "    wait: {approval: 'Go on?', show: '{{ steps.each.output }}', on_reject: continue}\n"
    "    timeout_ms: 1000\n"
    "  - id: loop\n"
    "    agent:\n"
    "      messages: [{role: user, content: hi}]\n"
    "      tools:\n"
    "        - {name: look, description: d, parameters: {type: object}, command: [cat, '{{ args.f }}'], timeout_ms: "
    "9}\n"
    "        - {name: get, parameters: {type: object}, http: {url: 'http://h/{{ args.q }}'}}\n"
    "      max_turns: 3\n"
    "  - id: sum\n"
    "    join: {n: '{{ steps.each.output | length }}', ok: '{{ steps.approve.output.approved }}'}\n"
    "result: '{{ steps.sum.output }}'\n";

static struct pipeline *parse(const char *text)
{
    struct pipeline *p = NULL;
    struct buf report = {0};
    struct err err = {0};

    if (pipeline_parse(text, strlen(text), "f.yaml", "/base", &p, &report, &err) != 0)
        fail_msg("%s", report.data);
    assert_null(report.data);
    return p;
}

static void test_plan(void **state)
{
    struct pipeline *p = parse(full);
    const struct pipeline_step *s;

    (void)state;
    assert_string_equal(p->name, "all");
    assert_string_equal(p->dir, "/base/work");
    assert_int_equal(p->n_input, 3);
    assert_null(p->input[0].fallback);
    assert_true(json_is(p->input[1].fallback, JSON_NUMBER));
    assert_int_equal(p->deadline_ms, 60000);
    assert_int_equal(p->max_parallel, 3);
    assert_int_equal(p->n_step, 10);
    assert_int_equal(p->steps.n, 7);
    s = pipeline_step(p, "list");
    assert_int_equal(s->kind, PIPELINE_tool);
    assert_int_equal(s->n_need, 0);
    assert_int_equal(s->u.tool.n_env, 4); /* HOME LANG WHO X */
    assert_null(s->u.tool.env[1].value);  /* LANG: the tool's own entry */
    assert_int_equal(s->u.tool.timeout_ms, 500);
    assert_int_equal(s->retry.max, 5);
    assert_int_equal(s->retry.on, 1 << FAULT_tool | 1 << FAULT_timeout);
    assert_true(s->on_error_continue);
    assert_int_equal(s->u.tool.ok_code[1], 1);
    s = pipeline_step(p, "ask");
    assert_int_equal(s->need[0], 0);
    assert_int_equal(s->repair, 4);
    assert_non_null(s->when);
    s = pipeline_step(p, "inner");
    assert_int_equal(s->depth, 2);
    assert_string_equal(s->parent->id, "deep");
    assert_string_equal(s->parent->parent->id, "each");
    assert_int_equal(s->number, 5);
    assert_ptr_equal(p->by_number[5], s);
    s = pipeline_step(p, "approve");
    assert_int_equal(s->n_need, 2);
    assert_int_equal(s->need[1], 3);
    assert_true(s->u.wait.reject_continues);
    assert_int_equal(pipeline_step(p, "loop")->u.agent.n_tool, 2);
    assert_int_equal(pipeline_step(p, "loop")->timeout_ms, PIPELINE_AGENT_MS_DEFAULT);
    assert_null(pipeline_step(p, "none"));
    assert_true(pipeline_comes_before(p, pipeline_step(p, "list"), pipeline_step(p, "inner")));
    assert_true(pipeline_comes_before(p, pipeline_step(p, "post"), pipeline_step(p, "inner")));
    assert_false(pipeline_comes_before(p, pipeline_step(p, "ask"), pipeline_step(p, "pause")));
    assert_false(pipeline_comes_before(p, pipeline_step(p, "sum"), pipeline_step(p, "list")));
    assert_false(pipeline_comes_before(p, pipeline_step(p, "list"), pipeline_step(p, "list")));
    pipeline_destroy(&p);
    assert_null(p);
    pipeline_destroy(&p);
}

static void test_canonical(void **state)
{
    struct pipeline *p = parse(full), *q = NULL;
    struct err err = {0};
    size_t len, len2;
    const char *text = pipeline_canonical(p, &len), *again;

    (void)state;
    if (pipeline_parse(text, len, "", "/elsewhere", &q, NULL, &err) != 0)
        fail_msg("%s\n%s", err.text, text);
    again = pipeline_canonical(q, &len2);
    assert_string_equal(text, again);
    assert_memory_equal(p->hash, q->hash, PIPELINE_HASH_BYTES);
    assert_int_equal(q->n_step, p->n_step);
    assert_non_null(strstr(text, "\"max_retries\":7"));
    pipeline_destroy(&q);
    /* Another folder, another plan; a comment changes nothing. */
    struct buf other = {0};
    buf_addf(&other, "# comment\n%s", full);
    q = parse(other.data);
    assert_memory_equal(p->hash, q->hash, PIPELINE_HASH_BYTES);
    pipeline_destroy(&q);
    assert_int_equal(pipeline_parse(full, sizeof full - 1, "f", "/b", &q, NULL, &err), 0);
    assert_memory_not_equal(p->hash, q->hash, PIPELINE_HASH_BYTES);
    pipeline_destroy(&q);
    pipeline_destroy(&p);
    buf_release(&other);
}

/* Each text is put behind "pipeline: t\n" (line 1). */
static const struct {
    const char *text;
    int line;
    const char *part;
} faults[] = {
    {"", 1, "needs steps"},
    {"stepz: []\n", 2, "a pipeline has no key 'stepz' (did you mean steps?)"},
    {"steps: []\n", 2, "steps must be a list"},
    {"steps: {}\n", 2, "steps must be a list"},
    {"steps:\n  - join: 1\n", 3, "needs an id"},
    {"steps:\n  - {id: 1a, join: 1}\n", 3, "an id has letters"},
    {"steps:\n  - {id: a, join: 1}\n  - {id: a, join: 1}\n", 4, "the id 'a' is there already, on line 3"},
    {"steps:\n  - {id: a}\n", 3, "exactly one of generate, tool"},
    {"steps:\n  - {id: a, join: 1, wait: {ms: 1}}\n", 3, "exactly one of"},
    {"steps:\n  - {id: a, join: 1, nedes: []}\n", 3, "'nedes' (did you mean needs?)"},
    {"steps:\n  - {id: a, join: 1, needs: [bcx]}\n  - {id: bcd, join: 1}\n", 3,
     "no step 'bcx' in this list (did you mean bcd?)"},
    {"steps:\n  - {id: a, join: 1, needs: [a]}\n", 3, "cannot need itself"},
    {"steps:\n  - {id: a, join: 1, needs: [b]}\n  - {id: b, join: 1, needs: [a]}\n", 4, "wait for each other"},
    {"steps:\n  - {id: a, join: 1, needs: [b]}\n  - {id: b, join: 1}\n", 4, "wait for each other"},
    {"steps:\n  - {id: a, join: '{{ steps.b.output }}'}\n  - {id: b, join: 1}\n", 3, "may not be done yet"},
    {"steps:\n  - {id: a, join: '{{ steps.a.output }}'}\n", 3, "cannot refer to itself"},
    {"steps:\n  - {id: abc, join: 1}\n  - {id: b, join: '{{ steps.abd.output }}'}\n", 4,
     "no step 'abd' (did you mean abc?)"},
    {"steps:\n  - {id: a, join: 1}\n  - {id: b, join: '{{ steps.a.outptu }}'}\n", 4,
     "no 'outptu' (did you mean output?)"},
    {"steps:\n  - {id: a, join: 1}\n  - {id: b, needs: [], join: '{{ steps.a.output }}'}\n", 4,
     "'b' must come after it"},
    {"steps:\n  - {id: m, map: {over: [1], steps: [{id: i, join: 1}]}}\n  - {id: b, join: '{{ steps.i.output }}'}\n",
     4, "stands in the map 'm': outside of it there is steps.m.output"},
    {"steps:\n  - {id: m, map: {over: [1], steps: [{id: i, join: 1}]}}\n  - {id: b, join: '{{ steps.m.output.x "
     "}}'}\n",
     4, "the output of 'm' is a list"},
    {"steps:\n  - {id: a, generate: {prompt: x}}\n  - {id: b, join: '{{ steps.a.output.x }}'}\n", 4, "is a text"},
    {"steps:\n  - {id: a, join: 1, output: {properties: {abc: true}, additionalProperties: false}}\n"
     "  - {id: b, join: '{{ steps.a.output.abx }}'}\n",
     4, "no member 'abx' by its schema (did you mean abc?)"},
    {"steps:\n  - {id: a, join: '{{ item }}'}\n", 3, "there is no 'item' here"},
    {"steps:\n  - {id: a, join: '{{ input.x }}'}\n", 3, "there is no 'input' here (did you mean inputs?)"},
    {"inputs: {abc: string}\nsteps:\n  - {id: a, join: '{{ inputs.abd }}'}\n", 4,
     "no input 'abd' (did you mean abc?)"},
    {"steps:\n  - {id: a, join: '{{ env.HOME }}'}\n", 3, "env is there in tools only"},
    {"steps:\n  - {id: a, tool: {command: [x, '{{ env.HOME }}']}}\n", 3, "env list passes on"},
    {"env: ['X={{ steps.a.output }}']\nsteps:\n  - {id: a, tool: {command: [x]}}\n", 2, "env serves all tools"},
    {"steps:\n  - {id: a, tool: {command: [x, '{{ args.y }}']}}\n", 3, "no 'args' here"},
    {"steps:\n  - {id: a, join: '{{ run.idd }}'}\n", 3, "run has id and pipeline"},
    {"steps:\n  - id: a\n    join:\n      x:\n        - 1\n        - '{{ 1 + }}'\n", 7, "no such operator"},
    {"steps:\n  - {id: a, join: 1, when: '1 =='}\n", 3, "when: column 5"},
    {"steps:\n  - {id: a, join: 1, when: '{{ true }}'}\n", 3, "without {{ }}"},
    {"steps:\n  - {id: a, join: 1, when: 1}\n", 3, "expression in quotes"},
    {"steps:\n  - {id: a, join: 1, when: steps.b.output}\n", 3, "no step 'b'"},
    {"steps:\n  - {id: a, join: 1, retry: {max: 1}}\n", 3, "a join step is not tried again"},
    {"steps:\n  - {id: a, tool: {command: [x]}, retry: {on: [canceled]}}\n", 3, "never tried again"},
    {"steps:\n  - {id: a, tool: {command: [x]}, retry: {on: [bussy]}}\n", 3, "did you mean busy?"},
    {"steps:\n  - {id: a, tool: {command: [x]}, retry: {base_ms: 10, max_ms: 5}}\n", 3, "base_ms must not be above"},
    {"steps:\n  - {id: a, tool: {command: [x]}, timeout_ms: 0}\n", 3, "timeout_ms must be within 1"},
    {"steps:\n  - {id: a, tool: {command: [x]}, timeout_ms: '5'}\n", 3,
     "timeout_ms must be a whole number, is string"},
    {"steps:\n  - {id: a, tool: {command: 'ls -l'}}\n", 3, "never goes through a shell"},
    {"steps:\n  - {id: a, tool: {command: []}}\n", 3, "command must be a list"},
    {"steps:\n  - {id: a, tool: {command: [[x]]}}\n", 3, "must be a text, is array"},
    {"steps:\n  - {id: a, tool: {}}\n", 3, "either command or http"},
    {"steps:\n  - {id: a, tool: {command: [x], http: {url: 'http://x'}}}\n", 3, "either command or http"},
    {"steps:\n  - {id: a, tool: {command: [x], returns: xml}}\n", 3, "returns must be json or text"},
    {"steps:\n  - {id: a, tool: {command: [x], exit_codes: {ok: [0], retry: [0]}}}\n", 3, "both ok and retry"},
    {"steps:\n  - {id: a, tool: {command: [x], exit_codes: {ok: [256]}}}\n", 3, "within 0 and 255"},
    {"steps:\n  - {id: a, tool: {command: [x], env: ['1X']}}\n", 3, "an entry of env"},
    {"steps:\n  - {id: a, tool: {command: [x], env: [BATON_RUN]}}\n", 3, "BATON_"},
    {"steps:\n  - {id: a, tool: {command: [x], env: [A, 'A=1']}}\n", 3, "A twice"},
    {"steps:\n  - {id: a, tool: {http: {url: 'ftp://x'}}}\n", 3, "http:// or https://"},
    {"steps:\n  - {id: a, tool: {http: {url: 'http://x', headers: {Host: y}}}}\n", 3, "set by the controller"},
    {"steps:\n  - {id: a, tool: {http: {url: 'http://x', method: GET, body: 1}}}\n", 3, "GET has no body"},
    {"steps:\n  - {id: a, tool: {http: {url: 'http://x'}, dir: x}}\n", 3, "dir belongs to a command"},
    {"steps:\n  - {id: a, tool: {command: [x], name: y}}\n", 3, "no key 'name'"},
    {"steps:\n  - {id: a, generate: {}}\n", 3, "either prompt"},
    {"steps:\n  - {id: a, generate: hello}\n", 3, "must be an object"},
    {"steps:\n  - {id: a, generate: {prompt: x, temperature: 3}}\n", 3,
     "temperature must be a number within 0 and 2"},
    {"steps:\n  - {id: a, generate: {prompt: x, max_tokens: 1.5}}\n", 3, "max_tokens must be a whole number"},
    {"steps:\n  - {id: a, generate: {prompt: x, temprature: 1}}\n", 3, "did you mean temperature?"},
    {"steps:\n  - {id: a, generate: {messages: [{role: me, content: x}]}}\n", 3,
     "role must be system, user or assistant"},
    {"steps:\n  - {id: a, generate: {prompt: x}, repair: 1}\n", 3, "repair belongs"},
    {"steps:\n  - id: a\n    generate: {prompt: x}\n    output:\n      type: object\n      properties:\n        n: "
     "{typ: x}\n",
     8, "properties.n.typ: this keyword"},
    {"steps:\n  - {id: m, map: {steps: [{id: i, join: 1}]}}\n", 3, "one of over"},
    {"steps:\n  - {id: m, map: {over: [1], jsonl: x, steps: [{id: i, join: 1}]}}\n", 3, "one of over"},
    {"steps:\n  - {id: m, map: {over: abc, steps: [{id: i, join: 1}]}}\n", 3, "over must be a list"},
    {"steps:\n  - {id: m, map: {over: [1]}}\n", 3, "map needs steps"},
    {"steps:\n  - {id: m, map: {over: [1], as: inputs, steps: [{id: i, join: 1}]}}\n", 3, "is taken"},
    {"steps:\n  - {id: a, wait: {}}\n", 3, "either ms"},
    {"steps:\n  - {id: a, wait: {ms: -1}}\n", 3, "within 0"},
    {"steps:\n  - {id: a, wait: {ms: soon}}\n", 3, "must be a number of milliseconds"},
    {"steps:\n  - {id: a, wait: {ms: 1, show: 1}}\n", 3, "belong to approval"},
    {"steps:\n  - {id: a, agent: {prompt: x}}\n", 3, "agent needs tools"},
    {"steps:\n  - {id: a, agent: {prompt: x, tools: [{name: t, command: [x]}]}}\n", 3, "needs parameters"},
    {"steps:\n  - {id: a, agent: {prompt: x, tools: [{parameters: {type: object}, command: [x]}]}}\n", 3,
     "needs a name"},
    {"steps:\n  - {id: a, agent: {prompt: x, tools: [{name: t, parameters: {type: object}, command: [x]}, {name: t, "
     "parameters: {type: object}, command: [x]}]}}\n",
     3, "'t' is there already"},
    {"inputs: {n: {type: integer, default: x}}\nsteps:\n  - {id: a, join: 1}\n", 2, "the default does not fit"},
    {"inputs: {n: intger}\nsteps:\n  - {id: a, join: 1}\n", 2, "no such type; did you mean integer"},
    {"limits: {deadline: 5}\nsteps:\n  - {id: a, join: 1}\n", 2, "did you mean deadline_ms?"},
    {"steps:\n  - {id: a, join: 1}\nresult: '{{ steps.b.output }}'\n", 4, "no step 'b'"},
    {"steps:\n  - {id: a, join: &x 1}\n", 3, "anchors"},
};

static void test_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(faults); i++) {
        struct pipeline *p = NULL;
        struct buf text = {0}, report = {0};
        struct err err = {0};
        char at[32];
        buf_addf(&text, "pipeline: t\n%s", faults[i].text);
        snprintf(at, sizeof at, "f.yaml:%d: ", faults[i].line);
        int rc = pipeline_parse(text.data, text.len, "f.yaml", "/", &p, &report, &err);
        if (rc == 0 || strncmp(err.text, at, strlen(at)) != 0 || !strstr(err.text, faults[i].part))
            fail_msg("%s\nwanted %s%s, got %d\n%s", text.data, at, faults[i].part, rc, report.data);
        assert_null(p);
        assert_memory_equal(report.data, err.text, strlen(err.text));
        buf_release(&text);
        buf_release(&report);
    }
}

static void test_many_faults(void **state)
{
    struct pipeline *p = NULL;
    struct buf text = {0}, report = {0};
    struct err err = {0};
    int n = 0;

    (void)state;
    buf_add_str(&text, "pipeline: t\nsteps:\n");
    for (int i = 0; i < 100; i++)
        buf_addf(&text, "  - {id: a%d, jion: 1}\n", i);
    assert_int_equal(pipeline_parse(text.data, text.len, "f", "/", &p, &report, &err), ERR_FORMAT);
    for (const char *at = report.data; (at = strchr(at, '\n')); at++)
        n++;
    assert_int_equal(n, PIPELINE_FAULTS_MAX);
    buf_clear(&text);
    buf_add_str(&text, "pipeline: t\nsteps:\n");
    for (int i = 0; i <= PIPELINE_STEPS_MAX; i++)
        buf_addf(&text, "  - {id: a%d, join: 1}\n", i);
    assert_int_equal(pipeline_parse(text.data, text.len, "f", "/", &p, NULL, &err), ERR_FORMAT);
    assert_string_equal(err.text, "f:2: more than 256 steps");
    buf_clear(&text);
    buf_add_str(&text, "pipeline: t\nsteps: ");
    for (int i = 0; i < 5; i++)
        buf_addf(&text, "[{id: m%d, map: {over: [1], steps: ", i);
    buf_add_str(&text, "[{id: x, join: 1}]}}]}}]}}]}}]}}]");
    assert_int_equal(pipeline_parse(text.data, text.len, "f", "/", &p, NULL, &err), ERR_FORMAT);
    assert_string_equal(err.text, "f:2: more than 4 maps in each other");
    buf_release(&text);
    buf_release(&report);
}

/* docs/pipeline.schema.json says of the texts above what the parser says, as far as a schema can. */
static void test_format_schema(void **state)
{
    struct arena arena = {0};
    struct schema *s = NULL;
    struct buf text = {0}, report = {0};
    const struct json *source, *doc;
    struct err err = {0};
    int line, n_refused = 0;

    (void)state;
    assert_int_equal(file_read(BATON_SOURCE_DIR "/docs/pipeline.schema.json", 1 << 20, &text, &err), 0);
    if (json_parse(text.data, text.len, 0, &arena, &source, &err) != 0 || schema_parse(source, &s, NULL, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(doc_parse(full, sizeof full - 1, &arena, &doc, &line, &err), 0);
    if (schema_check(s, doc, &report))
        fail_msg("%s", report.data);
    struct pipeline *p = parse(full); /* the canonical text is in the format too */
    assert_int_equal(doc_parse(p->canonical, p->canonical_len, &arena, &doc, &line, &err), 0);
    if (schema_check(s, doc, &report))
        fail_msg("%s", report.data);
    pipeline_destroy(&p);
    for (size_t i = 0; i < N_ELEM(faults); i++) {
        buf_clear(&text);
        buf_addf(&text, "pipeline: t\n%s", faults[i].text);
        if (doc_parse(text.data, text.len, &arena, &doc, &line, &err) == 0)
            n_refused += schema_check(s, doc, NULL) > 0;
    }
    assert_true(n_refused >= 40); /* of 80; the others are about references, order and values that belong together */
    schema_destroy(&s);
    buf_release(&text);
    buf_release(&report);
    arena_release(&arena);
}

static void assert_inputs(const struct pipeline *p, const char *given, const char *want)
{
    struct arena arena = {0};
    const struct json *j = NULL, *full_inputs;
    struct buf out = {0};
    struct err err = {0};

    if (given)
        assert_int_equal(json_parse(given, strlen(given), 0, &arena, &j, &err), 0);
    if (pipeline_inputs(p, j, &arena, &full_inputs, &err) == 0)
        json_add(&out, full_inputs);
    else
        buf_add_str(&out, err.text);
    assert_string_equal(out.data, want);
    buf_release(&out);
    arena_release(&arena);
}

static void assert_text(const struct pipeline *p, const char *name, const char *text, const char *want)
{
    struct arena arena = {0};
    const struct json *v;
    struct buf out = {0};
    struct err err = {0};

    if (pipeline_input_text(p, name, text, strlen(text), &arena, &v, &err) == 0)
        json_add(&out, v);
    else
        buf_add_str(&out, err.text);
    assert_string_equal(out.data, want);
    buf_release(&out);
    arena_release(&arena);
}

static void test_inputs(void **state)
{
    struct pipeline *p = parse(full);

    (void)state;
    assert_inputs(p, "{\"name\":\"x\"}", "{\"name\":\"x\",\"n\":3,\"any\":{\"a\":[1]}}");
    assert_inputs(p, "{\"any\":null,\"n\":5,\"name\":\"x\"}", "{\"name\":\"x\",\"n\":5,\"any\":null}");
    assert_inputs(p, NULL, "pipeline all needs the input 'name'");
    assert_inputs(p, "{\"name\":1}", "input 'name' does not fit: (root): must be a string, is the number 1");
    assert_inputs(p, "{\"name\":\"x\",\"n\":0}", "input 'n' does not fit: (root): must be at least 1, is the number 0");
    assert_inputs(p, "{\"nme\":1}", "pipeline all has no input 'nme'; it has name, n, any");
    assert_inputs(p, "[]", "the inputs must be an object, got array");
    assert_text(p, "name", "12", "\"12\"");
    assert_text(p, "n", "12", "12");
    assert_text(p, "n", "x", "input 'n' is no JSON: JSON line 1 column 1: a value is expected");
    assert_text(p, "any", "[1]", "[1]");
    assert_text(p, "any", "abc", "\"abc\"");
    assert_text(p, "zz", "1", "pipeline all has no input 'zz'; it has name, n, any");
    pipeline_destroy(&p);
}

static void test_load(void **state)
{
    char path[] = "/tmp/pipeline_test_XXXXXX";
    struct pipeline *p = NULL;
    struct err err = {0};
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, full, sizeof full - 1), sizeof full - 1);
    close(fd);
    assert_int_equal(pipeline_load(path, &p, NULL, &err), 0);
    assert_string_equal(p->dir, "/tmp/work");
    pipeline_destroy(&p);
    assert_int_equal(pipeline_check_file(path, false), 0);
    assert_int_equal(pipeline_check_file(path, true), 0);
    unlink(path);
    assert_int_equal(pipeline_load(path, &p, NULL, &err), ERR_MISSING);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(pipeline_check_file(path, false), ERR_MISSING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),        cmocka_unit_test(test_canonical), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_many_faults), cmocka_unit_test(test_inputs),    cmocka_unit_test(test_load),
        cmocka_unit_test(test_format_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
