/* Proves: each keyword accepts and refuses what draft 2020-12 says, with a path and reason for a reader; unknown
 * keywords, broken schemas and circles are refused by name when they are read; hostile schemas and values end. How:
 * rows of schema, value and report. */
#include "controller/agent/plan/schema.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

static struct arena arena;

static const struct json *parse(const char *text)
{
    const struct json *j = NULL;
    struct err err = {0};

    if (json_parse(text, strlen(text), 0, &arena, &j, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return j;
}

static const struct {
    const char *schema, *value, *report; /* report "" : it fits */
} rows[] = {
    {"true", "1", ""},
    {"false", "1", "(root): nothing may stand here, is the number 1\n"},
    {"{}", "[]", ""},
    {"{'type':'integer'}", "1.0", ""},
    {"{'type':'integer'}", "1.5", "(root): must be a whole number, is the number 1.5\n"},
    {"{'type':'number'}", "1", ""},
    {"{'type':['string','null']}", "null", ""},
    {"{'type':['string','null']}", "1", "(root): must be null or a string, is the number 1\n"},
    {"{'type':'boolean'}", "'true'", "(root): must be true or false, is the string \"true\"\n"},
    {"{'enum':[1,'a',null]}", "1.0", ""},
    {"{'enum':[1,'a']}", "2", "(root): must be one of [1,\"a\"], is the number 2\n"},
    {"{'const':{'a':[1]}}", "{'a':[1]}", ""},
    {"{'const':null}", "0", "(root): must be null, is the number 0\n"},
    {"{'properties':{'a':{'type':'string'}},'required':['a','b']}", "{'a':1}",
     "(root): the member 'b' is missing\n/a: must be a string, is the number 1\n"},
    {"{'properties':{'a':true},'additionalProperties':false}", "{'a':1,'b/c~':2}",
     "/b~1c~0: there is no such member; leave it out\n"},
    {"{'additionalProperties':{'type':'integer'}}", "{'a':1,'b':'x'}",
     "/b: must be a whole number, is the string \"x\"\n"},
    {"{'required':['a']}", "[1]", ""}, /* says nothing of lists */
    {"{'propertyNames':{'pattern':'^[a-z]+$'}}", "{'ab':1,'A':2}", "/A: this name is not allowed\n"},
    {"{'minProperties':1,'maxProperties':1}", "{}", "(root): must have at least 1 members, has 0\n"},
    {"{'minProperties':1,'maxProperties':1}", "{'a':1,'b':1}", "(root): must have at most 1 members, has 2\n"},
    {"{'items':{'type':'integer'}}", "[1,'x',2,null]",
     "/1: must be a whole number, is the string \"x\"\n/3: must be a whole number, is null\n"},
    {"{'prefixItems':[{'type':'string'}],'items':false}", "['a']", ""},
    {"{'prefixItems':[{'type':'string'}],'items':false}", "['a',1]", "/1: nothing may stand here, is the number 1\n"},
    {"{'minItems':2,'maxItems':3}", "[1]", "(root): must have at least 2 elements, has 1\n"},
    {"{'minItems':2,'maxItems':3}", "[1,2,3,4]", "(root): must have at most 3 elements, has 4\n"},
    {"{'uniqueItems':true}", "[1,2,1.0]", "/2: stands in the list twice, is the number 1.0\n"},
    {"{'minLength':2,'maxLength':3}", "'\xC3\xA9\xC3\xA9'", ""},
    {"{'minLength':2}", "'\xC3\xA9'", "(root): must have at least 2 characters, is the string \"\xC3\xA9\"\n"},
    {"{'maxLength':1}", "'ab'", "(root): must have at most 1 characters, has 2, is the string \"ab\"\n"},
    {"{'pattern':'^\\\\d{2}$'}", "'12'", ""},
    {"{'pattern':'b'}", "'abc'", ""},
    {"{'pattern':'^b'}", "'abc'", "(root): must match the pattern ^b, is the string \"abc\"\n"},
    {"{'pattern':'^a$'}", "'a\\n'", "(root): must match the pattern ^a$, is the string \"a\\n\"\n"},
    {"{'minimum':1,'maximum':2}", "1", ""},
    {"{'minimum':1}", "0.99", "(root): must be at least 1, is the number 0.99\n"},
    {"{'maximum':9007199254740992}", "9007199254740993",
     "(root): must be at most 9007199254740992, is the number 9007199254740993\n"},
    {"{'exclusiveMinimum':1}", "1", "(root): must be above 1, is the number 1\n"},
    {"{'exclusiveMaximum':1}", "1", "(root): must be below 1, is the number 1\n"},
    {"{'multipleOf':0.1}", "0.3", ""},
    {"{'multipleOf':3}", "7", "(root): must be a multiple of 3, is the number 7\n"},
    {"{'anyOf':[{'type':'string'},{'minimum':5}]}", "6", ""},
    {"{'anyOf':[{'type':'string'},{'type':'number','minimum':5}]}", "4",
     "(root): fits none of the 2 schemas of anyOf; the nearest asks:\n(root): must be a string, is the number 4\n"},
    {"{'oneOf':[{'type':'integer'},{'minimum':5}]}", "6",
     "(root): must fit exactly one of the 2 schemas of oneOf, fits 2\n"},
    {"{'oneOf':[{'type':'integer'},{'minimum':5}]}", "4", ""},
    {"{'allOf':[{'minimum':1},{'maximum':2}]}", "3", "(root): must be at most 2, is the number 3\n"},
    {"{'not':{'type':'null'}}", "null", "(root): must not fit the schema of 'not', is null\n"},
    {"{'not':{'type':'null'}}", "1", ""},
    {"{'$defs':{'p':{'minimum':0}},'items':{'$ref':'#/$defs/p'}}", "[1,-1]",
     "/1: must be at least 0, is the number -1\n"},
    {"{'$ref':'#/definitions/a~1b','definitions':{'a/b':{'type':'string'}}}", "1",
     "(root): must be a string, is the number 1\n"},
    {"{'type':'object','properties':{'next':{'$ref':'#'}},'additionalProperties':false}", "{'next':{'next':{'x':1}}}",
     "/next/next/x: there is no such member; leave it out\n"},
    {"{'title':'t','description':'d','default':1,'examples':[],'format':'date','$schema':'x','$id':'y','deprecated':"
     "true}",
     "1", ""},
};

/* ' stands for " in the tables. */
static const struct json *parse_quoted(const char *text)
{
    struct buf b = {0};

    buf_add_str(&b, text);
    for (size_t i = 0; i < b.len; i++)
        if (b.data[i] == '\'')
            b.data[i] = '"';
    const struct json *j = parse(b.data);
    buf_release(&b);
    return j;
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct schema *s = NULL;
        struct buf report = {0};
        struct err err = {0};
        int n_line = 0;
        if (schema_parse(parse_quoted(rows[i].schema), &s, NULL, &err) != 0)
            fail_msg("%s: %s", rows[i].schema, err.text);
        int n = schema_check(s, parse_quoted(rows[i].value), &report);
        if (strcmp(report.len ? report.data : "", rows[i].report) != 0)
            fail_msg("%s\n%s:\n%s", rows[i].schema, rows[i].value, report.data);
        for (const char *p = rows[i].report; *p; p++)
            n_line += *p == '\n';
        assert_int_equal(n, n_line);
        assert_int_equal(schema_check(s, parse_quoted(rows[i].value), NULL), n);
        schema_destroy(&s);
        assert_null(s);
        buf_release(&report);
    }
    arena_release(&arena);
}

static void test_refused(void **state)
{
    static const struct {
        const char *schema;
        int code;
        const char *text;
    } bad[] = {
        {"1", ERR_FORMAT, "a schema is an object, true or false"},
        {"{'properties':{'a':{'typ':'string'}}}", ERR_UNSUPPORTED,
         "properties.a.typ: this keyword of JSON Schema is not known here; did you mean type?"},
        {"{'if':true}", ERR_UNSUPPORTED, "if: this keyword"},
        {"{'patternProperties':{}}", ERR_UNSUPPORTED, "patternProperties: this keyword"},
        {"{'type':'strin'}", ERR_FORMAT, "type: no such type; did you mean string"},
        {"{'type':[]}", ERR_FORMAT, "type: must be the name"},
        {"{'enum':[]}", ERR_FORMAT, "enum: must be a list"},
        {"{'required':[1]}", ERR_FORMAT, "required: must be a list of names"},
        {"{'minLength':-1}", ERR_FORMAT, "minLength: must be a whole number"},
        {"{'minimum':'1'}", ERR_FORMAT, "minimum: must be a number"},
        {"{'multipleOf':0}", ERR_FORMAT, "multipleOf must be above 0"},
        {"{'pattern':'(a'}", ERR_FORMAT, "pattern: at character 3"},
        {"{'anyOf':[]}", ERR_FORMAT, "anyOf: must be a list"},
        {"{'items':[true]}", ERR_FORMAT, "items: a schema is an object"},
        {"{'$ref':'#/$defs/x'}", ERR_MISSING, "#/$defs/x leads to no schema"},
        {"{'$ref':'http://x/y'}", ERR_UNSUPPORTED, "within the schema"},
        {"{'$ref':'#'}", ERR_FORMAT, "back to itself"},
        {"{'$defs':{'a':{'allOf':[{'$ref':'#/$defs/b'}]},'b':{'not':{'$ref':'#/$defs/a'}}}}", ERR_FORMAT,
         "back to itself"},
        {"{'uniqueItems':1}", ERR_FORMAT, "uniqueItems: must be true or false"},
    };

    (void)state;
    for (size_t i = 0; i < N_ELEM(bad); i++) {
        struct schema *s = NULL;
        const struct json *where = NULL;
        struct err err = {0};
        int rc = schema_parse(parse_quoted(bad[i].schema), &s, &where, &err);
        if (rc != bad[i].code || !strstr(err.text, bad[i].text))
            fail_msg("%s: %d %s", bad[i].schema, rc, err.text);
        assert_null(s);
        assert_non_null(where);
    }
    arena_release(&arena);
}

static void test_hostile(void **state)
{
    struct schema *s = NULL;
    struct buf b = {0}, report = {0};
    struct err err = {0};

    (void)state;
    /* Twenty levels of anyOf, two ways each. */
    buf_add_str(&b, "{\"$defs\":{\"z\":{\"type\":\"string\"}");
    for (int i = 0; i < 20; i++) {
        char next[16];
        snprintf(next, sizeof next, i == 19 ? "z" : "d%d", i + 1);
        buf_addf(&b, ",\"d%d\":{\"oneOf\":[{\"$ref\":\"#/$defs/%s\"},{\"$ref\":\"#/$defs/%s\"}]}", i, next, next);
    }
    buf_add_str(&b, "},\"$ref\":\"#/$defs/d0\"}");
    int rc = schema_parse(parse(b.data), &s, NULL, &err);
    if (rc == 0) { /* within the depth: then the steps are bounded */
        assert_true(schema_check(s, parse("1"), &report) > 0);
        assert_non_null(strstr(report.data, "steps"));
    } else {
        assert_int_equal(rc, ERR_LIMIT);
    }
    schema_destroy(&s);
    /* A pattern that backtracks for ever. */
    buf_clear(&report);
    assert_int_equal(schema_parse(parse("{\"pattern\":\"^(a+)+$\"}"), &s, NULL, &err), 0);
    assert_int_equal(schema_check(s, parse("\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\""), &report), 1);
    assert_non_null(strstr(report.data, "cannot be matched"));
    schema_destroy(&s);
    /* A large list that must be unique; many faults. */
    buf_clear(&b);
    buf_clear(&report);
    buf_add_char(&b, '[');
    for (int i = 0; i < 20000; i++)
        buf_addf(&b, "%s%d", i ? "," : "", i);
    buf_add_char(&b, ']');
    assert_int_equal(schema_parse(parse("{\"uniqueItems\":true}"), &s, NULL, &err), 0);
    assert_int_equal(schema_check(s, parse(b.data), &report), 1);
    assert_non_null(strstr(report.data, "steps"));
    schema_destroy(&s);
    buf_clear(&report);
    assert_int_equal(schema_parse(parse("{\"items\":{\"type\":\"string\"}}"), &s, NULL, &err), 0);
    assert_int_equal(schema_check(s, parse(b.data), &report), SCHEMA_FAULTS_MAX);
    schema_destroy(&s);
    /* Schemas in schemas. */
    buf_clear(&b);
    for (int i = 0; i < 60; i++)
        buf_add_str(&b, "{\"items\":");
    buf_add_str(&b, "true");
    for (int i = 0; i < 60; i++)
        buf_add_char(&b, '}');
    assert_int_equal(schema_parse(parse(b.data), &s, NULL, &err), ERR_LIMIT);
    buf_release(&b);
    buf_release(&report);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
